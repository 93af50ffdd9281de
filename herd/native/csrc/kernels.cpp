// The kernels, written once and compiled for each instruction set (HERD_ISA names it).
#include "kernels.h"

#include <cfloat>

#include "pack.h"
#include "simd.h"

namespace herd::HERD_ISA {
namespace {

// Four low bits of quad q's numbers and those above, which lie together for all quads of a group.
template <Packed K>
HERD_INLINE Quad with_high(Quad low, Quad high, int q) {
  constexpr int MORE = Layout<K>::BITS - 4;
  return Layout<K>::HIGH_BITS ? both(low, bits(high, q * MORE - 4, (1 << (4 + MORE)) - 16)) : low;
}

// Fetch what comes soon into the second-level cache; floats are left to the hardware.
template <class T>
HERD_INLINE void fetch(const T* p, int numbers) {
  if constexpr (sizeof(T) < sizeof(float))
    for (int at = 0; at < numbers; at += int(64 / sizeof(T))) __builtin_prefetch(p + at, 0, 2);
}

// ROWS activation rows times one tile of integer weights. Weights of a group are unpacked once for all rows; the sums of
// a group are exact integers, so the result does not depend on ROWS.
template <Packed K, int ROWS>
void integer_tile(const Matrix& w, const uint8_t* tile, const Activations& x, int first, float* out, size_t stride) {
  using L = Layout<K>;
  using D = Dots<L::BITS, L::OFFSET>;
  constexpr int QUADS = L::QUADS;
  constexpr int TOGETHER = ROWS > 1 ? 1 : PARTS;  // the sums of one part of sixteen for several rows stay in registers
  // A weight is scale * (number - OFFSET) + minimum: what does not depend on the number is a minimum too, unless Dots sees to it.
  constexpr float BELOW = -float(D::BELOW);
  const ActBlock* rows[ROWS];
  for (int r = 0; r < ROWS; r++) rows[r] = x.blocks + size_t(first + r) * size_t(x.block_stride);
  // One row waits for memory all the time. Of several blocks of rows the first fetches the next tile meanwhile.
  const size_t ahead = ROWS == 1 ? 8192 : first == 0 ? w.tile_bytes : 0;
  const int groups = w.columns / L::COLUMNS;
  for (int part = 0; part < PARTS; part += TOGETHER) {
    Part acc[TOGETHER][ROWS];
    for (auto& some : acc)
      for (auto& sum : some) sum = part_set(0.0f);
    const uint8_t* group = tile;
    for (int g = 0; g < groups; g++, group += L::GROUP_BYTES) {
      if (ahead && part == 0) fetch(group + ahead, L::GROUP_BYTES);
      const int block = g * L::COLUMNS / ACT_BLOCK, within = g * L::COLUMNS % ACT_BLOCK;
#pragma GCC unroll 2
      for (int p = 0; p < TOGETHER; p++) {
        const uint8_t* weights = group + (part + p) * LANES * 4;
        D dots[ROWS];
        if constexpr (D::SEEDED)
          for (int r = 0; r < ROWS; r++) dots[r].start(rows[r][block].seed);
        Quad high = load_quad(weights + (L::HIGH_BITS ? L::HIGH : 0));
#pragma GCC unroll 8
        for (int q = 0; q < (L::NIBBLES ? QUADS / 2 : QUADS); q++) {
          if (PARTS > 1) asm volatile("" ::: "memory");  // else the compiler loads all activations first, and spills them
          Quad quad = load_quad(weights + q * 64), low = L::NIBBLES ? with_high<K>(bits(quad, 0, 15), high, q) : quad;
#pragma GCC unroll 16
          for (int r = 0; r < ROWS; r++) dots[r].add(low, four(rows[r][block].numbers + within + q * 4), L::NIBBLES ? 2 * q : q);
          if constexpr (L::NIBBLES) {
            const int second = q + QUADS / 2;
            quad = with_high<K>(bits(quad, 4, 15), high, second);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) dots[r].add(quad, four(rows[r][block].numbers + within + second * 4), 2 * q + 1);
          }
        }
        const uint16_t* scales = reinterpret_cast<const uint16_t*>(group + L::WEIGHT_BYTES) + (part + p) * LANES;
        Part weight_scale = part_half(scales);
        Part minimum = weight_scale * part_set(BELOW);
        if constexpr (L::MINIMUM) minimum = BELOW != 0 ? part_half(scales + TILE) + minimum : part_half(scales + TILE);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
          const ActBlock& act = rows[r][block];
          acc[p][r] = fma(dots[r].get(act.factor, act.scale), weight_scale, acc[p][r]);
          if constexpr (L::MINIMUM || BELOW != 0)
            acc[p][r] = fma(part_set(L::COLUMNS == 32 ? act.sum32 : act.sum16[within / 16]), minimum, acc[p][r]);
        }
      }
    }
    for (int r = 0; r < ROWS; r++)
      for (int p = 0; p < TOGETHER; p++) part_store(out + size_t(r) * stride + (part + p) * LANES, acc[p][r] * part_set(x.unit[first + r]));
  }
}

