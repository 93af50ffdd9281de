// Sixteen floats at a time for each instruction set that we compile for.
// A kernel written with these reads the same everywhere; HERD_ISA says which set a translation unit is built for.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"
#include "layout.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

namespace herd::HERD_ISA {

// A Vector is the float vector that the hardware has; an F32x16 is VECTORS of them.
#if defined(__AVX512F__)

constexpr int VECTORS = 1;
struct Vector {
  __m512 v;
};
HERD_INLINE Vector vector_set(float x) { return {_mm512_set1_ps(x)}; }
HERD_INLINE Vector vector_load(const float* p) { return {_mm512_loadu_ps(p)}; }
HERD_INLINE Vector vector_half(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
HERD_INLINE Vector vector_int8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
HERD_INLINE Vector vector_bf16(const uint16_t* p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
HERD_INLINE void vector_store(float* p, Vector a) { _mm512_storeu_ps(p, a.v); }
HERD_INLINE void vector_store_half(uint16_t* p, Vector a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
HERD_INLINE void vector_store_int8(int8_t* p, Vector a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
HERD_INLINE Vector operator+(Vector a, Vector b) { return {_mm512_add_ps(a.v, b.v)}; }
HERD_INLINE Vector operator-(Vector a, Vector b) { return {_mm512_sub_ps(a.v, b.v)}; }
HERD_INLINE Vector operator*(Vector a, Vector b) { return {_mm512_mul_ps(a.v, b.v)}; }
HERD_INLINE Vector operator/(Vector a, Vector b) { return {_mm512_div_ps(a.v, b.v)}; }
HERD_INLINE Vector fma(Vector a, Vector b, Vector c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
HERD_INLINE Vector max(Vector a, Vector b) { return {_mm512_max_ps(a.v, b.v)}; }
HERD_INLINE Vector min(Vector a, Vector b) { return {_mm512_min_ps(a.v, b.v)}; }
HERD_INLINE Vector abs(Vector a) { return {_mm512_abs_ps(a.v)}; }
HERD_INLINE Vector round(Vector a) { return {_mm512_roundscale_ps(a.v, 0)}; }
HERD_INLINE Vector exponent(Vector n) {  // 2^n for whole n
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}

#elif defined(__AVX2__)

constexpr int VECTORS = 2;
struct Vector {
  __m256 v;
};
HERD_INLINE Vector vector_set(float x) { return {_mm256_set1_ps(x)}; }
HERD_INLINE Vector vector_load(const float* p) { return {_mm256_loadu_ps(p)}; }
HERD_INLINE __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
HERD_INLINE Vector vector_half(const uint16_t* p) { return {_mm256_cvtph_ps(load_128(p))}; }
HERD_INLINE Vector vector_int8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
HERD_INLINE Vector vector_bf16(const uint16_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16))};
}
HERD_INLINE void vector_store(float* p, Vector a) { _mm256_storeu_ps(p, a.v); }
HERD_INLINE void vector_store_half(uint16_t* p, Vector a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
HERD_INLINE void vector_store_int8(int8_t* p, Vector a) {
  __m256i wide = _mm256_cvtps_epi32(a.v);
  __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
HERD_INLINE Vector operator+(Vector a, Vector b) { return {_mm256_add_ps(a.v, b.v)}; }
HERD_INLINE Vector operator-(Vector a, Vector b) { return {_mm256_sub_ps(a.v, b.v)}; }
HERD_INLINE Vector operator*(Vector a, Vector b) { return {_mm256_mul_ps(a.v, b.v)}; }
HERD_INLINE Vector operator/(Vector a, Vector b) { return {_mm256_div_ps(a.v, b.v)}; }
HERD_INLINE Vector fma(Vector a, Vector b, Vector c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
HERD_INLINE Vector max(Vector a, Vector b) { return {_mm256_max_ps(a.v, b.v)}; }
HERD_INLINE Vector min(Vector a, Vector b) { return {_mm256_min_ps(a.v, b.v)}; }
HERD_INLINE Vector abs(Vector a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
HERD_INLINE Vector round(Vector a) { return {_mm256_round_ps(a.v, 0)}; }
HERD_INLINE Vector exponent(Vector n) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23))};
}

#elif defined(__ARM_FEATURE_DOTPROD)

constexpr int VECTORS = 4;
struct Vector {
  float32x4_t v;
};
HERD_INLINE Vector vector_set(float x) { return {vdupq_n_f32(x)}; }
HERD_INLINE Vector vector_load(const float* p) { return {vld1q_f32(p)}; }
HERD_INLINE Vector vector_half(const uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
HERD_INLINE Vector vector_int8(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)))};
}
HERD_INLINE Vector vector_bf16(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
HERD_INLINE void vector_store(float* p, Vector a) { vst1q_f32(p, a.v); }
HERD_INLINE void vector_store_half(uint16_t* p, Vector a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a.v))); }
HERD_INLINE void vector_store_int8(int8_t* p, Vector a) {
  int16x4_t narrow = vqmovn_s32(vcvtnq_s32_f32(a.v));
  int32_t four = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(narrow, narrow))), 0);
  std::memcpy(p, &four, 4);
}
HERD_INLINE Vector operator+(Vector a, Vector b) { return {vaddq_f32(a.v, b.v)}; }
HERD_INLINE Vector operator-(Vector a, Vector b) { return {vsubq_f32(a.v, b.v)}; }
HERD_INLINE Vector operator*(Vector a, Vector b) { return {vmulq_f32(a.v, b.v)}; }
HERD_INLINE Vector operator/(Vector a, Vector b) { return {vdivq_f32(a.v, b.v)}; }
HERD_INLINE Vector fma(Vector a, Vector b, Vector c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
HERD_INLINE Vector max(Vector a, Vector b) { return {vmaxq_f32(a.v, b.v)}; }
HERD_INLINE Vector min(Vector a, Vector b) { return {vminq_f32(a.v, b.v)}; }
HERD_INLINE Vector abs(Vector a) { return {vabsq_f32(a.v)}; }
HERD_INLINE Vector round(Vector a) { return {vrndnq_f32(a.v)}; }
HERD_INLINE Vector exponent(Vector n) {
  return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v), vdupq_n_s32(127)), 23))};
}

