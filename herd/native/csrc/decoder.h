// A Llama model on the CPU: packed weights, a paged key-value cache, and `step`, which computes a plan.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels.h"
#include "pool.h"
#include "sampler.h"

namespace herd {

struct Shape {
  int layers, dim, ffn, heads, kv_heads, head_dim, vocab;
  float eps;
  std::vector<float> frequencies;  // radians a position turns each pair, [head_dim / 2]
  float rope_gain;                 // what cosines and sines are multiplied with
};

// Memory straight from the system: zero, lazily there, in huge pages where they help, given back when destroyed.
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes);
  Memory(Memory&& other) noexcept : data_(other.data_), bytes_(other.bytes_) { other.data_ = nullptr; }
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Memory();
  uint8_t* data() const { return static_cast<uint8_t*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Pieces of large memory, so that all weights lie in huge pages: with small ones a step spends more on finding pages
// than on reading them where translation is slow, as in virtual machines.
class Arena {
 public:
  uint8_t* take(size_t bytes);
  void give(uint8_t* data, size_t bytes);  // what was taken and is not needed any more, to be taken again

 private:
  struct Piece {
    uint8_t* data;
    size_t bytes;
  };
  std::vector<Piece> given_;
  std::vector<Memory> chunks_;
  size_t left_ = 0;
  uint8_t* next_ = nullptr;
};

// One sequence's part of a step.
struct StepRow {
  std::vector<int32_t> tokens;
  int start = 0;                    // position of the first
  std::vector<int32_t> blocks;      // of the cache, enough for all positions up to the last token's
  std::optional<Sampling> sampling;  // how to choose a token after the last; none to compute only
  int top = -1;                     // alternatives to report beside the sampled token; -1 for no log-probability
  std::vector<int32_t> targets;     // next tokens to score, one for each token from first_target on
  int first_target = 0;
  int target_top = 0;               // alternatives to report beside each score
  std::vector<int32_t> score_tokens;  // log-probabilities of these as the token after the last
  int state_from = -1;                // the sum of the states of the tokens from this one on is wanted; -1: of none
  int draft = 0;  // so many of the last tokens are guesses: a token is chosen before each of them too, and after a wrong one none counts

  int count() const { return int(tokens.size()); }
};

struct Score {
  double logprob;
  std::vector<int32_t> tokens;   // the most likely ones
  std::vector<double> logprobs;
  bool finite = true;  // false: the logits have a NaN or an infinity, and nothing else counts
};

struct Choice {
  int token = -1;
  std::optional<Score> score;
  bool finite = true;  // as in Score
};

struct StepResult {
  std::vector<Choice> choices;  // where a row samples: one token, and one more for each guess that was right
  std::vector<Score> scores;
  std::vector<double> token_logprobs;  // of score_tokens
  std::vector<double> state;           // the sum that state_from asked for, after the last norm, [dim]
  bool last_finite = true;             // of the state, and of the logits after the last token, where they were needed

  bool finite() const {
    return last_finite && std::all_of(scores.begin(), scores.end(), [](const Score& s) { return s.finite; });
  }
};

class Decoder {
 public:
  Decoder(Shape shape, int threads, int blocks, const char* isa, CacheKind kind = CacheKind::F16);
  ~Decoder();
  // Take tensor `name` (Meta's names), `rows` x `columns` in a file format's blocks; `scale` is null or [rows]. One that is
  // there is replaced, in its place if it has the same size; not while a step is computed. `mapped`: `raw` lies in a mapped file and
  // stays there. Where packing is quick, steps pack it then, a part each, and the rest for themselves, so that the first token does
  // not wait for it. Pages that are packed for good are given back, so that weights are not in memory twice.
  void add(const std::string& name, int format, int rows, int columns, const uint8_t* raw, size_t bytes, const float* scale,
           bool mapped = false);
  void finish();  // check that every tensor is there
  void pack();    // pack all that is not packed yet; not while a step is computed
  size_t packed_a_step = size_t(128) << 20;  // bytes of weights that a step packs for good; they are in memory twice until the next
  // `before_choosing`, if there is one, is called on the caller's thread once all layers are computed: what choosing needs
  // and layers do not, masks of allowed tokens, may be made meanwhile and put into the rows then. std::invalid_argument for
  // rows that make no sense.
  std::vector<StepResult> step(const std::vector<StepRow>& rows, const std::function<void()>& before_choosing = {});
  const char* isa() const { return k_->name; }
  // A block of the cache, its layers one after another; not while a step is computed. std::invalid_argument for one that is not there.
  size_t block_bytes() const { return block_bytes_ * size_t(shape_.layers); }
  void read_block(int block, uint8_t* out) const;
  void write_block(int block, const uint8_t* in);

 private:
  struct Weights {
    std::vector<float> scale;
    Matrix matrix;
    uint8_t* data = nullptr;  // of the matrix, and how much of the arena it is
    size_t bytes = 0;
    // Tiles before `packed` are packed, those before `packing` are being packed for good in this step, others are raw.
    int packed = 0, packing = 0, format = 0;
    const uint8_t* raw = nullptr;
    size_t row_bytes = 0;
  };
  struct Layer {
    std::vector<float> attention_norm, ffn_norm;
    Weights wq, wk, wv, wo, w1, w2, w3;
  };
  struct Task {  // a piece of attention, or a run of pieces over all splits
    int row, first_token, tokens, kv_head, split;  // split -1: all splits, folded
  };
  struct Scratch;
  enum Projection { QUERY, KEY, VALUE };

  uint8_t* block_of(int layer, int block) const;
  void clear(int block);  // where a sequence begins one: places it has not come to weigh nothing, but nothing times a NaN is a NaN
  Weights* place(const std::string& name, std::vector<float>*& norm);
  void check(const StepRow& row) const;
  void pack_tiles(Weights& w, int first, int last);
  void pack_tile(const Weights& w, int index, uint8_t* out) const;
  void packed_up_to(Weights& w, int last);
  template <class F>
  void each_unpacked(F&& visit);
  void plan_packing(bool with_output);
  void prepare(const std::vector<StepRow>& rows);
  void forward(int thread, const std::vector<StepRow>& rows, std::vector<StepResult>& results);
  void layer(int thread, int index, const std::vector<StepRow>& rows);
  void sum_states(int thread, const std::vector<StepRow>& rows, std::vector<StepResult>& results);
  void choose_tokens(int thread, const std::vector<StepRow>& rows, std::vector<StepResult>& results);
  void attend(int thread, const Task& task, const std::vector<StepRow>& rows, const uint8_t* cache);
  void attention_output(int token, float* out) const;
  void fold_splits(int token, float* out) const;
  void store(Projection which, int token, int first, const float* values, uint8_t* cache);
  void turn_queries(int token);
  void store_scaled(int token, int head, uint8_t* cache);
  void report(const StepRow& row, int index, const float* logits, StepResult& result, Scratch& scratch) const;
  template <class F>
  void parallel_for(int thread, int count, F&& work);
  void wait(int thread, const Weights* next);
  template <class F>
  Activations activations(int thread, int rows, std::initializer_list<const Weights*> weights, F&& fill);
  template <class F>
  void multiply(int thread, const Weights& w, const Activations& act, int rows, F&& take);
  void multiply_tile(int thread, const Weights& w, int index, const Activations& act, int rows, float* out, size_t stride);

  Shape shape_;
  const Kernels* k_;
  std::unique_ptr<Pool> pool_;
  std::vector<Layer> layers_;
  Weights output_;
  const uint8_t* embedding_raw_ = nullptr;
  size_t embedding_row_bytes_ = 0;
  int embedding_format_ = 0;
  std::vector<float> embedding_scale_;
  std::vector<float> norm_;
  Arena arena_;
  Memory cache_;
  CacheKind kind_;
  bool turned_ = false;  // keys and values are turned by a Hadamard matrix
  bool has_integers_ = false, has_pairs_ = false;
  bool all_packed_ = true;
  size_t widest_tile_ = 0;  // bytes
  size_t layer_bytes_ = 0, block_bytes_ = 0, slab_bytes_ = 0;  // layer_bytes_: of a layer's part of a slab
  int blocks_;

  // One step's state, shared by the threads.
  const std::function<void()>* before_choosing_ = nullptr;
  int total_ = 0;
  std::vector<float> residual_, queries_, new_kv_, attended_, gated_, rope_, partial_, logits_;
  std::vector<int> position_, row_of_, block_, row_start_;
  struct Wanted {
    int token, row, target;  // target -1 - i: what is asked of the row's last token but its guesses and after i of them
  };
  std::vector<Wanted> wanted_;
  std::vector<size_t> partial_at_;
  std::vector<Task> tasks_;
  std::vector<std::atomic<int>> taken_;  // [thread][loop]: how much of its share of a parallel loop is taken
  int loops_ = 0;
  std::vector<std::unique_ptr<Scratch>> scratch_;
  std::unique_ptr<Scratch> shared_;
};

}  // namespace herd
