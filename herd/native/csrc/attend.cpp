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

// Multiply a vector of 2^n numbers with the Hadamard matrix, which is its own inverse when it is scaled so that lengths stay. Products of two
// turned vectors are those of the vectors, and a large number that one channel always has is spread over all of them: with four
// bits a number this is what keeps the others apart (arXiv 2404.00456, "QuaRot").
void turn(float* x, int n) {
  for (int half = 1; half < n; half *= 2)
    for (int first = 0; first < n; first += 2 * half)
      for (int i = first; i < first + half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a + b;
        x[i + half] = a - b;
      }
  const float scale = 1.0f / std::sqrt(float(n));
  for (int i = 0; i < n; i++) x[i] *= scale;
}

// The scale that rounds a vector to whole numbers from -8 to 7 with the least error: the largest number's, or a little less.
float nibble_scale(const float* x, int n) {
  float most = 0;
  for (int i = 0; i < n; i++)
    if (std::fabs(x[i]) > std::fabs(most)) most = x[i];
  float best = most / -8.0f, least = FLT_MAX;
  for (float part : {1.0f, 0.93f, 0.86f, 0.79f, 0.72f}) {
    const float scale = most / -8.0f * part, inverse = scale != 0 ? 1.0f / scale : 0.0f;
    float error = 0;
    for (int i = 0; i < n; i++) {
      float rounded = std::min(7.0f, std::max(-8.0f, std::nearbyint(x[i] * inverse)));
      error += (x[i] - rounded * scale) * (x[i] - rounded * scale);
    }
    if (error < least) {
      least = error;
      best = scale;
    }
  }
  return best;
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
  if (has_scales(kind_)) {  // waits for the rest of its vector
    size_t width = size_t(s.kv_heads * s.head_dim);
    std::memcpy(new_kv_.data() + (size_t(token) * 2 + size_t(which - KEY)) * width + first, values, sizeof rotated);
    return;
  }
  int head = first / s.head_dim, at = first % s.head_dim, slot = position_[size_t(token)] % BLOCK;
  uint8_t* block = cache + block_at(block_[size_t(token)], block_bytes_, slab_bytes_) + size_t(head) * head_bytes(s.head_dim, kind_);
  auto put = [&](auto* numbers, const auto* sixteen) {
    if (which == VALUE) std::memcpy(numbers + s.head_dim * BLOCK + slot * s.head_dim + at, sixteen, TILE * sizeof *sixteen);
    if (which == KEY)
      for (int i = 0; i < TILE; i++) numbers[(at + i) * BLOCK + slot] = sixteen[i];
  };
  if (kind_ == CacheKind::F32) return put(reinterpret_cast<float*>(block), values);
  uint16_t halves[TILE];
  k_->to_half(values, halves);
  put(reinterpret_cast<uint16_t*>(block), halves);
}

void Decoder::turn_queries(int token) {
  float* queries = queries_.data() + size_t(token) * size_t(shape_.heads * shape_.head_dim);
  for (int head = 0; head < shape_.heads; head++) turn(queries + head * shape_.head_dim, shape_.head_dim);
}

// A head's key and value of one token -> bytes or nibbles. Each vector has a scale: for bytes that which makes its largest number 127.
void Decoder::store_scaled(int token, int head, uint8_t* cache) {
  const int dim = shape_.head_dim, slot = position_[size_t(token)] % BLOCK;
  const bool nibbles = kind_ == CacheKind::INT4;
  uint8_t* block = cache + block_at(block_[size_t(token)], block_bytes_, slab_bytes_) + size_t(head) * head_bytes(dim, kind_);
  float* scales = reinterpret_cast<float*>(block + size_t(dim) * BLOCK * 2 / (nibbles ? 2 : 1));
  for (Projection which : {KEY, VALUE}) {
    float* values = new_kv_.data() + (size_t(token) * 2 + size_t(which - KEY)) * size_t(shape_.kv_heads * dim) + size_t(head * dim);
    if (turned_) turn(values, dim);
    float most = 0, poison = 0;  // NaN after a NaN or an infinity, which a scale can be and a byte cannot
    for (int i = 0; i < dim; i++) {
      most = std::max(most, std::fabs(values[i]));
      poison += values[i] * 0.0f;
    }
    const bool finite = poison == 0;
    const float scale = !finite ? 0.0f : nibbles ? nibble_scale(values, dim) : most / 127.0f;
    const float inverse = !finite || std::fabs(scale) < FLT_MIN ? 0.0f : nibbles ? 1.0f / scale : 127.0f / most;
    scales[(which - KEY) * BLOCK + slot] = scale + poison;
    for (int i = 0; i < dim; i++) {
      const int place = which == KEY ? i * BLOCK + slot : dim * BLOCK + slot * dim + i;
      const float rounded = finite ? std::nearbyint(values[i] * inverse) : 0.0f;
      if (!nibbles) {
        reinterpret_cast<int8_t*>(block)[place] = int8_t(rounded);
        continue;
      }
      const int nibble = int(std::min(7.0f, std::max(-8.0f, rounded))) + 8, shift = place % 32 < 16 ? 0 : 4;
      uint8_t& byte = block[place / 32 * 16 + place % 16];
      byte = uint8_t((byte & ~(15 << shift)) | nibble << shift);
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
              cache + size_t(task.kv_head) * head_bytes(dim, kind_), block_bytes_, slab_bytes_, kind_, 1.0f / std::sqrt(float(dim)), nullptr,
              own.weights.data()};
  int length = own.last.back() + 1;
  if (task.split >= 0) {
    piece.first = task.split * SPLIT;
    piece.end = std::min(piece.first + SPLIT, length);
    if (const Task* next = &task + 1; next < tasks_.data() + tasks_.size() && next->split >= 0) {
      int first = next->split * SPLIT, end = std::min(first + SPLIT, position_[size_t(next->first_token)] + 1);
      piece.next = cache + size_t(next->kv_head) * head_bytes(dim, kind_);
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
  const int dim = s.head_dim;
  const size_t width = size_t(s.heads * dim);
  if (partial_at_[size_t(token)] == SIZE_MAX) {
    std::memcpy(out, attended_.data() + size_t(token) * width, width * sizeof(float));
  } else {
    fold_splits(token, out);
  }
  if (turned_)
    for (int head = 0; head < s.heads; head++) turn(out + head * dim, dim);
}

void Decoder::fold_splits(int token, float* out) const {
  const Shape& s = shape_;
  const int dim = s.head_dim, stride = dim + 2;
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