template <Packed K>
inline F16x load_column(const uint8_t* tile, int column) {
  if constexpr (K == Packed::F32) return load(reinterpret_cast<const float*>(tile) + size_t(column) * TILE);
  if constexpr (K == Packed::F16) return load_half(reinterpret_cast<const uint16_t*>(tile) + size_t(column) * TILE);
  if constexpr (K == Packed::BF16) return load_bf16(reinterpret_cast<const uint16_t*>(tile) + size_t(column) * TILE);
}

// ROWS activation rows times one tile of float weights; separate sums over every second or fourth column, added at the end, whatever
// ROWS is.
template <Packed K, int ROWS>
void float_tile(const Matrix& w, const uint8_t* tile, const Activations& x, int first, float* out, size_t stride) {
  constexpr int STREAMS = PARTS == 1 ? 4 : 2;
  F16x acc[ROWS][STREAMS];
  for (auto& row : acc)
    for (auto& sum : row) sum = zero();
  const float* values[ROWS];
  for (int r = 0; r < ROWS; r++) values[r] = x.values + size_t(first + r) * size_t(x.columns);
  int c = 0;
  for (; c + STREAMS <= w.columns; c += STREAMS)
    for (int s = 0; s < STREAMS; s++) {
      F16x column = load_column<K>(tile, c + s);
      for (int r = 0; r < ROWS; r++) acc[r][s] = fma(column, set(values[r][c + s]), acc[r][s]);
    }
  for (; c < w.columns; c++) {
    F16x column = load_column<K>(tile, c);
    for (int r = 0; r < ROWS; r++) acc[r][0] = fma(column, set(values[r][c]), acc[r][0]);
  }
  for (int r = 0; r < ROWS; r++) {
    F16x total = acc[r][0] + acc[r][1];
    if constexpr (STREAMS == 4) total = total + (acc[r][2] + acc[r][3]);
    store(out + size_t(r) * stride, total);
  }
}

template <Packed K, int ROWS>
void one_tile(const Matrix& w, const uint8_t* tile, const Activations& x, int first, float* out, size_t stride) {
  if constexpr (Layout<K>::INTEGER) {
    integer_tile<K, ROWS>(w, tile, x, first, out, stride);
  } else {
    float_tile<K, ROWS>(w, tile, x, first, out, stride);
  }
}

template <Packed K>
void tile_rows(const Matrix& w, int index, const Activations& x, int first, int last, float* out, size_t stride) {
  constexpr bool INTEGER = Layout<K>::INTEGER;
  constexpr int WIDE = INTEGER ? (PARTS == 1 ? 16 : 8) : PARTS == 1 ? 6 : 2;
  const uint8_t* tile = w.data + size_t(index) * w.tile_bytes;
  out += size_t(index) * TILE;
  int row = first;
  auto by = [&]<int ROWS>() {
    for (; row + ROWS <= last; row += ROWS) one_tile<K, ROWS>(w, tile, x, row, out + size_t(row) * stride, stride);
  };
  by.template operator()<WIDE>();
  if constexpr (INTEGER) by.template operator()<4>();
  if constexpr (WIDE > 2) by.template operator()<2>();
  by.template operator()<1>();
  if (w.row_scale) {
    F16x scale = load(w.row_scale + size_t(index) * TILE);
    for (row = first; row < last; row++) {
      float* place = out + size_t(row) * stride;
      store(place, load(place) * scale);
    }
  }
}

