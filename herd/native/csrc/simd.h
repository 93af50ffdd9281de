// Sixteen floats at a time, and the dot products of small integers, for each instruction set that we compile for.
// A kernel written with these reads the same everywhere; HERD_ISA says which set a translation unit is built for.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD)
#include <arm_neon.h>
#endif

#define HERD_INLINE inline __attribute__((always_inline))

namespace herd::HERD_ISA {

// A Part is the float vector that the hardware has; sixteen floats are PARTS of them.
#if defined(__AVX512F__)

constexpr int PARTS = 1;
struct Part {
  __m512 v;
};
HERD_INLINE Part part_set(float x) { return {_mm512_set1_ps(x)}; }
HERD_INLINE Part part_load(const float* p) { return {_mm512_loadu_ps(p)}; }
HERD_INLINE Part part_half(const uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
HERD_INLINE Part part_int8(const int8_t* p) {
  return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))))};
}
HERD_INLINE Part part_bf16(const uint16_t* p) {
  __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(wide, 16))};
}
HERD_INLINE void part_store(float* p, Part a) { _mm512_storeu_ps(p, a.v); }
HERD_INLINE void part_store_half(uint16_t* p, Part a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
HERD_INLINE void part_store_int8(int8_t* p, Part a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(a.v)));
}
HERD_INLINE Part operator+(Part a, Part b) { return {_mm512_add_ps(a.v, b.v)}; }
HERD_INLINE Part operator-(Part a, Part b) { return {_mm512_sub_ps(a.v, b.v)}; }
HERD_INLINE Part operator*(Part a, Part b) { return {_mm512_mul_ps(a.v, b.v)}; }
HERD_INLINE Part operator/(Part a, Part b) { return {_mm512_div_ps(a.v, b.v)}; }
HERD_INLINE Part fma(Part a, Part b, Part c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
HERD_INLINE Part max(Part a, Part b) { return {_mm512_max_ps(a.v, b.v)}; }
HERD_INLINE Part min(Part a, Part b) { return {_mm512_min_ps(a.v, b.v)}; }
HERD_INLINE Part abs(Part a) { return {_mm512_abs_ps(a.v)}; }
HERD_INLINE Part round(Part a) { return {_mm512_roundscale_ps(a.v, 0)}; }
HERD_INLINE Part exponent(Part n) {  // 2^n for whole n
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127)), 23))};
}

#elif defined(__AVX2__)

constexpr int PARTS = 2;
struct Part {
  __m256 v;
};
HERD_INLINE Part part_set(float x) { return {_mm256_set1_ps(x)}; }
HERD_INLINE Part part_load(const float* p) { return {_mm256_loadu_ps(p)}; }
HERD_INLINE __m128i load_128(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
HERD_INLINE Part part_half(const uint16_t* p) { return {_mm256_cvtph_ps(load_128(p))}; }
HERD_INLINE Part part_int8(const int8_t* p) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))))};
}
HERD_INLINE Part part_bf16(const uint16_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_128(p)), 16))};
}
HERD_INLINE void part_store(float* p, Part a) { _mm256_storeu_ps(p, a.v); }
HERD_INLINE void part_store_half(uint16_t* p, Part a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
HERD_INLINE void part_store_int8(int8_t* p, Part a) {
  __m256i wide = _mm256_cvtps_epi32(a.v);
  __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packs_epi16(words, words));
}
HERD_INLINE Part operator+(Part a, Part b) { return {_mm256_add_ps(a.v, b.v)}; }
HERD_INLINE Part operator-(Part a, Part b) { return {_mm256_sub_ps(a.v, b.v)}; }
HERD_INLINE Part operator*(Part a, Part b) { return {_mm256_mul_ps(a.v, b.v)}; }
HERD_INLINE Part operator/(Part a, Part b) { return {_mm256_div_ps(a.v, b.v)}; }
HERD_INLINE Part fma(Part a, Part b, Part c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
HERD_INLINE Part max(Part a, Part b) { return {_mm256_max_ps(a.v, b.v)}; }
HERD_INLINE Part min(Part a, Part b) { return {_mm256_min_ps(a.v, b.v)}; }
HERD_INLINE Part abs(Part a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
HERD_INLINE Part round(Part a) { return {_mm256_round_ps(a.v, 0)}; }
HERD_INLINE Part exponent(Part n) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127)), 23))};
}

#elif defined(__ARM_FEATURE_DOTPROD)

