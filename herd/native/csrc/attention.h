// Attention of one piece: scores of queries and keys, their softmax, and the values weighed with it.
#pragma once

#include <algorithm>
#include <cfloat>

#include "kernels.h"
#include "simd.h"

namespace herd::HERD_ISA {
namespace {

// Where many queries share a piece, its keys and values are widened to floats once.
HERD_INLINE F32x16 load_any(const uint16_t* p) { return load_half(p); }
HERD_INLINE F32x16 load_any(const int8_t* p) { return load_int8(p); }
HERD_INLINE F32x16 load_any(const float* p) { return load(p); }

constexpr int SLOTS = SPLIT / BLOCK;

// The blocks of a piece; those in bytes with 16 scales of keys and 16 of values each.
template <class T, bool SCALED>
struct Slots {
  const T *keys[SLOTS], *values[SLOTS];
  const float* scales[SLOTS];
};

// Calls f<ROWS>(q) until n queries are dealt with, so many of them at a time as share a load.
template <class F>
HERD_INLINE void by_rows(int n, F&& f) {
  int q = 0;
  for (; q + 6 <= n; q += 6) f.template operator()<6>(q);
  for (; q + 4 <= n; q += 4) f.template operator()<4>(q);
  for (; q + 3 <= n; q += 3) f.template operator()<3>(q);
  for (; q + 2 <= n; q += 2) f.template operator()<2>(q);
  for (; q < n; q++) f.template operator()<1>(q);
}

// Sixteens of sums that ROWS rows have at a time: enough to hide the latency of a multiply-add, no more than there are registers.
template <int ROWS>
constexpr int at_once() {
  return VECTORS == 1 ? (ROWS > 3 ? 2 : 4) : VECTORS == 2 ? (ROWS > 3 ? 1 : ROWS > 1 ? 2 : 4) : 1;
}

// Keys are read once and values once, so that what comes next is fetched meanwhile: the values of a piece while its scores
// are computed, the next piece's keys while its values are mixed. Where they were widened to floats they are in the cache.
template <int ROWS, int BLOCKS, class T, bool SCALED>
HERD_INLINE void scores(const float* const* query, const Slots<T, SCALED>& slots, int first, int head_dim, float scale, float* out) {
  constexpr int LINE = sizeof(T) < 4 ? int(64 / sizeof(T)) / BLOCK : 1;  // divides head_dim
  F32x16 acc[ROWS][BLOCKS];
  for (auto& row : acc)
    for (auto& a : row) a = zero();
  for (int line = 0; line < head_dim; line += LINE) {
    for (int b = 0; b < BLOCKS; b++) fetch(slots.values[first + b] + line * BLOCK, 1);
#pragma GCC unroll 4
    for (int d = line; d < line + LINE; d++) {
#pragma GCC unroll 4
      for (int b = 0; b < BLOCKS; b++) {
        if (VECTORS > 1 && ROWS > 1 && BLOCKS > 1) asm volatile("" ::: "memory");
        F32x16 k = load_any(slots.keys[first + b] + d * BLOCK);
        for (int r = 0; r < ROWS; r++) acc[r][b] = fma(k, set(query[r][d]), acc[r][b]);
      }
    }
  }
  for (int b = 0; b < BLOCKS; b++) {
    F32x16 by = set(scale);
    if constexpr (SCALED) by = by * load(slots.scales[first + b]);
    for (int r = 0; r < ROWS; r++) store(out + r * SPLIT + b * BLOCK, acc[r][b] * by);
  }
}

template <int ROWS, int SIXTEENS, class T>
HERD_INLINE void mix(const float* weights, const T* const* values, const T* const* next, int blocks, int head_dim, float* out, int out_stride) {
  F32x16 acc[ROWS][SIXTEENS];
  for (auto& row : acc)
    for (auto& a : row) a = zero();
  for (int b = 0; b < blocks; b++)
    for (int i = 0; i < BLOCK; i++) {
      fetch(next[b] + i * head_dim, SIXTEENS * 16);
#pragma GCC unroll 4
      for (int n = 0; n < SIXTEENS; n++) {
        if (VECTORS > 1 && ROWS > 1 && SIXTEENS > 1) asm volatile("" ::: "memory");
        F32x16 value = load_any(values[b] + i * head_dim + n * 16);
        for (int r = 0; r < ROWS; r++) acc[r][n] = fma(set(weights[r * SPLIT + b * BLOCK + i]), value, acc[r][n]);
      }
    }
  for (int r = 0; r < ROWS; r++)
    for (int n = 0; n < SIXTEENS; n++) store(out + r * out_stride + n * 16, acc[r][n]);
}

template <class T, bool SCALED>
void attend_piece(const Piece& piece, const Slots<T, SCALED>& slots, const T* const* next, float* weights) {
  int n = piece.queries, dim = piece.head_dim, stride = dim + 2, count = piece.end - piece.first;
  int blocks = (count + BLOCK - 1) / BLOCK;
  for (int first = 0; first < blocks; first += 4)
    by_rows(n, [&]<int ROWS>(int q) {
      constexpr int AT_ONCE = at_once<ROWS>();
      int block = first, last = std::min(first + 4, blocks);
      float* out = weights + q * SPLIT;
      for (; block + AT_ONCE <= last; block += AT_ONCE)
        scores<ROWS, AT_ONCE>(piece.query + q, slots, block, dim, piece.scale, out + block * BLOCK);
      for (; block < last; block++) scores<ROWS, 1>(piece.query + q, slots, block, dim, piece.scale, out + block * BLOCK);
    });
  for (int q = 0; q < n; q++) {
    float* w = weights + q * SPLIT;
    float* out = piece.out + q * stride;
    int seen = piece.last[q] + 1 - piece.first;
    seen = seen < 0 ? 0 : seen > count ? count : seen;
    for (int i = seen; i < blocks * BLOCK; i++) w[i] = -FLT_MAX;
    F32x16 best = load(w);
    for (int b = 1; b < blocks; b++) best = max(best, load(w + b * BLOCK));
    float most = largest(best);
    F32x16 total = zero();
    for (int b = 0; b < blocks; b++) {
      F32x16 e = exp(load(w + b * BLOCK) - set(most));
      store(w + b * BLOCK, e);
    }
    for (int i = seen; i < blocks * BLOCK; i++) w[i] = 0;
    for (int b = 0; b < blocks; b++) total = total + load(w + b * BLOCK);
    if constexpr (SCALED)
      for (int b = 0; b < blocks; b++) store(w + b * BLOCK, load(w + b * BLOCK) * load(slots.scales[b] + BLOCK));
    out[dim] = seen ? most : -FLT_MAX;
    out[dim + 1] = sum(total);
  }
  by_rows(n, [&]<int ROWS>(int q) {
    constexpr int AT_ONCE = at_once<ROWS>();
    const T *at[SLOTS], *then[SLOTS];
    auto some = [&]<int SIXTEENS>(int v) {
      for (int b = 0; b < blocks; b++) {
        at[b] = slots.values[b] + v * 16;
        then[b] = next[b] + v * 16;
      }
      mix<ROWS, SIXTEENS>(weights + q * SPLIT, at, then, blocks, dim, piece.out + q * stride + v * 16, stride);
    };
    int v = 0;
    for (; v + AT_ONCE <= dim / 16; v += AT_ONCE) some.template operator()<AT_ONCE>(v);
    for (; v < dim / 16; v++) some.template operator()<1>(v);
  });
}

// With the blocks of a piece in place.
template <class T, bool SCALED>
void attend_slots(const Piece& piece, const Slots<T, SCALED>& slots, const T* const* next) {
  int blocks = (piece.end - piece.first + BLOCK - 1) / BLOCK;
  size_t numbers = size_t(piece.head_dim) * BLOCK;
  float* weights = piece.scratch;
  if (piece.queries < 12) return attend_piece(piece, slots, next, weights);
  Slots<float, SCALED> wide;
  float* to = weights + size_t(piece.queries) * SPLIT;
  for (int b = 0; b < blocks; b++, to += 2 * numbers) {
    for (size_t i = 0; i < 2 * numbers; i += 16) store(to + i, load_any(slots.keys[b] + i));
    wide.keys[b] = to;
    wide.values[b] = to + numbers;
    wide.scales[b] = slots.scales[b];
  }
  attend_piece(piece, wide, wide.values, weights);
}

template <class T, bool SCALED>
void attend_as(const Piece& piece) {
  Slots<T, SCALED> slots;
  const T* next[SLOTS];
  int blocks = (piece.end - piece.first + BLOCK - 1) / BLOCK;
  size_t numbers = size_t(piece.head_dim) * BLOCK;
  for (int b = 0; b < blocks; b++) {
    const uint8_t* block = piece.cache + block_at(piece.table[piece.first / BLOCK + b], piece.block_bytes, piece.slab_bytes);
    slots.keys[b] = reinterpret_cast<const T*>(block);
    slots.values[b] = slots.keys[b] + numbers;
    slots.scales[b] = reinterpret_cast<const float*>(slots.values[b] + numbers);
    next[b] = b < piece.next_blocks ? reinterpret_cast<const T*>(piece.next + block_at(piece.next_table[b], piece.block_bytes, piece.slab_bytes)) : slots.values[b];
  }
  attend_slots(piece, slots, next);
}

// Nibbles become bytes first, which stay in the first-level cache: a quarter of what the products take.
void attend_nibbles(const Piece& piece) {
  Slots<int8_t, true> slots;
  int blocks = (piece.end - piece.first + BLOCK - 1) / BLOCK;
  size_t numbers = size_t(piece.head_dim) * BLOCK;
  int8_t* bytes = reinterpret_cast<int8_t*>(piece.scratch + size_t(piece.queries) * SPLIT + size_t(SPLIT) * size_t(piece.head_dim) * 2);
  for (int b = 0; b < blocks; b++, bytes += 2 * numbers) {
    const uint8_t* block = piece.cache + block_at(piece.table[piece.first / BLOCK + b], piece.block_bytes, piece.slab_bytes);
    const uint8_t* next = b < piece.next_blocks ? piece.next + block_at(piece.next_table[b], piece.block_bytes, piece.slab_bytes) : block;
    for (size_t at = 0; at < numbers; at += 16) {
      if (at % 64 == 0) fetch(next + at, 1);
      for (int i = 0; i < 16; i++) {
        bytes[2 * at + size_t(i)] = int8_t((block[at + size_t(i)] & 15) - 8);
        bytes[2 * at + size_t(i) + 16] = int8_t((block[at + size_t(i)] >> 4) - 8);
      }
    }
    slots.keys[b] = bytes;
    slots.values[b] = bytes + numbers;
    slots.scales[b] = reinterpret_cast<const float*>(block + numbers);
  }
  attend_slots(piece, slots, slots.values);
}

void attend(const Piece& piece) {
  switch (piece.kind) {
    case CacheKind::F32: return attend_as<float, false>(piece);
    case CacheKind::F16: return attend_as<uint16_t, false>(piece);
    case CacheKind::INT8: return attend_as<int8_t, true>(piece);
    case CacheKind::INT4: return attend_nibbles(piece);
  }
}

}  // namespace
}  // namespace herd::HERD_ISA