void tile(const Matrix& w, int index, const Activations& x, int first, int last, float* out, size_t stride) {
  switch (w.kind) {
    case Packed::F32: return tile_rows<Packed::F32>(w, index, x, first, last, out, stride);
    case Packed::F16: return tile_rows<Packed::F16>(w, index, x, first, last, out, stride);
    case Packed::BF16: return tile_rows<Packed::BF16>(w, index, x, first, last, out, stride);
    case Packed::I4: return tile_rows<Packed::I4>(w, index, x, first, last, out, stride);
    case Packed::I4M: return tile_rows<Packed::I4M>(w, index, x, first, last, out, stride);
    case Packed::I5: return tile_rows<Packed::I5>(w, index, x, first, last, out, stride);
    case Packed::I5M: return tile_rows<Packed::I5M>(w, index, x, first, last, out, stride);
    case Packed::I6: return tile_rows<Packed::I6>(w, index, x, first, last, out, stride);
    case Packed::I8: return tile_rows<Packed::I8>(w, index, x, first, last, out, stride);
  }
}

// A row's blocks have scales of 14 bits times the row's unit, so that integer kernels can multiply with them.
void quantize(const Activations& x, int row) {
  const float* from = x.values + size_t(row) * size_t(x.columns);
  const int count = x.columns / ACT_BLOCK;
  ActBlock* blocks = x.blocks + size_t(row) * size_t(x.block_stride);
  float largest_of_all = 0;
  for (int b = 0; b < count; b++) {
    float most = largest(max(abs(load(from + b * ACT_BLOCK)), abs(load(from + b * ACT_BLOCK + 16))));
    blocks[b].scale = most;
    largest_of_all = std::max(largest_of_all, most);
  }
  const float unit = largest_of_all / (127.0f * ACT_SCALES), inverse_unit = unit > 0 ? 1 / unit : 0;
  x.unit[row] = unit;
  for (int b = 0; b < count; b++, from += ACT_BLOCK) {
    ActBlock& block = blocks[b];
    float scale = std::min(float(ACT_SCALES), std::ceil(block.scale * (inverse_unit / 127)));
    float inverse = scale > 0 ? inverse_unit / scale : 0;
    F16x low = round(load(from) * set(inverse)), high = round(load(from + 16) * set(inverse));
    store_int8(block.numbers, low);
    store_int8(block.numbers + 16, high);
    float first = sum(low), second = sum(high);
    block.scale = scale;
    block.sum16[0] = first * scale;
    block.sum16[1] = second * scale;
    block.sum32 = block.sum16[0] + block.sum16[1];
    block.factor = Dots<4, 8>::factor_of(int(scale));
    block.seed = Dots<4, 8>::seed_of(int(first + second));
  }
}

void rms_norm(const float* x, const float* weight, float eps, int n, float* out) {
  F16x squares = zero();
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    F16x v = load(x + i);
    squares = fma(v, v, squares);
  }
  float total = sum(squares);
  for (; i < n; i++) total += x[i] * x[i];
  float inverse = 1.0f / std::sqrt(total / float(n) + eps);
  for (i = 0; i + 16 <= n; i += 16) store(out + i, load(x + i) * set(inverse) * load(weight + i));
  for (; i < n; i++) out[i] = x[i] * inverse * weight[i];
}

void swiglu(const float* gate, const float* up, float* out, int n) {
  for (int i = 0; i < n; i += 16) {  // n is a multiple of 16
    F16x g = load(gate + i);
    store(out + i, g / (set(1.0f) + exp(zero() - g)) * load(up + i));
  }
}

double exp_sum(const float* x, float shift, float scale, float* out, int n) {
  double total = 0;
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    F16x e = exp((load(x + i) - set(shift)) * set(scale));
    if (out) store(out + i, e);
    total += sum(e);
  }
  for (; i < n; i++) {
    float e = std::exp((x[i] - shift) * scale);
    if (out) out[i] = e;
    total += e;
  }
  return total;
}

