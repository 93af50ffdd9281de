// The kernels, written once and compiled for each instruction set (HERD_ISA names it).
#include "kernels.h"

#include <cfloat>
#include <type_traits>

#include "attention.h"
#include "dots.h"
#include "pack_fast.h"

namespace herd::HERD_ISA {
namespace {

// Four low bits of quad q's numbers and those above, which lie together for all quads of a group.
template <Packed K>
HERD_INLINE Quad with_high(Quad low, Quad high, int q) {
  constexpr int MORE = Layout<K>::BITS - 4;
  return Layout<K>::HIGH_BITS ? bit_or(low, shift_and_mask(high, q * MORE - 4, (1 << (4 + MORE)) - 16)) : low;
}

// ROWS activation rows times one tile of integer weights. Weights of a group are unpacked once for all rows; the sums of
// a group are exact integers, so the result does not depend on ROWS.
template <Packed K, int ROWS>
void integer_tile(const Matrix& w, const uint8_t* tile, const Activations& x, int first, float* out, size_t stride) {
  using L = Layout<K>;
  using D = Dots<L::BITS, L::OFFSET>;
  constexpr int QUADS = L::QUADS;
  constexpr int TOGETHER = ROWS > 1 ? 1 : VECTORS;  // the sums of one vector for several rows stay in registers
  // A weight is scale * (number - OFFSET) + minimum: what does not depend on the number is a minimum too, unless Dots sees to it.
  constexpr float UNCORRECTED = -float(D::UNCORRECTED);
  const ActBlock* rows[ROWS];
  for (int r = 0; r < ROWS; r++) rows[r] = x.blocks + size_t(first + r) * size_t(x.block_stride);
  // One row waits for memory all the time. Of several blocks of rows the first fetches the next tile meanwhile.
  const size_t ahead = ROWS == 1 ? 8192 : first == 0 ? w.tile_bytes : 0;
  const int groups = w.columns / L::COLUMNS;
  for (int vector = 0; vector < VECTORS; vector += TOGETHER) {
    Vector acc[TOGETHER][ROWS];
    for (auto& some : acc)
      for (auto& sum : some) sum = vector_set(0.0f);
    const uint8_t* group = tile;
    for (int g = 0; g < groups; g++, group += L::GROUP_BYTES) {
      if (ahead && vector == 0) fetch(group + ahead, L::GROUP_BYTES);
      const int block = g * L::COLUMNS / ACT_BLOCK, within = g * L::COLUMNS % ACT_BLOCK;
#pragma GCC unroll 2
      for (int v = 0; v < TOGETHER; v++) {
        const uint8_t* weights = group + (vector + v) * LANES * 4;
        D dots[ROWS];
        if constexpr (D::SEEDED)
          for (int r = 0; r < ROWS; r++) dots[r].start(rows[r][block].seed);
        Quad high = load_quad(weights + (L::HIGH_BITS ? L::HIGH : 0));
#pragma GCC unroll 8
        for (int q = 0; q < (L::NIBBLES ? QUADS / 2 : QUADS); q++) {
          if (VECTORS > 1) asm volatile("" ::: "memory");  // else the compiler loads all activations first, and spills them
          Quad quad = load_quad(weights + q * 64), low = L::NIBBLES ? with_high<K>(shift_and_mask(quad, 0, 15), high, q) : quad;
#pragma GCC unroll 16
          for (int r = 0; r < ROWS; r++) dots[r].add(low, four_activations(rows[r][block].numbers + within + q * 4), L::NIBBLES ? 2 * q : q);
          if constexpr (L::NIBBLES) {
            const int second = q + QUADS / 2;
            quad = with_high<K>(shift_and_mask(quad, 4, 15), high, second);
#pragma GCC unroll 16
            for (int r = 0; r < ROWS; r++) dots[r].add(quad, four_activations(rows[r][block].numbers + within + second * 4), 2 * q + 1);
          }
        }
        const uint16_t* scales = reinterpret_cast<const uint16_t*>(group + L::WEIGHT_BYTES) + (vector + v) * LANES;
        Vector weight_scale = vector_half(scales);
        Vector minimum = weight_scale * vector_set(UNCORRECTED);
        if constexpr (L::MINIMUM) minimum = UNCORRECTED != 0 ? vector_half(scales + TILE) + minimum : vector_half(scales + TILE);
#pragma GCC unroll 16
        for (int r = 0; r < ROWS; r++) {
          const ActBlock& act = rows[r][block];
          acc[v][r] = fma(dots[r].get(act.factor, act.scale), weight_scale, acc[v][r]);
          if constexpr (L::MINIMUM || UNCORRECTED != 0)
            acc[v][r] = fma(vector_set(L::COLUMNS == 32 ? act.sum32 : act.sum16[within / 16]), minimum, acc[v][r]);
        }
      }
    }
    for (int r = 0; r < ROWS; r++)
      for (int v = 0; v < TOGETHER; v++) vector_store(out + size_t(r) * stride + (vector + v) * LANES, acc[v][r] * vector_set(x.unit[first + r]));
  }
}

template <Packed K>
inline F32x16 load_column(const uint8_t* tile, int column) {
  if constexpr (K == Packed::F32) return load(reinterpret_cast<const float*>(tile) + size_t(column) * TILE);
  if constexpr (K == Packed::F16) return load_half(reinterpret_cast<const uint16_t*>(tile) + size_t(column) * TILE);
  if constexpr (K == Packed::BF16) return load_bf16(reinterpret_cast<const uint16_t*>(tile) + size_t(column) * TILE);
}

// ROWS activation rows times one tile of float weights; separate sums over every second or fourth column, added at the end, whatever
// ROWS is.
template <Packed K, int ROWS>
void float_tile(const Matrix& w, const uint8_t* tile, const Activations& x, int first, float* out, size_t stride) {
  constexpr int STREAMS = VECTORS == 1 ? 4 : 2;
  F32x16 acc[ROWS][STREAMS];
  for (auto& row : acc)
    for (auto& sum : row) sum = zero();
  const float* values[ROWS];
  for (int r = 0; r < ROWS; r++) values[r] = x.values + size_t(first + r) * size_t(x.columns);
  int c = 0;
  for (; c + STREAMS <= w.columns; c += STREAMS)
    for (int s = 0; s < STREAMS; s++) {
      F32x16 column = load_column<K>(tile, c + s);
      for (int r = 0; r < ROWS; r++) acc[r][s] = fma(column, set(values[r][c + s]), acc[r][s]);
    }
  for (; c < w.columns; c++) {
    F32x16 column = load_column<K>(tile, c);
    for (int r = 0; r < ROWS; r++) acc[r][0] = fma(column, set(values[r][c]), acc[r][0]);
  }
  for (int r = 0; r < ROWS; r++) {
    F32x16 total = acc[r][0] + acc[r][1];
    if constexpr (STREAMS == 4) total = total + (acc[r][2] + acc[r][3]);
    store(out + size_t(r) * stride, total);
  }
}

#if defined(__AVX512BF16__)

// ROWS activation rows times one tile of BF16 pairs, in the order of the columns.
template <int ROWS>
void pairs_tile(const Matrix& w, const uint8_t* tile, const Activations& x, int first, float* out, size_t stride) {
  __m512 acc[ROWS];
  for (auto& sum : acc) sum = _mm512_setzero_ps();
  const uint16_t* rows[ROWS];
  for (int r = 0; r < ROWS; r++) rows[r] = x.pairs[size_t(first + r) * size_t(x.block_stride)].numbers;
  for (int c = 0; c < w.columns; c += 2) {
    __m512bh weights = __m512bh(_mm512_loadu_si512(tile + size_t(c) * TILE * 2));
#pragma GCC unroll 16
    for (int r = 0; r < ROWS; r++) {
      int32_t pair;
      std::memcpy(&pair, rows[r] + c, 4);
      acc[r] = _mm512_dpbf16_ps(acc[r], weights, __m512bh(_mm512_set1_epi32(pair)));
    }
  }
  for (int r = 0; r < ROWS; r++) _mm512_storeu_ps(out + size_t(r) * stride, acc[r]);
}

#else

template <int ROWS>
void pairs_tile(const Matrix&, const uint8_t*, const Activations&, int, float*, size_t) {}  // packed_kind gives no such matrix

#endif

template <Packed K, int ROWS>
void one_tile(const Matrix& w, const uint8_t* tile, const Activations& x, int first, float* out, size_t stride) {
  if constexpr (Layout<K>::INTEGER) {
    integer_tile<K, ROWS>(w, tile, x, first, out, stride);
  } else if constexpr (Layout<K>::PAIRS) {
    pairs_tile<ROWS>(w, tile, x, first, out, stride);
  } else {
    float_tile<K, ROWS>(w, tile, x, first, out, stride);
  }
}

template <Packed K>
void tile_rows(const Matrix& w, int index, const Activations& x, int first, int last, float* out, size_t stride) {
  constexpr bool INTEGER = Layout<K>::INTEGER || Layout<K>::PAIRS;
  constexpr int WIDE = INTEGER ? (VECTORS == 1 ? 16 : 8) : VECTORS == 1 ? 6 : 2;
  const uint8_t* tile = w.data + size_t(index) * w.tile_bytes;
  out += size_t(index) * TILE;
  int row = first;
  auto by = [&]<int ROWS>() {
    for (; row + ROWS <= last; row += ROWS) one_tile<K, ROWS>(w, tile, x, row, out + size_t(row) * stride, stride);
  };
  by.template operator()<WIDE>();
  if constexpr (WIDE > 8) by.template operator()<8>();
  if constexpr (INTEGER) by.template operator()<4>();
  if constexpr (WIDE > 2) by.template operator()<2>();
  by.template operator()<1>();
  if (w.row_scale) {
    F32x16 scale = load(w.row_scale + size_t(index) * TILE);
    for (row = first; row < last; row++) {
      float* place = out + size_t(row) * stride;
      store(place, load(place) * scale);
    }
  }
}

void tile(const Matrix& w, int index, const Activations& x, int first, int last, float* out, size_t stride) {
  with_kind(w.kind, [&]<Packed K>() { tile_rows<K>(w, index, x, first, last, out, stride); });
}

// A row's blocks have scales of 14 bits times the row's unit, so that integer kernels can multiply with them. A row with a
// NaN or an infinity has a unit of NaN: integers would make numbers of it.
void quantize(const Activations& x, int row) {
  const float* from = x.values + size_t(row) * size_t(x.columns);
  const int count = x.columns / ACT_BLOCK;
  ActBlock* blocks = x.blocks + size_t(row) * size_t(x.block_stride);
  float largest_of_all = 0;
  F32x16 poison = zero();
  for (int b = 0; b < count; b++) {
    F32x16 low = load(from + b * ACT_BLOCK), high = load(from + b * ACT_BLOCK + 16);
    poison = fma(low, zero(), fma(high, zero(), poison));
    float most = largest(max(abs(low), abs(high)));
    blocks[b].scale = most;
    largest_of_all = std::max(largest_of_all, most);
  }
  if (float nan = sum(poison); nan != 0) {
    std::fill(blocks, blocks + count, ActBlock{});
    x.unit[row] = nan;
    return;
  }
  const float unit = std::max(largest_of_all / (127.0f * ACT_SCALES), FLT_MIN), inverse_unit = 1 / unit;  // of a smaller one: infinity
  x.unit[row] = unit;
  for (int b = 0; b < count; b++, from += ACT_BLOCK) {
    ActBlock& block = blocks[b];
    float scale = std::min(float(ACT_SCALES), std::ceil(block.scale * (inverse_unit / 127)));
    float inverse = scale > 0 ? inverse_unit / scale : 0;
    F32x16 low = round(load(from) * set(inverse)), high = round(load(from + 16) * set(inverse));
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

void round_pairs(const Activations& x, int row) {
  const float* from = x.values + size_t(row) * size_t(x.columns);
  ActPairs* pairs = x.pairs + size_t(row) * size_t(x.block_stride);
  for (int c = 0; c < x.columns; c++) pairs[c / ACT_BLOCK].numbers[c % ACT_BLOCK] = float_to_bf16(from[c]);
  if (x.columns % 2) pairs[x.columns / ACT_BLOCK].numbers[x.columns % ACT_BLOCK] = 0;
}

void rms_norm(const float* x, const float* weight, float eps, int n, float* out) {
  F32x16 squares = zero();
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    F32x16 v = load(x + i);
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
    F32x16 g = load(gate + i);
    store(out + i, g / (set(1.0f) + exp(zero() - g)) * load(up + i));
  }
}

double exp_sum(const float* x, float shift, float scale, float* out, int n) {
  double total = 0;
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    F32x16 e = exp((load(x + i) - set(shift)) * set(scale));
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
    F32x16 best = load(x);
    for (i = 16; i + 16 <= n; i += 16) best = max(best, load(x + i));
    most = largest(best);
  }
  for (; i < n; i++) most = x[i] > most ? x[i] : most;
  return most;
}

void to_half(const float* x, uint16_t* out) { store_half(out, load(x)); }

// Twelve vectors are enough to hide the latency of a multiply-add and leave registers for what they are made of.
float float_rounds(int rounds) {
  Vector acc[12], x = vector_set(1.0000001f), y = vector_set(1e-9f);
  for (auto& a : acc) a = y;
  for (int n = 0; n < rounds * VECTORS; n++)
    for (auto& a : acc) a = fma(a, x, y);
  float out[LANES], total = 0;
  for (auto& a : acc) {
    vector_store(out, a);
    total += out[0];
  }
  return total;
}

float integer_rounds(int rounds) {
  constexpr uint8_t ONES[64] = {1, 1, 1, 1};
  constexpr int SUMS = VECTORS == 2 ? 6 : 12;  // products that are not added at once need registers too
  Quad weights = load_quad(ONES);
  Dots<4, 8> sums[SUMS];
  for (auto& sum : sums) {
    sum.start(1);
    sum.add(weights, 0x01010101, 0);
  }
  for (int n = 0; n < rounds * VECTORS * 12 / SUMS; n++)
#pragma GCC unroll 12
    for (auto& sum : sums) {
      keep_separate(weights);
      sum.add(weights, 0x01010101, 1);
    }
  float out[LANES], total = 0;
  for (auto& sum : sums) {
    vector_store(out, sum.get(1, 1.0f));
    total += out[0];
  }
  return total;
}

void pack(const Matrix& w, int format, const uint8_t* raw, size_t row_bytes, int rows, uint8_t* out) {
  if (rows == TILE && pack_fast(format, raw, row_bytes, w.columns, out)) return;
  with_kind(w.kind, [&]<Packed K>() {
    if constexpr (Layout<K>::INTEGER) {
      pack_integer<K>(format, raw, row_bytes, rows, w.columns, out);
    } else if constexpr (Layout<K>::PAIRS) {
      pack_pairs(format, raw, row_bytes, rows, w.columns, out);
    } else if (format == kFP8) {
      pack_fp8(raw, row_bytes, rows, w.columns, out);
    } else {
      pack_columns<std::conditional_t<K == Packed::F32, uint32_t, uint16_t>>(raw, row_bytes, rows, w.columns, out);
    }
  });
}

bool packs_fast(int format) { return pack_fast(format, nullptr, 0, 0, nullptr); }

}  // namespace

#define HERD_TEXT(x) #x
#define HERD_NAME(x) HERD_TEXT(x)
constexpr Kernels TABLE = {HERD_NAME(HERD_ISA), tile,    quantize,   round_pairs, rms_norm, attend,    swiglu,
                           exp_sum,             largest_of, pack,     packs_fast, to_half, float_rounds, integer_rounds, packed_kind, unpack_row};

}  // namespace herd::HERD_ISA

#define HERD_JOIN(a, b) a##b
#define HERD_GETTER(isa) HERD_JOIN(kernels_, isa)
namespace herd {
const Kernels& HERD_GETTER(HERD_ISA)() { return HERD_ISA::TABLE; }
}  // namespace herd