constexpr int PARTS = 4;
struct Part {
  float32x4_t v;
};
HERD_INLINE Part part_set(float x) { return {vdupq_n_f32(x)}; }
HERD_INLINE Part part_load(const float* p) { return {vld1q_f32(p)}; }
HERD_INLINE Part part_half(const uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
HERD_INLINE Part part_int8(const int8_t* p) {
  int32_t four;
  std::memcpy(&four, p, 4);
  int16x8_t wide = vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(four)));
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)))};
}
HERD_INLINE Part part_bf16(const uint16_t* p) { return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16))}; }
HERD_INLINE void part_store(float* p, Part a) { vst1q_f32(p, a.v); }
HERD_INLINE void part_store_half(uint16_t* p, Part a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a.v))); }
HERD_INLINE void part_store_int8(int8_t* p, Part a) {
  int16x4_t narrow = vqmovn_s32(vcvtnq_s32_f32(a.v));
  int32_t four = vget_lane_s32(vreinterpret_s32_s8(vqmovn_s16(vcombine_s16(narrow, narrow))), 0);
  std::memcpy(p, &four, 4);
}
HERD_INLINE Part operator+(Part a, Part b) { return {vaddq_f32(a.v, b.v)}; }
HERD_INLINE Part operator-(Part a, Part b) { return {vsubq_f32(a.v, b.v)}; }
HERD_INLINE Part operator*(Part a, Part b) { return {vmulq_f32(a.v, b.v)}; }
HERD_INLINE Part operator/(Part a, Part b) { return {vdivq_f32(a.v, b.v)}; }
HERD_INLINE Part fma(Part a, Part b, Part c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
HERD_INLINE Part max(Part a, Part b) { return {vmaxq_f32(a.v, b.v)}; }
HERD_INLINE Part min(Part a, Part b) { return {vminq_f32(a.v, b.v)}; }
HERD_INLINE Part abs(Part a) { return {vabsq_f32(a.v)}; }
HERD_INLINE Part round(Part a) { return {vrndnq_f32(a.v)}; }
HERD_INLINE Part exponent(Part n) {
  return {vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n.v), vdupq_n_s32(127)), 23))};
}

#else

// Plain C++: the compiler vectorizes these loops with whatever the target has.
constexpr int PARTS = 4;
struct Part {
  float v[4];
};
#define HERD_EACH(expression)                         \
  Part out;                                           \
  for (int i = 0; i < 4; i++) out.v[i] = (expression); \
  return out
HERD_INLINE float bf16_to_float(uint16_t h) {
  uint32_t bits = uint32_t(h) << 16;
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}
HERD_INLINE Part part_set(float x) { HERD_EACH(x); }
HERD_INLINE Part part_load(const float* p) { HERD_EACH(p[i]); }
HERD_INLINE Part part_half(const uint16_t* p) { HERD_EACH(half_to_float(p[i])); }
HERD_INLINE Part part_int8(const int8_t* p) { HERD_EACH(float(p[i])); }
HERD_INLINE Part part_bf16(const uint16_t* p) { HERD_EACH(bf16_to_float(p[i])); }
HERD_INLINE void part_store(float* p, Part a) { std::memcpy(p, a.v, sizeof a.v); }
HERD_INLINE void part_store_half(uint16_t* p, Part a) {
  for (int i = 0; i < 4; i++) p[i] = float_to_half(a.v[i]);
}
HERD_INLINE void part_store_int8(int8_t* p, Part a) {
  for (int i = 0; i < 4; i++) p[i] = int8_t(std::nearbyint(a.v[i] < -128 ? -128 : a.v[i] > 127 ? 127 : a.v[i]));
}
HERD_INLINE Part operator+(Part a, Part b) { HERD_EACH(a.v[i] + b.v[i]); }
HERD_INLINE Part operator-(Part a, Part b) { HERD_EACH(a.v[i] - b.v[i]); }
HERD_INLINE Part operator*(Part a, Part b) { HERD_EACH(a.v[i] * b.v[i]); }
HERD_INLINE Part operator/(Part a, Part b) { HERD_EACH(a.v[i] / b.v[i]); }
HERD_INLINE Part fma(Part a, Part b, Part c) { HERD_EACH(a.v[i] * b.v[i] + c.v[i]); }
HERD_INLINE Part max(Part a, Part b) { HERD_EACH(a.v[i] > b.v[i] ? a.v[i] : b.v[i]); }
HERD_INLINE Part min(Part a, Part b) { HERD_EACH(a.v[i] < b.v[i] ? a.v[i] : b.v[i]); }
HERD_INLINE Part abs(Part a) { HERD_EACH(std::fabs(a.v[i])); }
HERD_INLINE Part round(Part a) { HERD_EACH(std::nearbyint(a.v[i])); }
HERD_INLINE Part exponent(Part n) { HERD_EACH(std::ldexp(1.0f, int(n.v[i]))); }
#undef HERD_EACH

