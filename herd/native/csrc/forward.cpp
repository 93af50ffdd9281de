// A step: the whole forward pass and the choice of tokens, on all threads at once.
#include <cfloat>
#include <cmath>
#include <cstring>
#include <stdexcept>

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

// Where part `n` of `parts` equal ones begins.
int part_of(int count, int n, int parts) { return int(int64_t(count) * n / parts); }

constexpr size_t AHEAD = 64 << 10;  // bytes that a thread fetches while it waits

}  // namespace

// Lay out a step: positions and blocks of each token, the pieces of attention, where their results go.
void Decoder::prepare(const std::vector<StepRow>& rows) {
  const Shape& s = shape_;
  total_ = 0;
  for (auto& row : rows) total_ += row.count();
  size_t t = size_t(total_);
  x_.resize(t * size_t(padded(s.dim)));
  q_.resize(t * size_t(s.heads * s.head_dim));
  if (int8_cache_) kv_.resize(t * size_t(s.kv_heads * s.head_dim * 2));
  h_.resize(t * size_t(padded(s.ffn)));
  rope_.resize(t * size_t(s.head_dim));
  position_.resize(t);
  row_of_.resize(t);
  block_.resize(t);
  partial_at_.assign(t, SIZE_MAX);
  tasks_.clear();
  wanted_.clear();
  int group = s.heads / s.kv_heads, at = 0;
  int chunk = std::max(1, 48 / group);
  size_t partial = 0;
  for (size_t r = 0; r < rows.size(); r++) {
    const StepRow& row = rows[r];
    for (int i = 0; i < row.count(); i++) {
      position_[size_t(at + i)] = row.start + i;
      row_of_[size_t(at + i)] = int(r);
      block_[size_t(at + i)] = row.blocks[size_t((row.start + i) / BLOCK)];
    }
    if (row.count() == 1) {
      int splits = row.start / SPLIT + 1;
      partial_at_[size_t(at)] = partial;
      partial += size_t(splits) * size_t(s.heads) * size_t(s.head_dim + 2);
      for (int split = 0; split < splits; split++)
        for (int head = 0; head < s.kv_heads; head++) tasks_.push_back({int(r), at, 1, head, split});
    } else {
      for (int i = (row.count() - 1) / chunk * chunk; i >= 0; i -= chunk)  // the longest first
        for (int head = 0; head < s.kv_heads; head++)
          tasks_.push_back({int(r), at + i, std::min(chunk, row.count() - i), head, -1});
    }
    for (int i = 0; i < int(row.targets.size()); i++) wanted_.push_back({at + i, int(r), i});
    if (row.sampling) wanted_.push_back({at + row.count() - 1, int(r), -1});
    at += row.count();
  }
  partial_.resize(partial);
  logits_.resize(size_t(std::min<size_t>(wanted_.size(), HEAD_ROWS)) * size_t(padded(s.vocab)));
  shared_->fit(std::max(total_, HEAD_ROWS), std::max({s.dim, s.ffn, s.heads * s.head_dim}));
  turns_ = padded(1 + s.layers * 10 + int(wanted_.size() + HEAD_ROWS - 1) / HEAD_ROWS * 3);
  size_t places = size_t(turns_ * pool_->size());
  if (taken_.size() < places) taken_ = std::vector<std::atomic<int>>(places);
  for (auto& t : taken_) t.store(0, std::memory_order_relaxed);
  mixed_.resize(t * size_t(s.heads * s.head_dim));
  for (auto& scratch : scratch_) {
    scratch->tile.resize(std::max(t, size_t(HEAD_ROWS)) * TILE * 2);
    scratch->turn = 0;
  }
}

// work(0) ... work(count - 1), each thread its own part of them, one after another, and then what is left of the others'. All
// threads call it in the same order.
template <class F>
void Decoder::share(int thread, int count, F&& work) {
  int turn = scratch_[size_t(thread)]->turn++, threads = pool_->size();
  for (int n = 0; n < threads; n++) {
    int whose = (thread + n) % threads, first = part_of(count, whose, threads), size = part_of(count, whose + 1, threads) - first;
    std::atomic<int>& taken = taken_[size_t(whose * turns_ + turn)];
    if (n && taken.load(std::memory_order_relaxed) >= size) continue;
    for (int i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < size;) work(first + i);
  }
}

