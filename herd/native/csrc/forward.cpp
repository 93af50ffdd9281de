// A step: the whole forward pass and the choice of tokens, on all threads at once.
#include <cfloat>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "decoder.h"
#include "scratch.h"

namespace herd {
namespace {

// Where the share `n` of `count` that are divided into `shares` begins.
int share_of(int count, int n, int shares) { return int(int64_t(count) * n / shares); }

constexpr size_t AHEAD = 64 << 10;  // bytes that a thread fetches while it waits

}  // namespace

// Lay out a step: positions and blocks of each token, the pieces of attention, where their results go.
void Decoder::prepare(const std::vector<StepRow>& rows) {
  const Shape& s = shape_;
  total_ = 0;
  for (auto& row : rows) total_ += row.count();
  size_t t = size_t(total_);
  residual_.resize(t * size_t(padded(s.dim)));
  queries_.resize(t * size_t(s.heads * s.head_dim));
  if (has_scales(kind_)) new_kv_.resize(t * size_t(s.kv_heads * s.head_dim * 2));
  gated_.resize(t * size_t(padded(s.ffn)));
  rope_.resize(t * size_t(s.head_dim));
  position_.resize(t);
  row_of_.resize(t);
  row_start_.resize(rows.size());
  block_.resize(t);
  partial_at_.assign(t, SIZE_MAX);
  tasks_.clear();
  wanted_.clear();
  int heads_per_kv = s.heads / s.kv_heads, at = 0;
  int chunk = std::max(1, 48 / heads_per_kv);
  size_t partial = 0;
  for (size_t r = 0; r < rows.size(); r++) {
    const StepRow& row = rows[r];
    row_start_[r] = at;
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
    for (int i = 0; i < int(row.targets.size()); i++) wanted_.push_back({at + row.first_target + i, int(r), i});
    if (row.sampling || !row.score_tokens.empty())
      for (int i = 0; i <= row.draft; i++) wanted_.push_back({at + row.count() - 1 - row.draft + i, int(r), -1 - i});
    at += row.count();
  }
  plan_packing(!wanted_.empty());
  partial_.resize(partial);
  logits_.resize(size_t(std::min<size_t>(wanted_.size(), LOGIT_ROWS)) * size_t(padded(s.vocab)));
  const int widest = std::max({s.dim, s.ffn, s.heads * s.head_dim});
  shared_->reserve(std::max(total_, LOGIT_ROWS), widest, has_integers_, has_pairs_);
  loops_ = padded(2 + s.layers * 10 + int(wanted_.size() + LOGIT_ROWS - 1) / LOGIT_ROWS * 3);
  size_t places = size_t(loops_ * pool_->size());
  if (taken_.size() < places) taken_ = std::vector<std::atomic<int>>(places);
  for (auto& t : taken_) t.store(0, std::memory_order_relaxed);
  attended_.resize(t * size_t(s.heads * s.head_dim));
  for (auto& scratch : scratch_) {
    scratch->tile.resize(std::max(t, size_t(LOGIT_ROWS)) * TILE * 2);
    scratch->reserve(1, widest, has_integers_, has_pairs_);
    if (!all_packed_) scratch->packed.resize(widest_tile_);
    scratch->loop = 0;
  }
}

// work(0) ... work(count - 1), each thread its own part of them, one after another, and then what is left of the others'. All
// threads call it in the same order.
template <class F>
void Decoder::parallel_for(int thread, int count, F&& work) {
  int loop = scratch_[size_t(thread)]->loop++, threads = pool_->size();
  for (int n = 0; n < threads; n++) {
    int whose = (thread + n) % threads, first = share_of(count, whose, threads), size = share_of(count, whose + 1, threads) - first;
    std::atomic<int>& taken = taken_[size_t(whose * loops_ + loop)];
    if (n && taken.load(std::memory_order_relaxed) >= size) continue;
    for (int i; (i = taken.fetch_add(1, std::memory_order_relaxed)) < size;) work(first + i);
  }
}

// Wait for the other threads, and meanwhile fetch what this one will multiply with next.
void Decoder::wait(int thread, const Weights* next) {
  if (!next) return pool_->barrier([] {});
  const int first = share_of(tiles(next->matrix), thread, pool_->size());
  const uint8_t* line = first < next->packed ? next->data + size_t(first) * next->matrix.tile_bytes : next->raw + size_t(first) * TILE * next->row_bytes;
  const uint8_t* end = line + AHEAD;
  pool_->barrier([&] {
    if (line < end) __builtin_prefetch(line);
    line += 64;
  });
}

// Rows of activations that fill(row, out) writes, for some matrices of as many columns. One row is made by every thread for itself,
// which is quicker than waiting for another to make it.
template <class F>
Activations Decoder::activations(int thread, int rows, std::initializer_list<const Weights*> weights, F&& fill) {
  auto any = [&](auto is) { return std::any_of(weights.begin(), weights.end(), [&](auto* w) { return is(w->matrix); }); };
  const Weights& first = **weights.begin();
  const bool integers = any(is_integer), pairs = any(is_pairs), alone = rows == 1;
  Activations act = (alone ? *scratch_[size_t(thread)] : *shared_).activations(first.matrix.columns);
  auto make = [&](int row) {
    fill(row, act.values + size_t(row) * size_t(act.columns));
    if (integers) k_->quantize(act, row);
    if (pairs) k_->round_pairs(act, row);
  };
  if (alone) {
    make(0);
  } else {
    parallel_for(thread, rows, make);
    wait(thread, &first);
  }
  return act;
}

// `rows` rows of activations times a tile. One that is not packed is packed on the way: for good, or into this thread's own buffer.
void Decoder::multiply_tile(int thread, const Weights& w, int index, const Activations& act, int rows, float* out, size_t stride) {
  if (index < w.packed) return k_->tile(w.matrix, index, act, 0, rows, out, stride);
  const size_t at = size_t(index) * w.matrix.tile_bytes;
  Matrix m = w.matrix;
  if (index >= w.packing) m.data = scratch_[size_t(thread)]->packed.data() - at;
  pack_tile(w, index, const_cast<uint8_t*>(m.data) + at);
  k_->tile(m, index, act, 0, rows, out, stride);
}

// Multiply rows of activations with a matrix; take(tile, results [rows][TILE]) gets each tile's.
template <class F>
void Decoder::multiply(int thread, const Weights& w, const Activations& act, int rows, F&& take) {
  float* out = scratch_[size_t(thread)]->tile.data();
  parallel_for(thread, tiles(w.matrix), [&](int tile) {
    multiply_tile(thread, w, tile, act, rows, out - tile * TILE, TILE);
    take(tile, out);
  });
}

void Decoder::forward(int thread, const std::vector<StepRow>& rows, std::vector<StepResult>& results) {
  const Shape& s = shape_;
  size_t stride = size_t(padded(s.dim));
  int half = s.head_dim / 2;
  parallel_for(thread, total_, [&](int t) {
    const StepRow& row = rows[size_t(row_of_[size_t(t)])];
    if (const int at = position_[size_t(t)]; at % BLOCK == 0 && at + BLOCK > row.start + row.count()) clear(block_[size_t(t)]);
    size_t token = size_t(row.tokens[size_t(position_[size_t(t)] - row.start)]);
    float* x = residual_.data() + size_t(t) * stride;
    k_->unpack_row(embedding_format_, embedding_raw_ + token * embedding_row_bytes_, s.dim, x);
    if (!embedding_scale_.empty())
      for (int i = 0; i < s.dim; i++) x[i] *= embedding_scale_[token];
    float* rotation = rope_.data() + size_t(t) * size_t(s.head_dim);
    for (int i = 0; i < half; i++) {
      float angle = float(position_[size_t(t)]) * s.frequencies[size_t(i)];
      rotation[2 * i] = std::cos(angle) * s.rope_gain;
      rotation[2 * i + 1] = std::sin(angle) * s.rope_gain;
    }
  });
  wait(thread, &layers_[0].wq);
  for (int i = 0; i < s.layers; i++) layer(thread, i, rows);
  if (*before_choosing_) {
    if (thread == 0) (*before_choosing_)();
    wait(thread, nullptr);
  }
  sum_states(thread, rows, results);
  choose_tokens(thread, rows, results);
}

void Decoder::layer(int thread, int index, const std::vector<StepRow>& rows) {
  const Shape& s = shape_;
  Layer& l = layers_[size_t(index)];
  size_t stride = size_t(padded(s.dim)), ffn_stride = size_t(padded(s.ffn));
  uint8_t* cache = cache_.data() + size_t(index) * layer_bytes_;
  auto normed = [&](const std::vector<float>& norm) {
    return [&, weight = norm.data()](int row, float* out) {
      k_->rms_norm(residual_.data() + size_t(row) * stride, weight, s.eps, s.dim, out);
    };
  };
  auto add_to_x = [&](int tile, const float* out) {
    int width = std::min(TILE, s.dim - tile * TILE);
    for (int t = 0; t < total_; t++) {
      float* x = residual_.data() + size_t(t) * stride + tile * TILE;
      for (int i = 0; i < width; i++) x[i] += out[t * TILE + i];
    }
  };

  const Weights* projections[] = {&l.wq, &l.wk, &l.wv};
  Activations act = activations(thread, total_, {&l.wq, &l.wk, &l.wv}, normed(l.attention_norm));
  int counts[] = {tiles(l.wq.matrix), tiles(l.wk.matrix), tiles(l.wv.matrix)};
  float* out = scratch_[size_t(thread)]->tile.data();
  parallel_for(thread, counts[0] + counts[1] + counts[2], [&](int tile) {
    int which = QUERY;
    while (tile >= counts[which]) tile -= counts[which++];
    multiply_tile(thread, *projections[which], tile, act, total_, out - tile * TILE, TILE);
    for (int t = 0; t < total_; t++) store(Projection(which), t, tile * TILE, out + t * TILE, cache);
  });
  wait(thread, &l.wo);
  if (has_scales(kind_)) {
    parallel_for(thread, total_ * s.kv_heads, [&](int i) {
      if (turned_ && i % s.kv_heads == 0) turn_queries(i / s.kv_heads);
      store_scaled(i / s.kv_heads, i % s.kv_heads, cache);
    });
    wait(thread, &l.wo);
  }

  parallel_for(thread, int(tasks_.size()), [&](int task) { attend(thread, tasks_[size_t(task)], rows, cache); });
  wait(thread, &l.wo);
  act = activations(thread, total_, {&l.wo}, [&](int t, float* to) { attention_output(t, to); });
  multiply(thread, l.wo, act, total_, add_to_x);
  wait(thread, &l.w1);

  act = activations(thread, total_, {&l.w1, &l.w3}, normed(l.ffn_norm));
  parallel_for(thread, tiles(l.w1.matrix), [&](int tile) {
    float* up = out + size_t(total_) * TILE;
    multiply_tile(thread, l.w1, tile, act, total_, out - tile * TILE, TILE);
    multiply_tile(thread, l.w3, tile, act, total_, up - tile * TILE, TILE);
    for (int t = 0; t < total_; t++)
      k_->swiglu(out + t * TILE, up + t * TILE, gated_.data() + size_t(t) * ffn_stride + tile * TILE, TILE);
  });
  wait(thread, &l.w2);
  act = activations(thread, total_, {&l.w2}, [&](int t, float* to) {
    std::memcpy(to, gated_.data() + size_t(t) * ffn_stride, size_t(s.ffn) * sizeof(float));
  });
  multiply(thread, l.w2, act, total_, add_to_x);
  wait(thread, index + 1 < s.layers ? &layers_[size_t(index) + 1].wq : &output_);
}

// What rows ask of their tokens' states after the last norm. In double: a sum is the same in whatever steps its parts come.
void Decoder::sum_states(int thread, const std::vector<StepRow>& rows, std::vector<StepResult>& results) {
  const Shape& s = shape_;
  const size_t stride = size_t(padded(s.dim));
  parallel_for(thread, int(rows.size()), [&](int r) {
    const StepRow& row = rows[size_t(r)];
    if (row.state_from < 0) return;
    std::vector<double>& sum = results[size_t(r)].state;
    std::vector<float> state(stride);
    sum.assign(size_t(s.dim), 0);
    for (int i = row.state_from; i < row.count(); i++) {
      k_->rms_norm(residual_.data() + size_t(row_start_[size_t(r)] + i) * stride, norm_.data(), s.eps, s.dim, state.data());
      for (int d = 0; d < s.dim; d++) sum[size_t(d)] += double(state[size_t(d)]);
    }
    for (double value : sum)
      if (!std::isfinite(value)) results[size_t(r)].last_finite = false;
  });
}

// Logits of the tokens that are sampled or scored, some at a time, and what is asked of them.
void Decoder::choose_tokens(int thread, const std::vector<StepRow>& rows, std::vector<StepResult>& results) {
  const Shape& s = shape_;
  size_t stride = size_t(padded(s.dim)), width = size_t(padded(s.vocab));
  for (size_t first = 0; first < wanted_.size(); first += LOGIT_ROWS) {
    int count = int(std::min<size_t>(LOGIT_ROWS, wanted_.size() - first));
    const Wanted* wanted = wanted_.data() + first;
    Activations act = activations(thread, count, {&output_}, [&](int i, float* out) {
      k_->rms_norm(residual_.data() + size_t(wanted[i].token) * stride, norm_.data(), s.eps, s.dim, out);
    });
    parallel_for(thread, tiles(output_.matrix), [&](int tile) { multiply_tile(thread, output_, tile, act, count, logits_.data(), width); });
    wait(thread, nullptr);
    parallel_for(thread, count, [&](int i) {
      const StepRow& row = rows[size_t(wanted[i].row)];
      report(row, wanted[i].target, logits_.data() + size_t(i) * width, results[size_t(wanted[i].row)], *scratch_[size_t(thread)]);
    });
    wait(thread, nullptr);
  }
}

void Decoder::report(const StepRow& row, int target, const float* logits, StepResult& result, Scratch& scratch) const {
  const bool finite = all_finite(logits, shape_.vocab);
  auto score = [&](int token, int top) {
    Score out;
    out.finite = finite;
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
  const int guesses = -1 - target;  // that come before the token to choose
  if (guesses == 0) result.last_finite &= finite;
  if (row.sampling) result.choices[size_t(guesses)].finite = finite;
  if (!finite) return;  // choosing needs numbers that can be compared
  if (!row.score_tokens.empty()) {
    double norm = log_sum(*k_, logits, shape_.vocab);
    for (int32_t t : row.score_tokens) result.token_logprobs.push_back(double(logits[t]) - norm);
  }
  if (!row.sampling) return;
  Choice& choice = result.choices[size_t(guesses)];
  if (guesses == 0) {
    choice.token = choose(*k_, logits, shape_.vocab, *row.sampling, scratch.work);
  } else {
    Sampling later = *row.sampling;
    later.position += guesses;
    later.guesses = size_t(guesses);
    if (!later.history.empty()) later.history.insert(later.history.end(), row.tokens.end() - row.draft, row.tokens.end() - row.draft + guesses);
    choice.token = choose(*k_, logits, shape_.vocab, later, scratch.work);
  }
  if (row.top >= 0) choice.score = score(choice.token, row.top);
}

// Keep the choices up to the first that is not what was guessed: exactly what would have been chosen one by one, since a choice
// depends on the tokens before it, the seed, its position and its mask alone. A guess that a grammar does not allow is wrong, and
// what comes after the last mask was chosen without one.
static void keep_right_guesses(const StepRow& row, std::vector<Choice>& choices) {
  const int32_t* guess = row.tokens.data() + row.tokens.size() - size_t(row.draft);
  size_t count = 0, most = choices.size();
  if (row.sampling && row.sampling->mask_words) most = std::min(most, row.sampling->mask_count());
  while (count < most && choices[count].finite) {
    count++;
    if (count < most && choices[count - 1].token != guess[count - 1]) break;
  }
  choices.resize(count);
}

void Decoder::check(const StepRow& row) const {
  auto within = [](const std::vector<int32_t>& numbers, int end, const char* otherwise) {
    for (int32_t n : numbers)
      if (n < 0 || n >= end) throw std::invalid_argument(otherwise);
  };
  if (row.tokens.empty() || row.start < 0) throw std::invalid_argument("a row without tokens");
  if (row.tokens.size() + size_t(row.start) > row.blocks.size() * BLOCK) throw std::invalid_argument("a row's blocks do not hold its tokens");
  if (row.first_target < 0 || size_t(row.first_target) + row.targets.size() > row.tokens.size())
    throw std::invalid_argument("more targets than tokens");
  if (row.state_from < -1 || row.state_from >= row.count()) throw std::invalid_argument("states from outside the row's tokens");
  within(row.tokens, shape_.vocab, "a token outside the vocabulary");
  within(row.targets, shape_.vocab, "a target outside the vocabulary");
  within(row.score_tokens, shape_.vocab, "a token to score outside the vocabulary");
  within(row.blocks, blocks_, "a block outside the cache");
  if (row.draft < 0 || row.draft >= row.count() || (row.draft && (!row.sampling || !row.score_tokens.empty())))
    throw std::invalid_argument("guesses without a token before them, or in a row that does not choose");
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
  for (size_t r = 0; r < rows.size(); r++) {
    results[r].scores.resize(rows[r].targets.size());
    if (rows[r].sampling) results[r].choices.resize(size_t(rows[r].draft) + 1);
  }
  pool_->run([&](int thread) { forward(thread, rows, results); });
  for (size_t r = 0; r < rows.size(); r++) keep_right_guesses(rows[r], results[r].choices);
  return results;
}

}  // namespace herd
