// What the two halves of the decoder share: buffers of a thread, and small helpers.
#pragma once

#include <algorithm>
#include <vector>

#include "decoder.h"

namespace herd {

constexpr int LOGIT_ROWS = 32;  // rows whose logits are held at once

// Buffers of one thread, or of all together.
struct Decoder::Scratch {
  std::vector<float> values, unit, tile, pieces, folded, weights, work;
  std::vector<ActBlock> blocks;
  std::vector<ActPairs> pairs;
  std::vector<uint8_t> packed;  // a tile of weights that is packed for a step alone
  std::vector<const float*> query;
  std::vector<int> last;
  int loop = 0;  // how many parallel loops this thread has been through in the step

  // Room for rows of activations; made before the threads share it.
  void reserve(int rows, int columns, bool with_blocks, bool with_pairs) {
    size_t n = size_t(rows) * size_t(columns), lines = size_t(rows) * size_t(act_stride(columns));
    if (values.size() < n) values.resize(n);
    if (with_blocks && blocks.size() < lines) blocks.resize(lines);
    if (with_pairs && pairs.size() < lines) pairs.resize(lines);
    if (unit.size() < size_t(rows)) unit.resize(size_t(rows));
  }
  Activations activations(int columns) { return {values.data(), blocks.data(), pairs.data(), unit.data(), columns, act_stride(columns)}; }
};

inline bool is_integer(const Matrix& m) {
  return with_kind(m.kind, []<Packed K>() { return Layout<K>::INTEGER; });
}
inline bool is_pairs(const Matrix& m) { return m.kind == Packed::BF16_PAIRS; }
inline int padded(int n) { return (n + TILE - 1) / TILE * TILE; }
inline int tiles(const Matrix& m) { return padded(m.rows) / TILE; }

}  // namespace herd