float largest_of(const float* x, int n) {
  float most = -FLT_MAX;
  int i = 0;
  if (n >= 16) {
    F16x best = load(x);
    for (i = 16; i + 16 <= n; i += 16) best = max(best, load(x + i));
    most = largest(best);
  }
  for (; i < n; i++) most = x[i] > most ? x[i] : most;
  return most;
}

// Where many queries share a piece, its keys and values are widened to floats once.
HERD_INLINE F16x load_any(const uint16_t* p) { return load_half(p); }
HERD_INLINE F16x load_any(const int8_t* p) { return load_int8(p); }
HERD_INLINE F16x load_any(const float* p) { return load(p); }

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
  return PARTS == 1 ? (ROWS > 3 ? 2 : 4) : PARTS == 2 ? (ROWS > 3 ? 1 : ROWS > 1 ? 2 : 4) : 1;
}

// Keys are read once and values once, so that what comes next is fetched meanwhile: the values of a piece while its scores
// are computed, the next piece's keys while its values are mixed. Where they were widened to floats they are in the cache.
template <int ROWS, int BLOCKS, class T, bool SCALED>
HERD_INLINE void scores(const float* const* query, const Slots<T, SCALED>& slots, int first, int head_dim, float scale, float* out) {
  constexpr int LINE = sizeof(T) < 4 ? int(64 / sizeof(T)) / BLOCK : 1;  // divides head_dim
  F16x acc[ROWS][BLOCKS];
  for (auto& row : acc)
    for (auto& a : row) a = zero();
  for (int line = 0; line < head_dim; line += LINE) {
    for (int b = 0; b < BLOCKS; b++) fetch(slots.values[first + b] + line * BLOCK, 1);
#pragma GCC unroll 4
    for (int d = line; d < line + LINE; d++) {
#pragma GCC unroll 4
      for (int b = 0; b < BLOCKS; b++) {
        if (PARTS > 1 && ROWS > 1 && BLOCKS > 1) asm volatile("" ::: "memory");
        F16x k = load_any(slots.keys[first + b] + d * BLOCK);
        for (int r = 0; r < ROWS; r++) acc[r][b] = fma(k, set(query[r][d]), acc[r][b]);
      }
    }
  }
  for (int b = 0; b < BLOCKS; b++) {
    F16x by = set(scale);
    if constexpr (SCALED) by = by * load(slots.scales[first + b]);
    for (int r = 0; r < ROWS; r++) store(out + r * SPLIT + b * BLOCK, acc[r][b] * by);
  }
}

template <int ROWS, int VECTORS, class T>
HERD_INLINE void mix(const float* weights, const T* const* values, const T* const* next, int blocks, int head_dim, float* out, int out_stride) {
  F16x acc[ROWS][VECTORS];
  for (auto& row : acc)
    for (auto& a : row) a = zero();
  for (int b = 0; b < blocks; b++)
    for (int i = 0; i < BLOCK; i++) {
      fetch(next[b] + i * head_dim, VECTORS * 16);
#pragma GCC unroll 4
      for (int n = 0; n < VECTORS; n++) {
        if (PARTS > 1 && ROWS > 1 && VECTORS > 1) asm volatile("" ::: "memory");
        F16x part = load_any(values[b] + i * head_dim + n * 16);
        for (int r = 0; r < ROWS; r++) acc[r][n] = fma(set(weights[r * SPLIT + b * BLOCK + i]), part, acc[r][n]);
      }
    }
  for (int r = 0; r < ROWS; r++)
    for (int n = 0; n < VECTORS; n++) store(out + r * out_stride + n * 16, acc[r][n]);
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
    F16x best = load(w);
    for (int b = 1; b < blocks; b++) best = max(best, load(w + b * BLOCK));
    float most = largest(best);
    F16x total = zero();
    for (int b = 0; b < blocks; b++) {
      F16x e = exp(load(w + b * BLOCK) - set(most));
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
    auto some = [&]<int VECTORS>(int v) {
      for (int b = 0; b < blocks; b++) {
        at[b] = slots.values[b] + v * 16;
        then[b] = next[b] + v * 16;
      }
      mix<ROWS, VECTORS>(weights + q * SPLIT, at, then, blocks, dim, piece.out + q * stride + v * 16, stride);
    };
    int v = 0;
    for (; v + AT_ONCE <= dim / 16; v += AT_ONCE) some.template operator()<AT_ONCE>(v);
    for (; v < dim / 16; v++) some.template operator()<1>(v);
  });
}

