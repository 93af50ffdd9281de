// Whole tiles of the usual formats, sixteen bytes of a row at a time: the same bytes as pack.h's, which is for every processor, format
// and number of rows.
#pragma once

#include "pack.h"

namespace herd::HERD_ISA {

#if defined(__AVX2__)

HERD_INLINE __m128i bytes_at(const uint8_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
HERD_INLINE __m128i masked(__m128i v, int mask) { return _mm_and_si128(v, _mm_set1_epi8(char(mask))); }

// Word q of four rows -> out + q * 64, for the first `words` of four.
HERD_INLINE void store_words(const __m128i (&rows)[4], int words, uint8_t* out) {
  __m128i a = _mm_unpacklo_epi32(rows[0], rows[1]), b = _mm_unpacklo_epi32(rows[2], rows[3]);
  __m128i c = _mm_unpackhi_epi32(rows[0], rows[1]), d = _mm_unpackhi_epi32(rows[2], rows[3]);
  auto put = [out](int q, __m128i v) { _mm_storeu_si128(reinterpret_cast<__m128i*>(out + q * 64), v); };
  put(0, _mm_unpacklo_epi64(a, b));
  put(1, _mm_unpackhi_epi64(a, b));
  put(2, _mm_unpacklo_epi64(c, d));
  if (words > 3) put(3, _mm_unpackhi_epi64(c, d));
}

// How a format's block becomes GROUPS groups of a tile: PARTS times four words of group `g`, and halves of scales and minima.
template <int HEADER>
struct PlainNibbles {  // Q4_0, Q4_1: the nibbles of a tile, in the same order
  static constexpr int BYTES = HEADER + 16, GROUPS = 1, PARTS = 1, WORDS = 4;
  static HERD_INLINE __m128i words(const uint8_t* b, int, int) { return bytes_at(b + HEADER); }
  static HERD_INLINE void scales(const uint8_t* b, uint16_t* scale, uint16_t* minimum) {
    std::memcpy(scale, b, 2);
    if (HEADER == 4) std::memcpy(minimum, b + 2, 2);
  }
};

struct PlainBytes {  // Q8_0
  static constexpr int BYTES = 34, GROUPS = 1, PARTS = 2, WORDS = 4;
  static HERD_INLINE __m128i words(const uint8_t* b, int, int part) { return _mm_xor_si128(bytes_at(b + 2 + part * 16), _mm_set1_epi8(-128)); }
  static HERD_INLINE void scales(const uint8_t* b, uint16_t* scale, uint16_t*) { std::memcpy(scale, b, 2); }
};

struct NibblesOf256 {  // Q4_K
  static constexpr int BYTES = 144, GROUPS = 8, PARTS = 1, WORDS = 4;
  static HERD_INLINE __m128i words(const uint8_t* b, int g, int) {
    b += 16 + g / 2 * 32;
    __m128i first = bytes_at(b), second = bytes_at(b + 16);
    if (g % 2) return _mm_or_si128(masked(_mm_srli_epi32(first, 4), 15), masked(second, 0xF0));
    return _mm_or_si128(masked(first, 15), masked(_mm_slli_epi32(second, 4), 0xF0));
  }
  static HERD_INLINE void scales(const uint8_t* b, uint16_t* scale, uint16_t* minimum) {
    constexpr uint32_t SIX = 0x3F3F3F3F, FOUR = 0x0F0F0F0F, TWO = 0x30303030;
    const uint32_t low = word_at(b + 4), least = word_at(b + 8), high = word_at(b + 12);  // see k_scale
    auto put = [](uint32_t first, uint32_t second, float unit, uint16_t* to) {
      __m256 numbers = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_set_epi32(0, 0, int(second), int(first))));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(_mm256_mul_ps(numbers, _mm256_set1_ps(unit)), 0));
    };
    put(low & SIX, (high & FOUR) | (low >> 2 & TWO), half_at(b), scale);
    put(least & SIX, (high >> 4 & FOUR) | (least >> 2 & TWO), -half_at(b + 2), minimum);
  }
};