#else

// Plain C++: the compiler vectorizes these loops with whatever the target has.
constexpr int VECTORS = 4;
struct Vector {
  float v[4];
};
#define HERD_EACH(expression)                         \
  Vector out;                                           \
  for (int i = 0; i < 4; i++) out.v[i] = (expression); \
  return out
HERD_INLINE float bf16_to_float(uint16_t h) {
  uint32_t bits = uint32_t(h) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
HERD_INLINE Vector vector_set(float x) { HERD_EACH(x); }
HERD_INLINE Vector vector_load(const float* p) { HERD_EACH(p[i]); }
HERD_INLINE Vector vector_half(const uint16_t* p) { HERD_EACH(half_to_float(p[i])); }
HERD_INLINE Vector vector_int8(const int8_t* p) { HERD_EACH(float(p[i])); }
HERD_INLINE Vector vector_bf16(const uint16_t* p) { HERD_EACH(bf16_to_float(p[i])); }
HERD_INLINE void vector_store(float* p, Vector a) { std::memcpy(p, a.v, sizeof a.v); }
HERD_INLINE void vector_store_half(uint16_t* p, Vector a) {
  for (int i = 0; i < 4; i++) p[i] = float_to_half(a.v[i]);
}
HERD_INLINE void vector_store_int8(int8_t* p, Vector a) {
  for (int i = 0; i < 4; i++) p[i] = int8_t(std::nearbyint(a.v[i] < -128 ? -128 : a.v[i] > 127 ? 127 : a.v[i]));
}
HERD_INLINE Vector operator+(Vector a, Vector b) { HERD_EACH(a.v[i] + b.v[i]); }
HERD_INLINE Vector operator-(Vector a, Vector b) { HERD_EACH(a.v[i] - b.v[i]); }
HERD_INLINE Vector operator*(Vector a, Vector b) { HERD_EACH(a.v[i] * b.v[i]); }
HERD_INLINE Vector operator/(Vector a, Vector b) { HERD_EACH(a.v[i] / b.v[i]); }
HERD_INLINE Vector fma(Vector a, Vector b, Vector c) { HERD_EACH(a.v[i] * b.v[i] + c.v[i]); }
HERD_INLINE Vector max(Vector a, Vector b) { HERD_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
HERD_INLINE Vector min(Vector a, Vector b) { HERD_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
HERD_INLINE Vector abs(Vector a) { HERD_EACH(std::fabs(a.v[i])); }
HERD_INLINE Vector round(Vector a) { HERD_EACH(std::nearbyint(a.v[i])); }
HERD_INLINE Vector exponent(Vector n) { HERD_EACH(std::ldexp(1.0f, int(n.v[i]))); }
#undef HERD_EACH

#endif

constexpr int LANES = 16 / VECTORS;
struct F32x16 {
  Vector p[VECTORS];
};
#define HERD_VECTORS(expression)                            \
  F32x16 out;                                               \
  for (int i = 0; i < VECTORS; i++) out.p[i] = (expression); \
  return out
HERD_INLINE F32x16 set(float x) { HERD_VECTORS(vector_set(x)); }
HERD_INLINE F32x16 zero() { return set(0.0f); }
HERD_INLINE F32x16 load(const float* s) { HERD_VECTORS(vector_load(s + i * LANES)); }
HERD_INLINE F32x16 load_half(const uint16_t* s) { HERD_VECTORS(vector_half(s + i * LANES)); }
HERD_INLINE F32x16 load_int8(const int8_t* s) { HERD_VECTORS(vector_int8(s + i * LANES)); }
HERD_INLINE F32x16 load_bf16(const uint16_t* s) { HERD_VECTORS(vector_bf16(s + i * LANES)); }
HERD_INLINE F32x16 operator+(F32x16 a, F32x16 b) { HERD_VECTORS(a.p[i] + b.p[i]); }
HERD_INLINE F32x16 operator-(F32x16 a, F32x16 b) { HERD_VECTORS(a.p[i] - b.p[i]); }
HERD_INLINE F32x16 operator*(F32x16 a, F32x16 b) { HERD_VECTORS(a.p[i] * b.p[i]); }
HERD_INLINE F32x16 operator/(F32x16 a, F32x16 b) { HERD_VECTORS(a.p[i] / b.p[i]); }
HERD_INLINE F32x16 fma(F32x16 a, F32x16 b, F32x16 c) { HERD_VECTORS(fma(a.p[i], b.p[i], c.p[i])); }
HERD_INLINE F32x16 max(F32x16 a, F32x16 b) { HERD_VECTORS(max(a.p[i], b.p[i])); }
HERD_INLINE F32x16 min(F32x16 a, F32x16 b) { HERD_VECTORS(min(a.p[i], b.p[i])); }
HERD_INLINE F32x16 abs(F32x16 a) { HERD_VECTORS(abs(a.p[i])); }
HERD_INLINE F32x16 round(F32x16 a) { HERD_VECTORS(round(a.p[i])); }
HERD_INLINE F32x16 exponent(F32x16 a) { HERD_VECTORS(exponent(a.p[i])); }
#undef HERD_VECTORS
HERD_INLINE void store(float* d, F32x16 a) {
  for (int i = 0; i < VECTORS; i++) vector_store(d + i * LANES, a.p[i]);
}
HERD_INLINE void store_half(uint16_t* d, F32x16 a) {
  for (int i = 0; i < VECTORS; i++) vector_store_half(d + i * LANES, a.p[i]);
}
HERD_INLINE void store_int8(int8_t* d, F32x16 a) {
  for (int i = 0; i < VECTORS; i++) vector_store_int8(d + i * LANES, a.p[i]);
}

// The sum and the maximum of all sixteen: halves are folded onto each other, in the same order on every instruction set.
#if defined(__AVX2__)
struct Sum {
  HERD_INLINE static __m256 of(__m256 a, __m256 b) { return _mm256_add_ps(a, b); }
  HERD_INLINE static __m128 of(__m128 a, __m128 b) { return _mm_add_ps(a, b); }
};
struct Largest {
  HERD_INLINE static __m256 of(__m256 a, __m256 b) { return _mm256_max_ps(a, b); }
  HERD_INLINE static __m128 of(__m128 a, __m128 b) { return _mm_max_ps(a, b); }
};
template <class F>
HERD_INLINE float folded(F32x16 a) {
#if defined(__AVX512F__)
  __m256 eight = F::of(_mm512_castps512_ps256(a.p[0].v), _mm512_extractf32x8_ps(a.p[0].v, 1));
#else
  __m256 eight = F::of(a.p[0].v, a.p[1].v);
#endif
  __m128 four = F::of(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = F::of(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(F::of(two, _mm_movehdup_ps(two)));
}
#else
struct Sum {
  HERD_INLINE static float of(float a, float b) { return a + b; }
};
struct Largest {
  HERD_INLINE static float of(float a, float b) { return a > b ? a : b; }
};
template <class F>
HERD_INLINE float folded(F32x16 a) {
  float v[16];
  store(v, a);
  for (int step = 8; step; step /= 2)
    for (int i = 0; i < step; i++) v[i] = F::of(v[i], v[i + step]);
  return v[0];
}
#endif
HERD_INLINE float sum(F32x16 a) { return folded<Sum>(a); }
HERD_INLINE float largest(F32x16 a) { return folded<Largest>(a); }

// Fetch what comes soon into the second-level cache; floats are left to the hardware.
template <class T>
HERD_INLINE void fetch(const T* p, int numbers) {
  if constexpr (sizeof(T) < sizeof(float))
    for (int at = 0; at < numbers; at += int(64 / sizeof(T))) __builtin_prefetch(p + at, 0, 2);
}

// e^x to about 2e-7 relative; 0 below -87. Cephes' expf: x = n ln 2 + r, a polynomial for e^r, times 2^n.
HERD_INLINE F32x16 exp(F32x16 x) {
  x = max(min(x, set(88.0f)), set(-87.3f));
  F32x16 n = round(x * set(1.44269504088896341f));
  F32x16 r = fma(n, set(-0.693359375f), x);
  r = fma(n, set(2.12194440e-4f), r);
  F32x16 p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = fma(p, r * r, r + set(1.0f));
  return p * exponent(n);
}

}  // namespace herd::HERD_ISA
