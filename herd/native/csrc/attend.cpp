// Attention's side of a step: keys and values into the cache, pieces of attention, and their results put together.
#include <cfloat>
#include <cmath>
#include <cstring>

#include "decoder.h"
#include "scratch.h"

namespace herd {
namespace {

// Add a piece's weighted values to what earlier pieces gave (the online softmax of arXiv 2112.05682).
void fold(float* into, const float* piece, int dim) {
  float most = std::max(into[dim], piece[dim]);
  float keep = std::exp(into[dim] - most), add = std::exp(piece[dim] - most);
  for (int i = 0; i < dim; i++) into[i] = into[i] * keep + piece[i] * add;
  into[dim] = most;
  into[dim + 1] = into[dim + 1] * keep + piece[dim + 1] * add;
}

}  // namespace

// A tile of one token's queries, keys or values: rotate pairs, and put them where attention reads them.
void Decoder::store(Projection which, int token, int first, const float* values, uint8_t* cache) {
  const Shape& s = shape_;
  const float* rotation = rope_.data() + size_t(token) * size_t(s.head_dim) + first % s.head_dim;
  float rotated[TILE];
  if (which != VALUE) {
    for (int i = 0; i < TILE; i += 2) {
      rotated[i] = values[i] * rotation[i] - values[i + 1] * rotation[i + 1];
      rotated[i + 1] = values[i] * rotation[i + 1] + values[i + 1] * rotation[i];
    }
    values = rotated;
  }
  if (which == QUERY) {
    std::memcpy(queries_.data() + size_t(token) * size_t(s.heads * s.head_dim) + first, values, sizeof rotated);
    return;
  }
  if (int8_cache_) {  // waits for the rest of its vector
    size_t width = size_t(s.kv_heads * s.head_dim);
    std::memcpy(new_kv_.data() + (size_t(token) * 2 + size_t(which - KEY)) * width + first, values, sizeof rotated);
    return;
  }
  int head = first / s.head_dim, at = first % s.head_dim, slot = position_[size_t(token)] % BLOCK;
  uint8_t* block = cache + block_at(block_[size_t(token)], block_bytes_, slab_bytes_) + size_t(head) * head_bytes(s.head_dim, false);
  uint16_t* halves = reinterpret_cast<uint16_t*>(block);
  if (which == VALUE) {
    k_->to_half(values, halves + s.head_dim * BLOCK + slot * s.head_dim + at);
    return;
  }
  uint16_t key[TILE];
  k_->to_half(values, key);
  for (int i = 0; i < TILE; i++) halves[(at + i) * BLOCK + slot] = key[i];
}

// A head's key and value of one token -> bytes, each vector with the scale that makes its largest number 127.
void Decoder::store_int8(int token, int head, uint8_t* cache) const {
  int dim = shape_.head_dim, slot = position_[size_t(token)] % BLOCK;
  uint8_t* block = cache + block_at(block_[size_t(token)], block_bytes_, slab_bytes_) + size_t(head) * head_bytes(dim, true);
  int8_t* bytes = reinterpret_cast<int8_t*>(block);
  float* scales = reinterpret_cast<float*>(bytes + size_t(dim) * BLOCK * 2);
  for (Projection which : {KEY, VALUE}) {
    const float* values = new_kv_.data() + (size_t(token) * 2 + size_t(which - KEY)) * size_t(shape_.kv_heads * dim) + size_t(head * dim);
    float most = 0, poison = 0;  // NaN after a NaN or an infinity, which a scale can be and a byte cannot
    for (int i = 0; i < dim; i++) {
      most = std::max(most, std::fabs(values[i]));
      poison += values[i] * 0.0f;
    }
    const bool finite = poison == 0;
    float inverse = most > 0 ? 127.0f / most : 0.0f;
    scales[(which - KEY) * BLOCK + slot] = most / 127.0f + poison;
    for (int i = 0; i < dim; i++) {
      int place = which == KEY ? i * BLOCK + slot : dim * BLOCK + slot * dim + i;
      bytes[place] = finite ? int8_t(std::nearbyint(values[i] * inverse)) : int8_t(0);
    }
  }
}

// One piece of attention: one token's over one split, or some tokens' of a prompt over all splits.
void Decoder::attend(int thread, const Task& task, const std::vector<StepRow>& rows, const uint8_t* cache) {
  const Shape& s = shape_;
  Scratch& own = *scratch_[size_t(thread)];
  int heads_per_kv = s.heads / s.kv_heads, count = heads_per_kv * task.tokens, dim = s.head_dim, stride = dim + 2;
  own.query.resize(size_t(count));
  own.last.resize(size_t(count));
  for (int t = 0; t < task.tokens; t++)
    for (int g = 0; g < heads_per_kv; g++) {
      size_t token = size_t(task.first_token + t);
      own.query[size_t(t * heads_per_kv + g)] = queries_.data() + (token * size_t(s.heads) + size_t(task.kv_head * heads_per_kv + g)) * size_t(dim);
      own.last[size_t(t * heads_per_kv + g)] = position_[token];
    }
  own.weights.resize(scratch_floats(count, dim));
  Piece piece{own.query.data(), own.last.data(), count, dim, 0, 0, rows[size_t(task.row)].blocks.data(),
              cache + size_t(task.kv_head) * head_bytes(dim, int8_cache_), block_bytes_, slab_bytes_, int8_cache_, 1.0f / std::sqrt(float(dim)), nullptr,
              own.weights.data()};
  int length = own.last.back() + 1;
  if (task.split >= 0) {
    piece.first = task.split * SPLIT;
    piece.end = std::min(piece.first + SPLIT, length);
    if (const Task* next = &task + 1; next < tasks_.data() + tasks_.size() && next->split >= 0) {
      int first = next->split * SPLIT, end = std::min(first + SPLIT, position_[size_t(next->first_token)] + 1);
      piece.next = cache + size_t(next->kv_head) * head_bytes(dim, int8_cache_);
      piece.next_table = rows[size_t(next->row)].blocks.data() + first / BLOCK;
      piece.next_blocks = (end - first + BLOCK - 1) / BLOCK;
    }
    size_t at = size_t(task.split * s.heads + task.kv_head * heads_per_kv) * size_t(stride);
    piece.out = partial_.data() + partial_at_[size_t(task.first_token)] + at;
    k_->attend(piece);
    return;
  }
  own.pieces.resize(size_t(count * stride));
  own.folded.assign(size_t(count * stride), 0.0f);
  for (int q = 0; q < count; q++) own.folded[size_t(q * stride + dim)] = -FLT_MAX;
  piece.out = own.pieces.data();
  for (piece.first = 0; piece.first < length; piece.first += SPLIT) {
    piece.end = std::min(piece.first + SPLIT, length);
    k_->attend(piece);
    for (int q = 0; q < count; q++) fold(own.folded.data() + q * stride, own.pieces.data() + q * stride, dim);
  }
  for (int q = 0; q < count; q++) {
    const float* from = own.folded.data() + q * stride;
    size_t token = size_t(task.first_token + q / heads_per_kv), head = size_t(task.kv_head * heads_per_kv + q % heads_per_kv);
    float* to = attended_.data() + (token * size_t(s.heads) + head) * size_t(dim);
    for (int i = 0; i < dim; i++) to[i] = from[i] / from[dim + 1];
  }
}

// What attention gave for a token, all heads, folded from its splits if it has them.
void Decoder::attention_output(int token, float* out) const {
  const Shape& s = shape_;
  int dim = s.head_dim, stride = dim + 2;
  size_t width = size_t(s.heads * dim);
  if (partial_at_[size_t(token)] == SIZE_MAX) {
    std::memcpy(out, attended_.data() + size_t(token) * width, width * sizeof(float));
    return;
  }
  const float* pieces = partial_.data() + partial_at_[size_t(token)];
  int splits = position_[size_t(token)] / SPLIT + 1;
  std::vector<float> folded(size_t(stride), 0.0f);
  for (int head = 0; head < s.heads; head++) {
    std::fill(folded.begin(), folded.end(), 0.0f);
    folded[size_t(dim)] = -FLT_MAX;
    for (int split = 0; split < splits; split++) fold(folded.data(), pieces + size_t(split * s.heads + head) * size_t(stride), dim);
    for (int i = 0; i < dim; i++) out[head * dim + i] = folded[size_t(i)] / folded[size_t(dim + 1)];
  }
}

}  // namespace herd
