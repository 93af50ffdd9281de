// What the decoder calls: packed weights, quantized activations, and one table of functions for each instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layout.h"

namespace herd {

// A matrix in tiles of 16 rows, see layout.h. `row_scale` is null or multiplies each row.
struct Matrix {
  Packed kind = Packed::F32;
  int rows = 0, columns = 0;
  size_t tile_bytes = 0;
  const uint8_t* data = nullptr;
  const float* row_scale = nullptr;
};

// 32 activations for integer kernels: a value is its number times `scale` times the row's unit.
struct alignas(64) ActBlock {
  int8_t numbers[ACT_BLOCK];
  float scale;           // whole, up to ACT_SCALES
  float sum32, sum16[2];  // of the numbers times the scale
  int32_t factor, seed;  // what Dots (simd.h) multiplies by and begins with
};
constexpr int ACT_SCALES = 16383;  // 14 bits: sums of six-bit weights times it, 16 * 63 * 127 * 16,383, fit in 32

// 32 activations for kernels of BF16 pairs.
struct alignas(64) ActPairs {
  uint16_t numbers[ACT_BLOCK];
};

// Rows of activations: floats, and what the matrices they are multiplied with need: blocks of bytes, pairs of BF16.
struct Activations {
  float* values = nullptr;     // [rows][columns]
  ActBlock* blocks = nullptr;  // [rows][block_stride]
  ActPairs* pairs = nullptr;   // [rows][block_stride]
  float* unit = nullptr;       // [rows]
  int columns = 0;
  int block_stride = 0;        // see act_stride
};

// One piece of attention: `queries` vectors that share a key-value head, query i seeing positions up to last[i].
struct Piece {
  const float* const* query;    // each [head_dim]
  const int* last;
  int queries;
  int head_dim;
  int first, end;               // positions, at most SPLIT of them, the first a multiple of SPLIT
  const int* table;             // blocks of the sequence
  const uint8_t* cache;         // this layer's and head's part of block 0
  size_t block_bytes, slab_bytes;  // see block_at
  CacheKind kind;               // what the cache holds
  float scale;
  float* out;                   // [queries][head_dim + 2]: weighted values, their largest score, the sum of weights
  float* scratch;               // at least scratch_floats(queries, head_dim)
  const uint8_t* next = nullptr;  // as `cache`, of the piece that this thread comes to next, and its blocks: to be fetched meanwhile
  const int* next_table = nullptr;
  int next_blocks = 0;
};

struct Kernels {
  const char* name;
  // out[row][tile * 16 + i] for activation rows first..last: the tile's 16 weights rows times each.
  void (*tile)(const Matrix& w, int tile, const Activations& x, int first, int last, float* out, size_t out_stride);
  void (*quantize)(const Activations& x, int row);    // a row's values -> blocks
  void (*round_pairs)(const Activations& x, int row);  // a row's values -> pairs
  void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
  void (*attend)(const Piece& piece);
  void (*swiglu)(const float* gate, const float* up, float* out, int n);
  double (*exp_sum)(const float* x, float shift, float scale, float* out, int n);  // out = e^((x - shift) * scale)
  float (*largest)(const float* x, int n);
  // Raw blocks of a file -> a tile; `rows` of 16 exist. `raw` is row 0 of the tile.
  void (*pack)(const Matrix& w, int format, const uint8_t* raw, size_t row_bytes, int rows, uint8_t* out);
  bool (*packs_fast)(int format);  // whether as fast as memory gives it
  void (*to_half)(const float* x, uint16_t* out);  // sixteen numbers
  // For measuring what the processor can do: multiply-adds a round, of floats, and of 4-bit weights with 8-bit activations.
  float (*float_rounds)(int rounds);      // 12 * 16
  float (*integer_rounds)(int rounds);  // 12 * 16 * 4
  Packed (*packed_kind)(int format);
  void (*unpack_row)(int format, const uint8_t* raw, int columns, float* out);
};

HERD_INLINE size_t scratch_floats(int queries, int head_dim) {
  return size_t(queries) * SPLIT + size_t(SPLIT) * head_dim * 2 + size_t(SPLIT) * head_dim / 2 + 64;  // weights, floats, bytes of nibbles
}

const Kernels& kernels_portable();
#if defined(__x86_64__)
const Kernels& kernels_avx2();
const Kernels& kernels_avxvnni();
const Kernels& kernels_avx512();
const Kernels& kernels_avx512bf16();
#elif defined(__aarch64__)
const Kernels& kernels_neon();
#endif

// The best table for this processor, or the one called `name`; null when the processor or the build has it not.
const Kernels* choose_kernels(const char* name);

}  // namespace herd