// Wait for the other threads, and meanwhile fetch what this one will multiply with next.
void Decoder::wait(int thread, const Matrix* next) {
  if (!next) return pool_->barrier([] {});
  const uint8_t* line = next->data + size_t(part_of(tiles(*next), thread, pool_->size())) * next->tile_bytes;
  const uint8_t* end = line + AHEAD;
  pool_->barrier([&] {
    if (line < end) __builtin_prefetch(line);
    line += 64;
  });
}

// Rows of activations that fill(row, out) writes, for a matrix. One row is made by every thread for itself, which is quicker than
// waiting for another to make it.
template <class F>
Activations Decoder::activations(int thread, int rows, const Matrix& w, bool quantized, F&& fill) {
  int columns = w.columns;
  bool alone = rows == 1;
  Activations act = (alone ? *scratch_[size_t(thread)] : *shared_).fit(rows, columns);
  auto make = [&](int row) {
    fill(row, act.values + size_t(row) * size_t(columns));
    if (quantized) k_->quantize(act, row);
  };
  if (alone) {
    make(0);
  } else {
    share(thread, rows, make);
    wait(thread, &w);
  }
  return act;
}

// Multiply rows of activations with a matrix; take(tile, results [rows][TILE]) gets each tile's.
template <class F>
void Decoder::multiply(int thread, const Matrix& w, const Activations& act, int rows, F&& take) {
  float* out = scratch_[size_t(thread)]->tile.data();
  share(thread, tiles(w), [&](int tile) {
    k_->tile(w, tile, act, 0, rows, out - tile * TILE, TILE);
    take(tile, out);
  });
}

void Decoder::forward(int thread, const std::vector<StepRow>& rows, std::vector<StepResult>& results) {
  const Shape& s = shape_;
  size_t stride = size_t(padded(s.dim));
  int half = s.head_dim / 2;
  share(thread, total_, [&](int t) {
    const StepRow& row = rows[size_t(row_of_[size_t(t)])];
    size_t token = size_t(row.tokens[size_t(position_[size_t(t)] - row.start)]);
    float* x = x_.data() + size_t(t) * stride;
    k_->unpack_row(embedding_format_, embedding_raw_ + token * embedding_row_bytes_, s.dim, x);
    if (!embedding_scale_.empty())
      for (int i = 0; i < s.dim; i++) x[i] *= embedding_scale_[token];
    float* turn = rope_.data() + size_t(t) * size_t(s.head_dim);
    for (int i = 0; i < half; i++) {
      float angle = float(position_[size_t(t)]) * s.frequencies[size_t(i)];
      turn[2 * i] = std::cos(angle);
      turn[2 * i + 1] = std::sin(angle);
    }
  });
  wait(thread, &layers_[0].wq.matrix);
  for (int i = 0; i < s.layers; i++) layer(thread, i, rows);
  if (*before_choosing_) {
    if (thread == 0) (*before_choosing_)();
    wait(thread, nullptr);
  }
  heads(thread, rows, results);
}

// A tile of queries (part 0), keys (1) or values (2) of one token: turn pairs, and put them where attention reads them.
void Decoder::keep(int part, int token, int first, const float* values, uint8_t* cache) {
  const Shape& s = shape_;
  const float* turn = rope_.data() + size_t(token) * size_t(s.head_dim) + first % s.head_dim;
  float turned[TILE];
  if (part < 2) {
    for (int i = 0; i < TILE; i += 2) {
      turned[i] = values[i] * turn[i] - values[i + 1] * turn[i + 1];
      turned[i + 1] = values[i] * turn[i + 1] + values[i + 1] * turn[i];
    }
    values = turned;
  }
  if (part == 0) {
    std::memcpy(q_.data() + size_t(token) * size_t(s.heads * s.head_dim) + first, values, sizeof turned);
    return;
  }
  if (int8_cache_) {  // waits for the rest of its vector
    size_t width = size_t(s.kv_heads * s.head_dim);
    std::memcpy(kv_.data() + (size_t(token) * 2 + size_t(part - 1)) * width + first, values, sizeof turned);
    return;
  }
  int head = first / s.head_dim, at = first % s.head_dim, slot = position_[size_t(token)] % BLOCK;
  uint8_t* block = cache + block_at(block_[size_t(token)], block_bytes_, group_bytes_) + size_t(head) * head_bytes(s.head_dim, false);
  uint16_t* halves = reinterpret_cast<uint16_t*>(block);
  if (part == 2) {
    k_->to_half(values, halves + s.head_dim * BLOCK + slot * s.head_dim + at);
    return;
  }
  uint16_t key[TILE];
  k_->to_half(values, key);
  for (int i = 0; i < TILE; i++) halves[(at + i) * BLOCK + slot] = key[i];
}

