// The dot products of small integers for each instruction set that we compile for.
#pragma once

#include "simd.h"

namespace herd::HERD_ISA {

HERD_INLINE int32_t four_activations(const int8_t* activations) {
  int32_t out;
  std::memcpy(&out, activations, 4);
  return out;
}

// Keeps the compiler from computing with `q` once what is written twice.
#if defined(__x86_64__) && defined(__AVX2__)
#define HERD_SEPARATE "+v"
#elif defined(__ARM_FEATURE_DOTPROD)
#define HERD_SEPARATE "+w"
#else
#define HERD_SEPARATE "+m"
#endif
template <class Q>
HERD_INLINE void keep_separate(Q& q) {
  asm volatile("" : HERD_SEPARATE(q));
}

// Dots<BITS, OFFSET> multiplies, from step 0 on, LANES rows of unsigned BITS-bit weights with one row of signed 8-bit activations, and
// the sum with the scale of the activations. A Quad is four columns of LANES rows, row after row; shift_and_mask moves bit `from` of
// each byte to bit 0 (up where it is negative). Eight-bit weights are stored plus 128.
//
// What is to be taken off a sum is a number times the sum of the activations: SEEDED sums begin with it (seed_of), for others the
// number is UNCORRECTED. factor_of makes of a scale what get() multiplies by where it does so in integers.
template <int BITS, int OFFSET, bool SIGNED_BYTES, bool CAN_BEGIN_WITH_IT = true>
struct Correction {
  static constexpr bool SEEDED = CAN_BEGIN_WITH_IT && BITS == 4 && OFFSET == 8;
  static constexpr int UNCORRECTED = SEEDED ? 0 : BITS == 8 && !SIGNED_BYTES ? 128 : OFFSET;
  static int32_t seed_of(int sum) { return -OFFSET * sum; }
  static int32_t factor_of(int) { return 0; }
  void start(int32_t) {}
};

#if defined(__AVX512VNNI__) && defined(HERD_WIDE)

using Quad = __m512i;
HERD_INLINE Quad load_quad(const uint8_t* p) { return _mm512_loadu_si512(p); }
HERD_INLINE Quad bit_or(Quad a, Quad b) { return _mm512_or_si512(a, b); }
HERD_INLINE Quad shift_and_mask(Quad q, int from, int mask) {
  if (from == 4) {
    q = _mm512_srli_epi16(q, 4);
  } else if (from > 0) {  // gcc takes no count here that becomes a constant only when it unrolls
    q = _mm512_srlv_epi16(q, _mm512_set1_epi16(short(from)));
  }
  if (from < 0) q = _mm512_sllv_epi16(q, _mm512_set1_epi16(short(-from)));
  return _mm512_and_si512(q, _mm512_set1_epi8(char(mask)));
}
HERD_INLINE Quad repeated(int32_t activations) { return _mm512_set1_epi32(activations); }
HERD_INLINE Quad add_products(Quad sum, Quad weights, Quad activations) { return _mm512_dpbusd_epi32(sum, weights, activations); }
HERD_INLINE Vector to_floats(Quad sums) { return {_mm512_cvtepi32_ps(sums)}; }
#define HERD_VNNI

#elif defined(__AVX2__)

using Quad = __m256i;
HERD_INLINE Quad load_quad(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
HERD_INLINE Quad bit_or(Quad a, Quad b) { return _mm256_or_si256(a, b); }
HERD_INLINE Quad shift_and_mask(Quad q, int from, int mask) {
  if (from > 0) q = _mm256_srli_epi16(q, from);
  if (from < 0) q = _mm256_slli_epi16(q, -from);
  return _mm256_and_si256(q, _mm256_set1_epi8(char(mask)));
}
HERD_INLINE Quad repeated(int32_t activations) { return _mm256_set1_epi32(activations); }
HERD_INLINE Vector to_floats(Quad sums) { return {_mm256_cvtepi32_ps(sums)}; }
#if defined(__AVXVNNI__)
HERD_INLINE Quad add_products(Quad sum, Quad weights, Quad activations) { return _mm256_dpbusd_avx_epi32(sum, weights, activations); }
#define HERD_VNNI
#else

// Products are summed in 16 bits while they fit: 8 of 4-bit weights (8 * 2 * 15 * 127 = 30,480), 4 of 5-bit, 2 of 6-bit. What widens
// them multiplies by the scale as well.
template <int BITS, int OFFSET>
struct Dots : Correction<BITS, OFFSET, true> {
  static constexpr int FIT = BITS == 4 ? 8 : BITS == 5 ? 4 : 2;
  static int32_t seed_of(int sum) { return int32_t(uint32_t(uint16_t(-OFFSET / 2 * sum)) * 0x10001u); }  // half in either half
  static int32_t factor_of(int scale) { return scale * 0x10001; }
  __m256i sums[8 / FIT];
  HERD_INLINE void start(int32_t seed) { sums[0] = _mm256_set1_epi32(seed); }
  HERD_INLINE void add(Quad w, int32_t activations, int step) {
    __m256i products = _mm256_maddubs_epi16(w, _mm256_set1_epi32(activations));
    __m256i& sum = sums[step / FIT];
    sum = step % FIT == 0 && !Dots::SEEDED ? products : _mm256_add_epi16(sum, products);
  }
  HERD_INLINE Vector get(int32_t factor, float) const {
    __m256i by = _mm256_set1_epi32(factor), wide = _mm256_madd_epi16(sums[0], by);
    if constexpr (BITS > 4) wide = _mm256_add_epi32(wide, _mm256_madd_epi16(sums[1], by));
    return to_floats(wide);
  }
};
template <int OFFSET>
struct Dots<8, OFFSET> : Correction<8, OFFSET, true> {
  __m256i acc;
  HERD_INLINE void add(Quad w, int32_t activations, int step) {
    __m256i is_signed = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    __m256i products = _mm256_maddubs_epi16(_mm256_abs_epi8(is_signed), _mm256_sign_epi8(_mm256_set1_epi32(activations), is_signed));
    __m256i wide = _mm256_madd_epi16(products, _mm256_set1_epi16(1));
    acc = step ? _mm256_add_epi32(acc, wide) : wide;
  }
  HERD_INLINE Vector get(int32_t, float scale) const { return to_floats(acc) * vector_set(scale); }
};
#endif

#elif defined(__ARM_FEATURE_DOTPROD)

using Quad = uint8x16_t;
HERD_INLINE Quad load_quad(const uint8_t* p) { return vld1q_u8(p); }
HERD_INLINE Quad bit_or(Quad a, Quad b) { return vorrq_u8(a, b); }
HERD_INLINE Quad shift_and_mask(Quad q, int from, int mask) {
  return vandq_u8(vshlq_u8(q, vdupq_n_s8(int8_t(-from))), vdupq_n_u8(uint8_t(mask)));  // shifts right where it is negative
}
template <int BITS, int OFFSET>
struct Dots : Correction<BITS, OFFSET, true> {
  int32x4_t acc;
  HERD_INLINE void start(int32_t seed) { acc = vdupq_n_s32(seed); }
  HERD_INLINE void add(Quad w, int32_t activations, int step) {
    if constexpr (BITS == 8) w = veorq_u8(w, vdupq_n_u8(128));
    acc = vdotq_s32(step || Dots::SEEDED ? acc : vdupq_n_s32(0), vreinterpretq_s8_u8(w), vreinterpretq_s8_s32(vdupq_n_s32(activations)));
  }
  HERD_INLINE Vector get(int32_t, float scale) const { return Vector{vcvtq_f32_s32(acc)} * vector_set(scale); }
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
HERD_INLINE Quad bit_or(Quad a, const Quad& b) {
  for (size_t i = 0; i < sizeof a.v; i++) a.v[i] |= b.v[i];
  return a;
}
HERD_INLINE Quad shift_and_mask(Quad q, int from, int mask) {
  for (auto& b : q.v) b = uint8_t((from > 0 ? b >> from : b << -from) & mask);
  return q;
}
template <int BITS, int OFFSET>
struct Dots : Correction<BITS, OFFSET, false, false> {
  int32_t acc[LANES];
  HERD_INLINE void add(const Quad& w, int32_t activations, int step) {
    int8_t x[4];
    std::memcpy(x, &activations, 4);
    if (!step) std::memset(acc, 0, sizeof acc);
    for (int row = 0; row < LANES; row++)
      for (int i = 0; i < 4; i++) acc[row] += int32_t(w.v[row * 4 + i]) * x[i];
  }
  HERD_INLINE Vector get(int32_t, float scale) const {
    Vector out;
    for (int row = 0; row < LANES; row++) out.v[row] = float(acc[row]) * scale;
    return out;
  }
};

#endif

#if defined(HERD_VNNI)
template <int BITS, int OFFSET>
struct Dots : Correction<BITS, OFFSET, false> {
  Quad sums;
  HERD_INLINE void start(int32_t seed) { sums = repeated(seed); }
  HERD_INLINE void add(Quad w, int32_t activations, int step) {
    sums = add_products(step || Dots::SEEDED ? sums : repeated(0), w, repeated(activations));
  }
  HERD_INLINE Vector get(int32_t, float scale) const { return to_floats(sums) * vector_set(scale); }
};
#undef HERD_VNNI
#endif

}  // namespace herd::HERD_ISA