#endif

constexpr int LANES = 16 / PARTS;
struct F16x {
  Part p[PARTS];
};
#define HERD_PARTS(expression)                            \
  F16x out;                                               \
  for (int i = 0; i < PARTS; i++) out.p[i] = (expression); \
  return out
HERD_INLINE F16x set(float x) { HERD_PARTS(part_set(x)); }
HERD_INLINE F16x zero() { return set(0.0f); }
HERD_INLINE F16x load(const float* s) { HERD_PARTS(part_load(s + i * LANES)); }
HERD_INLINE F16x load_half(const uint16_t* s) { HERD_PARTS(part_half(s + i * LANES)); }
HERD_INLINE F16x load_int8(const int8_t* s) { HERD_PARTS(part_int8(s + i * LANES)); }
HERD_INLINE F16x load_bf16(const uint16_t* s) { HERD_PARTS(part_bf16(s + i * LANES)); }
HERD_INLINE F16x operator+(F16x a, F16x b) { HERD_PARTS(a.p[i] + b.p[i]); }
HERD_INLINE F16x operator-(F16x a, F16x b) { HERD_PARTS(a.p[i] - b.p[i]); }
HERD_INLINE F16x operator*(F16x a, F16x b) { HERD_PARTS(a.p[i] * b.p[i]); }
HERD_INLINE F16x operator/(F16x a, F16x b) { HERD_PARTS(a.p[i] / b.p[i]); }
HERD_INLINE F16x fma(F16x a, F16x b, F16x c) { HERD_PARTS(fma(a.p[i], b.p[i], c.p[i])); }
HERD_INLINE F16x max(F16x a, F16x b) { HERD_PARTS(max(a.p[i], b.p[i])); }
HERD_INLINE F16x min(F16x a, F16x b) { HERD_PARTS(min(a.p[i], b.p[i])); }
HERD_INLINE F16x abs(F16x a) { HERD_PARTS(abs(a.p[i])); }
HERD_INLINE F16x round(F16x a) { HERD_PARTS(round(a.p[i])); }
HERD_INLINE F16x exponent(F16x a) { HERD_PARTS(exponent(a.p[i])); }
#undef HERD_PARTS
HERD_INLINE void store(float* d, F16x a) {
  for (int i = 0; i < PARTS; i++) part_store(d + i * LANES, a.p[i]);
}
HERD_INLINE void store_half(uint16_t* d, F16x a) {
  for (int i = 0; i < PARTS; i++) part_store_half(d + i * LANES, a.p[i]);
}
HERD_INLINE void store_int8(int8_t* d, F16x a) {
  for (int i = 0; i < PARTS; i++) part_store_int8(d + i * LANES, a.p[i]);
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
HERD_INLINE float folded(F16x a) {
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
HERD_INLINE float folded(F16x a) {
  float v[16];
  store(v, a);
  for (int step = 8; step; step /= 2)
    for (int i = 0; i < step; i++) v[i] = F::of(v[i], v[i + step]);
  return v[0];
}
#endif
HERD_INLINE float sum(F16x a) { return folded<Sum>(a); }
HERD_INLINE float largest(F16x a) { return folded<Largest>(a); }

// e^x to about 2e-7 relative; 0 below -87. Cephes' expf: x = n ln 2 + r, a polynomial for e^r, times 2^n.
HERD_INLINE F16x exp(F16x x) {
  x = max(min(x, set(88.0f)), set(-87.3f));
  F16x n = round(x * set(1.44269504088896341f));
  F16x r = fma(n, set(-0.693359375f), x);
  r = fma(n, set(2.12194440e-4f), r);
  F16x p = set(1.9875691500e-4f);
  p = fma(p, r, set(1.3981999507e-3f));
  p = fma(p, r, set(8.3334519073e-3f));
  p = fma(p, r, set(4.1665795894e-2f));
  p = fma(p, r, set(1.6666665459e-1f));
  p = fma(p, r, set(5.0000001201e-1f));
  p = fma(p, r * r, r + set(1.0f));
  return p * exponent(n);
}

HERD_INLINE int32_t four(const int8_t* activations) {
  int32_t out;
  std::memcpy(&out, activations, 4);
  return out;
}

// Dots<BITS, OFFSET> multiplies, from step 0 on, LANES rows of unsigned BITS-bit weights with one row of signed 8-bit activations, and
// the sum with the scale of the activations. A Quad is four columns of LANES rows, row after row; bits moves bit `from` of
// each byte to bit 0 (up where it is negative). Eight-bit weights are stored plus 128. Sums are too large by BELOW times the sum
// of the activations; SEEDED ones that begin with seed_of(that sum) are not.
#if defined(__AVX512VNNI__) && defined(HERD_WIDE)

using Quad = __m512i;
HERD_INLINE Quad load_quad(const uint8_t* p) { return _mm512_loadu_si512(p); }
HERD_INLINE Quad both(Quad a, Quad b) { return _mm512_or_si512(a, b); }
HERD_INLINE Quad bits(Quad q, int from, int mask) {
  if (from == 4) {
    q = _mm512_srli_epi16(q, 4);
  } else if (from > 0) {  // gcc takes no count here that becomes a constant only when it unrolls
    q = _mm512_srlv_epi16(q, _mm512_set1_epi16(short(from)));
  }
  if (from < 0) q = _mm512_sllv_epi16(q, _mm512_set1_epi16(short(-from)));
  return _mm512_and_si512(q, _mm512_set1_epi8(char(mask)));
}
template <int BITS, int OFFSET>
struct Dots {
  static constexpr bool SEEDED = BITS == 4 && OFFSET == 8;
  static constexpr int BELOW = SEEDED ? 0 : BITS == 8 ? 128 : OFFSET;
  static int32_t seed_of(int sum) { return -OFFSET * sum; }
  static int32_t factor_of(int) { return 0; }
  __m512i acc;
  HERD_INLINE void start(int32_t seed) { acc = _mm512_set1_epi32(seed); }
  HERD_INLINE void add(Quad w, int32_t activations, int step) {
    acc = _mm512_dpbusd_epi32(step || SEEDED ? acc : _mm512_setzero_si512(), w, _mm512_set1_epi32(activations));
  }
  HERD_INLINE Part get(int32_t, float scale) const { return Part{_mm512_cvtepi32_ps(acc)} * part_set(scale); }
};

#elif defined(__AVX2__)

using Quad = __m256i;
HERD_INLINE Quad load_quad(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
HERD_INLINE Quad both(Quad a, Quad b) { return _mm256_or_si256(a, b); }
HERD_INLINE Quad bits(Quad q, int from, int mask) {
  if (from > 0) q = _mm256_srli_epi16(q, from);
  if (from < 0) q = _mm256_slli_epi16(q, -from);
  return _mm256_and_si256(q, _mm256_set1_epi8(char(mask)));
}
#if defined(__AVXVNNI__)
template <int BITS, int OFFSET>
struct Dots {
  static constexpr bool SEEDED = BITS == 4 && OFFSET == 8;
  static constexpr int BELOW = SEEDED ? 0 : BITS == 8 ? 128 : OFFSET;
  static int32_t seed_of(int sum) { return -OFFSET * sum; }
  static int32_t factor_of(int) { return 0; }
  __m256i acc;
  HERD_INLINE void start(int32_t seed) { acc = _mm256_set1_epi32(seed); }
  HERD_INLINE void add(Quad w, int32_t activations, int step) {
    acc = _mm256_dpbusd_avx_epi32(step || SEEDED ? acc : _mm256_setzero_si256(), w, _mm256_set1_epi32(activations));
  }
  HERD_INLINE Part get(int32_t, float scale) const { return Part{_mm256_cvtepi32_ps(acc)} * part_set(scale); }
};
#else
// Products are summed in 16 bits while they fit: 8 of 4-bit weights (8 * 2 * 15 * 127 = 30,480), 4 of 5-bit, 2 of 6-bit. What widens
// them multiplies by the scale as well.
template <int BITS, int OFFSET>
struct Dots {
  static constexpr bool SEEDED = BITS == 4 && OFFSET == 8;
  static constexpr int BELOW = SEEDED ? 0 : OFFSET;
  static constexpr int FIT = BITS == 4 ? 8 : BITS == 5 ? 4 : 2;
  static int32_t seed_of(int sum) { return int32_t(uint32_t(uint16_t(-OFFSET / 2 * sum)) * 0x10001u); }  // half in either half
  static int32_t factor_of(int scale) { return scale * 0x10001; }
  __m256i sums[8 / FIT];
  HERD_INLINE void start(int32_t seed) { sums[0] = _mm256_set1_epi32(seed); }
  HERD_INLINE void add(Quad w, int32_t activations, int step) {
    __m256i products = _mm256_maddubs_epi16(w, _mm256_set1_epi32(activations));
    __m256i& sum = sums[step / FIT];
    sum = step % FIT == 0 && !SEEDED ? products : _mm256_add_epi16(sum, products);
  }
  HERD_INLINE Part get(int32_t factor, float) const {
    __m256i by = _mm256_set1_epi32(factor), wide = _mm256_madd_epi16(sums[0], by);
    if constexpr (BITS > 4) wide = _mm256_add_epi32(wide, _mm256_madd_epi16(sums[1], by));
    return {_mm256_cvtepi32_ps(wide)};
  }
};
template <int OFFSET>
struct Dots<8, OFFSET> {
  static constexpr bool SEEDED = false;
  static constexpr int BELOW = 0;
  __m256i acc;
  HERD_INLINE void add(Quad w, int32_t activations, int step) {
    __m256i is_signed = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    __m256i products = _mm256_maddubs_epi16(_mm256_abs_epi8(is_signed), _mm256_sign_epi8(_mm256_set1_epi32(activations), is_signed));
    __m256i wide = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
    acc = step ? _mm256_add_epi32(acc, wide) : wide;
  }
  HERD_INLINE Part get(int32_t, float scale) const { return Part{_mm256_cvtepi32_ps(acc)} * part_set(scale); }
};
#endif

#elif defined(__ARM_FEATURE_DOTPROD)

using Quad = uint8x16_t;
HERD_INLINE Quad load_quad(const uint8_t* p) { return vld1q_u8(p); }
HERD_INLINE Quad both(Quad a, Quad b) { return vorrq_u8(a, b); }
HERD_INLINE Quad bits(Quad q, int from, int mask) {
  return vandq_u8(vshlq_u8(q, vdupq_n_s8(int8_t(-from))), vdupq_n_u8(uint8_t(mask)));  // shifts right where it is negative
}
template <int BITS, int OFFSET>
struct Dots {
  static constexpr bool SEEDED = BITS == 4 && OFFSET == 8;
  static constexpr int BELOW = SEEDED ? 0 : OFFSET;
  static int32_t seed_of(int sum) { return -OFFSET * sum; }
  static int32_t factor_of(int) { return 0; }
  int32x4_t acc;
  HERD_INLINE void start(int32_t seed) { acc = vdupq_n_s32(seed); }
  HERD_INLINE void add(Quad w, int32_t activations, int step) {
    if constexpr (BITS == 8) w = veorq_u8(w, vdupq_n_u8(128));
    acc = vdotq_s32(step || SEEDED ? acc : vdupq_n_s32(0), vreinterpretq_s8_u8(w), vreinterpretq_s8_s32(vdupq_n_s32(activations)));
  }
  HERD_INLINE Part get(int32_t, float scale) const { return Part{vcvtq_f32_s32(acc)} * part_set(scale); }
};

#else

struct Quad {
  uint8_t v[4 * LANES];
};
HERD_INLINE Quad load_quad(const uint8_t* p) {
  Quad out;
  std::memcpy(out.v, p, sizeof out.v);
  return out;
}
HERD_INLINE Quad both(Quad a, const Quad& b) {
  for (size_t i = 0; i < sizeof a.v; i++) a.v[i] |= b.v[i];
  return a;
}
HERD_INLINE Quad bits(Quad q, int from, int mask) {
  for (auto& b : q.v) b = uint8_t((from > 0 ? b >> from : b << -from) & mask);
  return q;
}
template <int BITS, int OFFSET>
struct Dots {
  static constexpr bool SEEDED = false;
  static constexpr int BELOW = BITS == 8 ? 128 : OFFSET;
  static int32_t seed_of(int) { return 0; }
  static int32_t factor_of(int) { return 0; }
  int32_t acc[LANES];
  HERD_INLINE void add(const Quad& w, int32_t activations, int step) {
    int8_t x[4];
    std::memcpy(x, &activations, 4);
    if (!step) std::memset(acc, 0, sizeof acc);
    for (int row = 0; row < LANES; row++)
      for (int i = 0; i < 4; i++) acc[row] += int32_t(w.v[row * 4 + i]) * x[i];
  }
  HERD_INLINE Part get(int32_t, float scale) const {
    Part out;
    for (int row = 0; row < LANES; row++) out.v[row] = float(acc[row]) * scale;
    return out;
  }
};

#endif

}  // namespace herd::HERD_ISA