struct SixBits {  // Q6_K: two words of nibbles, one of the bits above
  static constexpr int BYTES = 210, GROUPS = 16, PARTS = 1, WORDS = 3;
  static HERD_INLINE __m128i words(const uint8_t* b, int g, int) {
    const int half = g / 8, quarter = g % 8 / 2, offset = g % 2 * 16;
    __m128i low = bytes_at(b + half * 64 + quarter % 2 * 32 + offset), high = bytes_at(b + 128 + half * 32 + offset);
    low = masked(quarter < 2 ? low : _mm_srli_epi32(low, 4), 15);
    low = _mm_or_si128(low, _mm_slli_epi32(_mm_srli_si128(low, 8), 4));
    high = masked(_mm_srli_epi32(high, 2 * quarter), 3);
    high = _mm_or_si128(high, _mm_slli_epi32(_mm_srli_si128(high, 4), 2));
    high = _mm_or_si128(high, _mm_slli_epi32(_mm_srli_si128(high, 8), 4));
    return _mm_unpacklo_epi64(low, high);
  }
  static HERD_INLINE void scales(const uint8_t* b, uint16_t* scale, uint16_t*) {
    const __m256 unit = _mm256_set1_ps(half_at(b + 208));
    for (int i = 0; i < 16; i += 8) {
      __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(b + 192 + i));
      __m256 numbers = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(scale + i), _mm256_cvtps_ph(_mm256_mul_ps(numbers, unit), 0));
    }
  }
};

template <Packed K, class From>
void pack_blocks(const uint8_t* raw, size_t row_bytes, int columns, uint8_t* out) {
  using L = Layout<K>;
  uint16_t scale[TILE][From::GROUPS], minimum[TILE][From::GROUPS];
  const int blocks = columns / (L::COLUMNS * From::GROUPS);
  const uint8_t* next = raw + size_t(TILE) * row_bytes;  // the next tile is fetched meanwhile
  for (int n = 0; n < blocks; n++, raw += From::BYTES, out += size_t(L::GROUP_BYTES) * From::GROUPS, next += TILE * From::BYTES) {
    fetch(next, TILE * From::BYTES);
    for (int r = 0; r < TILE; r++) From::scales(raw + size_t(r) * row_bytes, scale[r], minimum[r]);
    for (int g = 0; g < From::GROUPS; g++) {
      uint8_t* group = out + g * L::GROUP_BYTES;
      for (int part = 0; part < From::PARTS; part++)
        for (int r = 0; r < TILE; r += 4) {
          __m128i rows[4];
          for (int i = 0; i < 4; i++) rows[i] = From::words(raw + size_t(r + i) * row_bytes, g, part);
          store_words(rows, From::WORDS, group + part * 256 + r * 4);
        }
      for (int r = 0; r < TILE; r++) {
        std::memcpy(group + L::WEIGHT_BYTES + r * 2, &scale[r][g], 2);
        if (L::MINIMUM) std::memcpy(group + L::WEIGHT_BYTES + TILE * 2 + r * 2, &minimum[r][g], 2);
      }
    }
  }
}

#if defined(__AVX512BF16__)

// Rows of BF16, or of F16 to be rounded: a pair of columns is a word.
template <bool HALVES>
void pack_pairs_fast(const uint8_t* raw, size_t row_bytes, int columns, uint8_t* out) {
  const uint8_t* next = raw + size_t(TILE) * row_bytes;
  for (int c = 0; c < columns; c += 8, raw += 16, out += 256, next += TILE * 16) {
    fetch(next, TILE * 16);
    for (int r = 0; r < TILE; r += 4) {
      __m128i rows[4];
      for (int i = 0; i < 4; i++) {
        rows[i] = bytes_at(raw + size_t(r + i) * row_bytes);
        if (HALVES) rows[i] = __m128i(_mm256_cvtneps_pbh(_mm256_cvtph_ps(rows[i])));
      }
      store_words(rows, 4, out + r * 4);
    }
  }
}

#endif

// Sixteen rows in `format` -> a tile; false, and nothing done, where there is no fast way.
HERD_INLINE bool pack_fast(int format, const uint8_t* raw, size_t row_bytes, int columns, uint8_t* out) {
  switch (format) {
    case kQ4_0: pack_blocks<Packed::I4, PlainNibbles<2>>(raw, row_bytes, columns, out); return true;
    case kQ4_1: pack_blocks<Packed::I4M, PlainNibbles<4>>(raw, row_bytes, columns, out); return true;
    case kQ4_K: pack_blocks<Packed::I4M, NibblesOf256>(raw, row_bytes, columns, out); return true;
    case kQ6_K: pack_blocks<Packed::I6, SixBits>(raw, row_bytes, columns, out); return true;
    case kQ8_0: pack_blocks<Packed::I8, PlainBytes>(raw, row_bytes, columns, out); return true;
#if defined(__AVX512BF16__)
    case kBF16:
    case kF16:
      if (columns % 8) return false;
      format == kF16 ? pack_pairs_fast<true>(raw, row_bytes, columns, out) : pack_pairs_fast<false>(raw, row_bytes, columns, out);
      return true;
#endif
    default: return false;
  }
}

#else

HERD_INLINE bool pack_fast(int, const uint8_t*, size_t, int, uint8_t*) { return false; }

#endif

}  // namespace herd::HERD_ISA