template <class T, bool SCALED>
void attend_as(const Piece& piece) {
  Slots<T, SCALED> slots;
  int blocks = (piece.end - piece.first + BLOCK - 1) / BLOCK;
  size_t numbers = size_t(piece.head_dim) * BLOCK;
  for (int b = 0; b < blocks; b++) {
    const uint8_t* block = piece.cache + block_at(piece.table[piece.first / BLOCK + b], piece.block_bytes, piece.group_bytes);
    slots.keys[b] = reinterpret_cast<const T*>(block);
    slots.values[b] = slots.keys[b] + numbers;
    slots.scales[b] = reinterpret_cast<const float*>(slots.values[b] + numbers);
  }
  float* weights = piece.scratch;
  if (piece.queries < 12) {
    const T* next[SLOTS];
    for (int b = 0; b < blocks; b++)
      next[b] = b < piece.next_blocks ? reinterpret_cast<const T*>(piece.next + block_at(piece.next_table[b], piece.block_bytes, piece.group_bytes)) : slots.values[b];
    return attend_piece(piece, slots, next, weights);
  }
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

void attend(const Piece& piece) {
  piece.int8 ? attend_as<int8_t, true>(piece) : attend_as<uint16_t, false>(piece);
}

void to_half(const float* x, uint16_t* out) { store_half(out, load(x)); }

float burn(int rounds) {
  F16x acc[12], x = set(1.0000001f), y = set(1e-9f);
  for (auto& a : acc) a = y;
  for (int n = 0; n < rounds; n++)
    for (auto& a : acc) a = fma(a, x, y);
  F16x total = acc[0];
  for (int i = 1; i < 12; i++) total = total + acc[i];
  return sum(total);
}

void pack(Matrix& w, int format, int index, const uint8_t* raw, size_t row_bytes, int rows, uint8_t* out) {
  out += size_t(index) * w.tile_bytes;
  switch (w.kind) {
    case Packed::F32: return pack_columns<uint32_t>(raw, row_bytes, rows, w.columns, out);
    case Packed::F16: return pack_columns<uint16_t>(raw, row_bytes, rows, w.columns, out);
    case Packed::BF16:
      return format == kFP8 ? pack_fp8(raw, row_bytes, rows, w.columns, out)
                            : pack_columns<uint16_t>(raw, row_bytes, rows, w.columns, out);
    case Packed::I4: return pack_integer<Packed::I4>(format, raw, row_bytes, rows, w.columns, out);
    case Packed::I4M: return pack_integer<Packed::I4M>(format, raw, row_bytes, rows, w.columns, out);
    case Packed::I5: return pack_integer<Packed::I5>(format, raw, row_bytes, rows, w.columns, out);
    case Packed::I5M: return pack_integer<Packed::I5M>(format, raw, row_bytes, rows, w.columns, out);
    case Packed::I6: return pack_integer<Packed::I6>(format, raw, row_bytes, rows, w.columns, out);
    case Packed::I8: return pack_integer<Packed::I8>(format, raw, row_bytes, rows, w.columns, out);
  }
}

}  // namespace

#define HERD_TEXT(x) #x
#define HERD_NAME(x) HERD_TEXT(x)
constexpr Kernels TABLE = {HERD_NAME(HERD_ISA), tile,    quantize,   rms_norm, attend,    swiglu,
                           exp_sum,             largest_of, pack,     to_half, burn, packed_kind, unpack_row};

}  // namespace herd::HERD_ISA

#define HERD_JOIN(a, b) a##b
#define HERD_GETTER(isa) HERD_JOIN(kernels_, isa)
namespace herd {
const Kernels& HERD_GETTER(HERD_ISA)() { return HERD_ISA::TABLE; }
}  // namespace herd
