// How weights and the key-value cache lie in memory. Only arithmetic of constants: nothing here is compiled into a function that files
// for different instruction sets could share.
#pragma once

#include <cstddef>
#include <cstdint>

#define HERD_INLINE inline __attribute__((always_inline))

namespace herd {

constexpr int TILE = 16;       // weight rows that a kernel computes together
constexpr int BLOCK = 16;      // positions in a block of the key-value cache
constexpr int SPLIT = 128;     // positions that one piece of attention covers
constexpr int ACT_BLOCK = 32;  // activations that share a scale

// How weights are held in memory. The integer ones have a scale, and some a minimum, for each row and group of columns.
enum class Packed : int {
  F32, F16, BF16,
  BF16_PAIRS,  // BF16, for processors that multiply pairs of them; F16 is rounded to it
  I4,   // 4 bits minus 8, groups of 32                    Q4_0
  I4M,  // 4 bits and a minimum, groups of 32              Q4_1, Q4_K
  I5,   // 5 bits minus 16, groups of 32                   Q5_0
  I5M,  // 5 bits and a minimum, groups of 32              Q5_1, Q5_K
  I6,   // 6 bits minus 32, groups of 16                   Q6_K
  I8,   // 8 bits, groups of 32                            Q8_0
};

// A tile is 16 rows of a matrix, a quad four columns of them: 64 bytes, row after row.
//
//   float tile    column 0: 16 weights | column 1: 16 weights | ...
//   of pairs      columns 0 and 1: 16 pairs, row after row | columns 2 and 3: 16 pairs | ...
//   integer tile  group 0 | group 1 | ...
//
//   group of 4 bits   quads 0 and 4 | quads 1 and 5 | 2 and 6 | 3 and 7 | 16 scales | 16 minima or nothing
//                     in low and high nibbles; scales and minima are halves
//   of 5 bits         the same, and before the scales 64 bytes of fifth bits: bit q of each is that of its place in quad q
//   of 6 bits         quads 0 and 2 | quads 1 and 3 | 64 bytes: bits 2q and 2q + 1 are those above four of quad q | 16 scales
//   of 8 bits         quad 0 | quad 1 | ... | quad 7 | 16 scales
template <Packed K>
struct Layout {
  static constexpr bool PAIRS = K == Packed::BF16_PAIRS;
  static constexpr bool INTEGER = K != Packed::F32 && K != Packed::F16 && K != Packed::BF16 && !PAIRS;
  static constexpr bool MINIMUM = K == Packed::I4M || K == Packed::I5M;
  static constexpr int BITS = K == Packed::I4 || K == Packed::I4M ? 4 : K == Packed::I5 || K == Packed::I5M ? 5 : K == Packed::I6 ? 6 : 8;
  static constexpr bool NIBBLES = BITS < 8;
  static constexpr int OFFSET = K == Packed::I4 ? 8 : K == Packed::I5 ? 16 : K == Packed::I6 ? 32 : 0;
  static constexpr int COLUMNS = K == Packed::I6 ? 16 : 32, QUADS = COLUMNS / 4;
  static constexpr bool HIGH_BITS = BITS == 5 || BITS == 6;
  static constexpr int HIGH = QUADS / 2 * 64;  // where the bits above four are
  static constexpr int WEIGHT_BYTES = NIBBLES ? HIGH + (HIGH_BITS ? 64 : 0) : QUADS * 64;
  static constexpr int GROUP_BYTES = WEIGHT_BYTES + TILE * 2 * (MINIMUM ? 2 : 1);
  static constexpr int FLOAT_BYTES = K == Packed::F32 ? 4 : 2;

  static constexpr size_t tile_bytes(int columns) {
    if (PAIRS) columns = (columns + 1) / 2 * 2;
    return INTEGER ? size_t(columns / COLUMNS) * GROUP_BYTES : size_t(columns) * TILE * FLOAT_BYTES;
  }
};

// f<KIND>() for a kind that is known at run time.
template <class F>
HERD_INLINE auto with_kind(Packed kind, F&& f) {
  switch (kind) {
    case Packed::F32: return f.template operator()<Packed::F32>();
    case Packed::F16: return f.template operator()<Packed::F16>();
    case Packed::BF16: return f.template operator()<Packed::BF16>();
    case Packed::BF16_PAIRS: return f.template operator()<Packed::BF16_PAIRS>();
    case Packed::I4: return f.template operator()<Packed::I4>();
    case Packed::I4M: return f.template operator()<Packed::I4M>();
    case Packed::I5: return f.template operator()<Packed::I5>();
    case Packed::I5M: return f.template operator()<Packed::I5M>();
    case Packed::I6: return f.template operator()<Packed::I6>();
    case Packed::I8: break;
  }
  return f.template operator()<Packed::I8>();
}

HERD_INLINE size_t tile_bytes(Packed kind, int columns) {
  return with_kind(kind, [columns]<Packed K>() { return Layout<K>::tile_bytes(columns); });
}

// A row of quantized activations is blocks of a cache line (ACT_BLOCK numbers with what belongs to them, or as many BF16):
//
//   row 0   block | block | ... | block | perhaps an empty line
//   row 1   block | ...
//
// An odd number of lines from row to row: with a power of two of them, the rows that a tile multiplies together would share one set
// of the first-level cache and drive each other out.
HERD_INLINE int act_stride(int columns) { return (columns + ACT_BLOCK - 1) / ACT_BLOCK | 1; }

// The cache. A block is 16 positions of one layer, a slab SLAB blocks of all layers, so that a short context touches few pages:
//
//   cache   slab 0 | slab 1 | ...
//   slab    layer 0: SLAB blocks | layer 1: SLAB blocks | ...
//   block   key-value head 0 | head 1 | ...
//   head    keys [head_dim][BLOCK] | values [BLOCK][head_dim]   as floats or halves
//           and with bytes or nibbles: | BLOCK scales of keys | BLOCK scales of values   as floats
//
// Keys are transposed so that the scores of sixteen positions come out at once. A byte of nibbles holds numbers n (low) and n + 16 (high)
// of 32, each plus 8; where a vector's length is a power of two it is turned by a Hadamard matrix first (see attend.cpp).
constexpr int SLAB = 16;
enum class CacheKind : int { F32, F16, INT8, INT4 };

HERD_INLINE bool has_scales(CacheKind kind) { return kind == CacheKind::INT8 || kind == CacheKind::INT4; }

HERD_INLINE size_t head_bytes(int head_dim, CacheKind kind) {
  size_t numbers = size_t(head_dim) * BLOCK * 2, scales = 2 * BLOCK * sizeof(float);
  switch (kind) {
    case CacheKind::F32: return numbers * 4;
    case CacheKind::F16: return numbers * 2;
    case CacheKind::INT8: return numbers + scales;
    case CacheKind::INT4: break;
  }
  return numbers / 2 + scales;
}

// Where a block's part of a layer begins, from the layer's part of slab 0.
HERD_INLINE size_t block_at(int block, size_t block_bytes, size_t slab_bytes) {
  return size_t(block / SLAB) * slab_bytes + size_t(block % SLAB) * block_bytes;
}

}  // namespace herd
