// Blocks of a file's formats -> numbers, and -> tiles. Layouts: ggml's ggml-common.h; the numpy twin is
// herd/quant/dequantize.py.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels.h"
#include "simd.h"

namespace herd::HERD_ISA {

// ggml's type ids, and ours for FP8.
enum Format { kF32 = 0, kF16 = 1, kQ4_0 = 2, kQ4_1 = 3, kQ5_0 = 6, kQ5_1 = 7, kQ8_0 = 8, kQ4_K = 12, kQ5_K = 13, kQ6_K = 14, kBF16 = 30, kFP8 = 1000 };

// A group of 32 weights (of Q6_K 16) as unsigned numbers, four to a word, column by column: weight = scale * (number - zero) + minimum.
struct Group {
  uint32_t numbers[8];
  float scale, minimum;
};

HERD_INLINE uint32_t word_at(const uint8_t* p) {
  uint32_t word;
  std::memcpy(&word, p, 4);
  return word;
}

HERD_INLINE float half_at(const uint8_t* p) {
  uint16_t h;
  std::memcpy(&h, p, 2);
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  return half_to_float(h);
#endif
}

HERD_INLINE uint16_t to_half(float x) {
#if defined(__F16C__)
  return _cvtss_sh(x, 0);
#else
  return float_to_half(x);
#endif
}

// Four bits of `bits`, the lowest first, as the fifth bits of a word's four numbers.
HERD_INLINE uint32_t fifth_bits(uint32_t bits) { return ((bits & 15) * 0x00204081u & 0x01010101u) << 4; }

inline void k_scale(const uint8_t* packed, int i, int& scale, int& minimum) {
  if (i < 4) {
    scale = packed[i] & 63;
    minimum = packed[i + 4] & 63;
  } else {
    scale = (packed[i + 4] & 15) | (packed[i - 4] >> 6 << 4);
    minimum = (packed[i + 4] >> 4) | (packed[i] >> 6 << 4);
  }
}

// Group `g` of a row in `format`.
HERD_INLINE void read_group(int format, const uint8_t* row, int g, Group& out) {
  constexpr uint32_t LOW = 0x0F0F0F0F;
  out.minimum = 0;
  switch (format) {
    case kQ4_0:
    case kQ4_1:
    case kQ5_0:
    case kQ5_1: {
      bool has_minimum = format == kQ4_1 || format == kQ5_1, five = format == kQ5_0 || format == kQ5_1;
      const uint8_t* b = row + size_t(g) * size_t(18 + (has_minimum ? 2 : 0) + (five ? 4 : 0));
      out.scale = half_at(b);
      if (has_minimum) out.minimum = half_at(b + 2);
      b += has_minimum ? 4 : 2;
      uint32_t high = five ? word_at(b) : 0;
      if (five) b += 4;
      for (int q = 0; q < 4; q++) {
        uint32_t nibbles = word_at(b + q * 4);
        out.numbers[q] = nibbles & LOW;
        out.numbers[q + 4] = nibbles >> 4 & LOW;
        if (five) {
          out.numbers[q] |= fifth_bits(high >> q * 4);
          out.numbers[q + 4] |= fifth_bits(high >> (q * 4 + 16));
        }
      }
      return;
    }
    case kQ8_0: {
      const uint8_t* b = row + size_t(g) * 34;
      out.scale = half_at(b);
      for (int q = 0; q < 8; q++) out.numbers[q] = word_at(b + 2 + q * 4) ^ 0x80808080u;
      return;
    }
    case kQ4_K:
    case kQ5_K: {
      bool five = format == kQ5_K;
      const uint8_t* b = row + size_t(g / 8) * (five ? 176 : 144);
      int i = g % 8, scale, minimum;
      k_scale(b + 4, i, scale, minimum);
      out.scale = half_at(b) * float(scale);
      out.minimum = -half_at(b + 2) * float(minimum);
      const uint8_t* low = b + (five ? 48 : 16) + i / 2 * 32;
      for (int q = 0; q < 8; q++) {
        out.numbers[q] = word_at(low + q * 4) >> (i % 2 * 4) & LOW;
        if (five) out.numbers[q] |= (word_at(b + 16 + q * 4) >> i & 0x01010101u) << 4;
      }
      return;
    }
    case kQ6_K: {
      const uint8_t* b = row + size_t(g / 16) * 210;
      int i = g % 16, half = i / 8, quarter = i % 8 / 2, offset = i % 2 * 16;
      out.scale = half_at(b + 208) * float(int8_t(b[192 + i]));
      for (int q = 0; q < 4; q++) {
        int at = offset + q * 4;
        uint32_t low = word_at(b + half * 64 + quarter % 2 * 32 + at) >> (quarter < 2 ? 0 : 4) & LOW;
        uint32_t high = word_at(b + 128 + half * 32 + at) >> (2 * quarter) & 0x03030303u;
        out.numbers[q] = low | high << 4;
      }
      return;
    }
  }
}

inline float fp8_to_float(uint8_t code) {  // e4m3, "fn": no infinities
  int exponent = code >> 3 & 15, mantissa = code & 7;
  float value = exponent ? std::ldexp(1.0f + float(mantissa) / 8, exponent - 7) : std::ldexp(float(mantissa) / 8, -6);
  if ((code & 127) == 127) value = NAN;
  return code & 128 ? -value : value;
}

inline Packed packed_kind(int format) {
#if defined(__AVX512BF16__)
  if (format == kF16 || format == kBF16 || format == kFP8) return Packed::BF16_PAIRS;
#endif
  switch (format) {
    case kF16: return Packed::F16;
    case kBF16: case kFP8: return Packed::BF16;
    case kQ4_0: return Packed::I4;
    case kQ4_1: case kQ4_K: return Packed::I4M;
    case kQ5_0: return Packed::I5;
    case kQ5_1: case kQ5_K: return Packed::I5M;
    case kQ6_K: return Packed::I6;
    case kQ8_0: return Packed::I8;
    default: return Packed::F32;
  }
}

template <Packed K>
void pack_integer(int format, const uint8_t* raw, size_t row_bytes, int rows, int columns, uint8_t* out) {
  using L = Layout<K>;
  constexpr int HALF = L::QUADS / 2, MORE = L::BITS - 4;
  for (int g = 0; g < columns / L::COLUMNS; g++, out += L::GROUP_BYTES) {
    if (rows < TILE) std::memset(out, 0, L::GROUP_BYTES);
    for (int r = 0; r < rows; r++) {
      Group group{};
      read_group(format, raw + size_t(r) * row_bytes, g, group);
      auto put = [&](int at, uint32_t word) { std::memcpy(out + at + r * 4, &word, 4); };
      if constexpr (L::NIBBLES) {
        for (int q = 0; q < HALF; q++) put(q * 64, (group.numbers[q] & 0x0F0F0F0F) | (group.numbers[q + HALF] & 0x0F0F0F0F) << 4);
        if constexpr (L::HIGH_BITS) {
          uint32_t high = 0;
          for (int q = 0; q < L::QUADS; q++) high |= (group.numbers[q] >> 4 & (MORE == 1 ? 0x01010101u : 0x03030303u)) << (q * MORE);
          put(L::HIGH, high);
        }
      } else {
        for (int q = 0; q < L::QUADS; q++) put(q * 64, group.numbers[q]);
      }
      uint16_t scale = to_half(group.scale), minimum = to_half(group.minimum);
      std::memcpy(out + L::WEIGHT_BYTES + r * 2, &scale, 2);
      if (L::MINIMUM) std::memcpy(out + L::WEIGHT_BYTES + TILE * 2 + r * 2, &minimum, 2);
    }
  }
}

inline void unpack_row(int format, const uint8_t* raw, int columns, float* out) {
  const uint16_t* halves = reinterpret_cast<const uint16_t*>(raw);
  switch (format) {
    case kF32: std::memcpy(out, raw, size_t(columns) * 4); return;
    case kF16:
      for (int i = 0; i < columns; i++) out[i] = half_to_float(halves[i]);
      return;
    case kBF16:
      for (int i = 0; i < columns; i++) {
        uint32_t bits = uint32_t(halves[i]) << 16;
        std::memcpy(out + i, &bits, 4);
      }
      return;
    case kFP8:
      for (int i = 0; i < columns; i++) out[i] = fp8_to_float(raw[i]);
      return;
  }
  int size = format == kQ6_K ? 16 : 32;
  float zero = format == kQ4_0 ? 8 : format == kQ5_0 ? 16 : format == kQ6_K ? 32 : format == kQ8_0 ? 128 : 0;
  for (int g = 0; g < columns / size; g++) {
    Group group{};
    read_group(format, raw, g, group);
    for (int i = 0; i < size; i++) {
      float number = float(group.numbers[i / 4] >> (i % 4 * 8) & 255);
      out[g * size + i] = group.scale * (number - zero) + group.minimum;
    }
  }
}

template <class T>
void pack_columns(const uint8_t* raw, size_t row_bytes, int rows, int columns, uint8_t* out) {
  T* to = reinterpret_cast<T*>(out);
  for (int r = 0; r < TILE; r++) {
    const T* from = reinterpret_cast<const T*>(raw + size_t(r) * row_bytes);
    for (int c = 0; c < columns; c++) to[size_t(c) * TILE + size_t(r)] = r < rows ? from[c] : T(0);
  }
}

inline void pack_fp8(const uint8_t* raw, size_t row_bytes, int rows, int columns, uint8_t* out) {
  uint16_t* to = reinterpret_cast<uint16_t*>(out);
  for (int r = 0; r < TILE; r++)
    for (int c = 0; c < columns; c++) {
      float value = r < rows ? fp8_to_float(raw[size_t(r) * row_bytes + size_t(c)]) : 0.0f;  // exact in BF16
      uint32_t bits;
      std::memcpy(&bits, &value, 4);
      to[size_t(c) * TILE + size_t(r)] = uint16_t(bits >> 16);
    }
}

inline void pack_pairs(int format, const uint8_t* raw, size_t row_bytes, int rows, int columns, uint8_t* out) {
  std::memset(out, 0, Layout<Packed::BF16_PAIRS>::tile_bytes(columns));
  for (int r = 0; r < rows; r++) {
    const uint8_t* row = raw + size_t(r) * row_bytes;
    for (int c = 0; c < columns; c++) {
      uint16_t number = 0;
      if (format == kBF16) {
        std::memcpy(&number, row + size_t(c) * 2, 2);
      } else {
        number = float_to_bf16(format == kFP8 ? fp8_to_float(row[c]) : half_at(row + size_t(c) * 2));
      }
      std::memcpy(out + (size_t(c / 2) * TILE + size_t(r)) * 4 + size_t(c % 2) * 2, &number, 2);
    }
  }
}

}  // namespace herd::HERD_ISA