// A head's key and value of one token -> bytes, each vector with the scale that makes its largest number 127.
void Decoder::keep_int8(int token, int head, uint8_t* cache) const {
  int dim = shape_.head_dim, slot = position_[size_t(token)] % BLOCK;
  uint8_t* block = cache + block_at(block_[size_t(token)], block_bytes_, group_bytes_) + size_t(head) * head_bytes(dim, true);
  int8_t* bytes = reinterpret_cast<int8_t*>(block);
  float* scales = reinterpret_cast<float*>(bytes + size_t(dim) * BLOCK * 2);
  for (int part = 0; part < 2; part++) {
    const float* values = kv_.data() + (size_t(token) * 2 + size_t(part)) * size_t(shape_.kv_heads * dim) + size_t(head * dim);
    float most = 0;
    for (int i = 0; i < dim; i++) most = std::max(most, std::fabs(values[i]));
    float inverse = most > 0 ? 127.0f / most : 0.0f;
    scales[part * BLOCK + slot] = most / 127.0f;
    for (int i = 0; i < dim; i++) {
      int place = part == 0 ? i * BLOCK + slot : dim * BLOCK + slot * dim + i;
      bytes[place] = int8_t(std::nearbyint(values[i] * inverse));
    }
  }
}

void Decoder::layer(int thread, int index, const std::vector<StepRow>& rows) {
  const Shape& s = shape_;
  Layer& l = layers_[size_t(index)];
  size_t stride = size_t(padded(s.dim)), ffn_stride = size_t(padded(s.ffn));
  uint8_t* cache = cache_.data() + size_t(index) * layer_bytes_;
  auto normed = [&](const std::vector<float>& norm) {
    return [&, weight = norm.data()](int row, float* out) {
      k_->rms_norm(x_.data() + size_t(row) * stride, weight, s.eps, s.dim, out);
    };
  };
  auto add_to_x = [&](int tile, const float* out) {
    int width = std::min(TILE, s.dim - tile * TILE);
    for (int t = 0; t < total_; t++) {
      float* x = x_.data() + size_t(t) * stride + tile * TILE;
      for (int i = 0; i < width; i++) x[i] += out[t * TILE + i];
    }
  };

  const Matrix* parts[3] = {&l.wq.matrix, &l.wk.matrix, &l.wv.matrix};
  bool quantized = is_integer(*parts[0]) || is_integer(*parts[1]) || is_integer(*parts[2]);
  Activations act = activations(thread, total_, l.wq.matrix, quantized, normed(l.attention_norm));
  int counts[3] = {tiles(*parts[0]), tiles(*parts[1]), tiles(*parts[2])};
  float* out = scratch_[size_t(thread)]->tile.data();
  share(thread, counts[0] + counts[1] + counts[2], [&](int tile) {
    int part = 0;
    while (tile >= counts[part]) tile -= counts[part++];
    k_->tile(*parts[part], tile, act, 0, total_, out - tile * TILE, TILE);
    for (int t = 0; t < total_; t++) keep(part, t, tile * TILE, out + t * TILE, cache);
  });
  wait(thread, &l.wo.matrix);
  if (int8_cache_) {
    share(thread, total_ * s.kv_heads, [&](int i) { keep_int8(i / s.kv_heads, i % s.kv_heads, cache); });
    wait(thread, &l.wo.matrix);
  }

  share(thread, int(tasks_.size()), [&](int task) { attend(thread, tasks_[size_t(task)], rows, cache); });
  wait(thread, &l.wo.matrix);
  act = activations(thread, total_, l.wo.matrix, is_integer(l.wo.matrix), [&](int t, float* to) { mixed(t, to); });
  multiply(thread, l.wo.matrix, act, total_, add_to_x);
  wait(thread, &l.w1.matrix);

  quantized = is_integer(l.w1.matrix) || is_integer(l.w3.matrix);
  act = activations(thread, total_, l.w1.matrix, quantized, normed(l.ffn_norm));
  share(thread, tiles(l.w1.matrix), [&](int tile) {
    float* up = out + size_t(total_) * TILE;
    k_->tile(l.w1.matrix, tile, act, 0, total_, out - tile * TILE, TILE);
    k_->tile(l.w3.matrix, tile, act, 0, total_, up - tile * TILE, TILE);
    for (int t = 0; t < total_; t++)
      k_->swiglu(out + t * TILE, up + t * TILE, h_.data() + size_t(t) * ffn_stride + tile * TILE, TILE);
  });
  wait(thread, &l.w2.matrix);
  act = activations(thread, total_, l.w2.matrix, is_integer(l.w2.matrix), [&](int t, float* to) {
    std::memcpy(to, h_.data() + size_t(t) * ffn_stride, size_t(s.ffn) * sizeof(float));
  });
  multiply(thread, l.w2.matrix, act, total_, add_to_x);
  wait(thread, index + 1 < s.layers ? &layers_[size_t(index) + 1].wq.matrix : &output_.matrix);
}

// One piece of attention: one token's over one split, or some tokens' of a prompt over all splits.
void Decoder::attend(int thread, const Task& task, const std::vector<StepRow>& rows, const uint8_t* cache) {
  const Shape& s = shape_;
  Scratch& own = *scratch_[size_t(thread)];
  int group = s.heads / s.kv_heads, count = group * task.tokens, dim = s.head_dim, stride = dim + 2;
  own.query.resize(size_t(count));
  own.last.resize(size_t(count));
  for (int t = 0; t < task.tokens; t++)
    for (int g = 0; g < group; g++) {
      size_t token = size_t(task.first_token + t);
      own.query[size_t(t * group + g)] = q_.data() + (token * size_t(s.heads) + size_t(task.head * group + g)) * size_t(dim);
      own.last[size_t(t * group + g)] = position_[token];
    }
  own.weights.resize(scratch_floats(count, dim));
  Piece piece{own.query.data(), own.last.data(), count, dim, 0, 0, rows[size_t(task.row)].blocks.data(),
              cache + size_t(task.head) * head_bytes(dim, int8_cache_), block_bytes_, group_bytes_, int8_cache_, 1.0f / std::sqrt(float(dim)), nullptr,
              own.weights.data()};
  int length = own.last.back() + 1;
  if (task.split >= 0) {
    piece.first = task.split * SPLIT;
    piece.end = std::min(piece.first + SPLIT, length);
    if (const Task* next = &task + 1; next < tasks_.data() + tasks_.size() && next->split >= 0) {
      int first = next->split * SPLIT, end = std::min(first + SPLIT, position_[size_t(next->first_token)] + 1);
      piece.next = cache + size_t(next->head) * head_bytes(dim, int8_cache_);
      piece.next_table = rows[size_t(next->row)].blocks.data() + first / BLOCK;
      piece.next_blocks = (end - first + BLOCK - 1) / BLOCK;
    }
    size_t at = size_t(task.split * s.heads + task.head * group) * size_t(stride);
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
    size_t token = size_t(task.first_token + q / group), head = size_t(task.head * group + q % group);
    float* to = mixed_.data() + (token * size_t(s.heads) + head) * size_t(dim);
    for (int i = 0; i < dim; i++) to[i] = from[i] / from[dim + 1];
  }
}

// What attention gave for a token, all heads, folded from its splits if it has them.
void Decoder::mixed(int token, float* out) const {
  const Shape& s = shape_;
  int dim = s.head_dim, stride = dim + 2;
  size_t width = size_t(s.heads * dim);
  if (partial_at_[size_t(token)] == SIZE_MAX) {
    std::memcpy(out, mixed_.data() + size_t(token) * width, width * sizeof(float));
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

// Logits of the tokens that are sampled or scored, some at a time, and what is asked of them.
void Decoder::heads(int thread, const std::vector<StepRow>& rows, std::vector<StepResult>& results) {
  const Shape& s = shape_;
  size_t stride = size_t(padded(s.dim)), width = size_t(padded(s.vocab));
  for (size_t first = 0; first < wanted_.size(); first += HEAD_ROWS) {
    int count = int(std::min<size_t>(HEAD_ROWS, wanted_.size() - first));
    const Wanted* wanted = wanted_.data() + first;
    Activations act = activations(thread, count, output_.matrix, is_integer(output_.matrix), [&](int i, float* out) {
      k_->rms_norm(x_.data() + size_t(wanted[i].token) * stride, norm_.data(), s.eps, s.dim, out);
    });
    share(thread, tiles(output_.matrix), [&](int tile) { k_->tile(output_.matrix, tile, act, 0, count, logits_.data(), width); });
    wait(thread, nullptr);
    share(thread, count, [&](int i) {
      const StepRow& row = rows[size_t(wanted[i].row)];
      report(row, wanted[i].target, logits_.data() + size_t(i) * width, results[size_t(wanted[i].row)], *scratch_[size_t(thread)]);
    });
    wait(thread, nullptr);
  }
}

void Decoder::report(const StepRow& row, int target, const float* logits, StepResult& result, Scratch& scratch) const {
  auto score = [&](int token, int top) {
    Score out;
    double norm = log_sum(*k_, logits, shape_.vocab);
    out.logprob = double(logits[token]) - norm;
    out.tokens.resize(size_t(std::min(top, shape_.vocab)));
    if (top) top_tokens(logits, shape_.vocab, top, out.tokens.data());
    for (int t : out.tokens) out.logprobs.push_back(double(logits[t]) - norm);
    return out;
  };
  if (target >= 0) {
    result.scores[size_t(target)] = score(row.targets[size_t(target)], row.target_top);
    return;
  }
  result.token = choose(*k_, logits, shape_.vocab, *row.sampling, scratch.work);
  if (row.top >= 0) result.chosen = score(*result.token, row.top);
}

void Decoder::check(const StepRow& row) const {
  auto within = [](const std::vector<int32_t>& numbers, int end, const char* otherwise) {
    for (int32_t n : numbers)
      if (n < 0 || n >= end) throw std::invalid_argument(otherwise);
  };
  if (row.tokens.empty() || row.start < 0) throw std::invalid_argument("a row without tokens");
  if (row.tokens.size() + size_t(row.start) > row.blocks.size() * BLOCK) throw std::invalid_argument("a row's blocks do not hold its tokens");
  if (row.targets.size() > row.tokens.size()) throw std::invalid_argument("more targets than tokens");
  within(row.tokens, shape_.vocab, "a token outside the vocabulary");
  within(row.targets, shape_.vocab, "a target outside the vocabulary");
  within(row.blocks, blocks_, "a block outside the cache");
  if (!row.sampling) return;
  within(row.sampling->history, shape_.vocab, "a token of the history outside the vocabulary");
  for (auto& [token, bias] : row.sampling->params.logit_bias)
    if (token < 0 || token >= shape_.vocab) throw std::invalid_argument("a bias for a token outside the vocabulary");
}

std::vector<StepResult> Decoder::step(const std::vector<StepRow>& rows, const std::function<void()>& before_choosing) {
  for (auto& row : rows) check(row);
  prepare(rows);
  before_choosing_ = &before_choosing;
  std::vector<StepResult> results(rows.size());
  for (size_t r = 0; r < rows.size(); r++) results[r].scores.resize(rows[r].targets.size());
  pool_->run([&](int thread) { forward(thread, rows, results); });
  return results;
}

}  // namespace herd
