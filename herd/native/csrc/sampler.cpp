#include "sampler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <cstring>
#include <utility>

namespace herd {
namespace {

uint64_t mix64(uint64_t v) {  // SplitMix64's finalizer
  v = (v ^ (v >> 30)) * 0xBF58476D1CE4E5B9ull;
  v = (v ^ (v >> 27)) * 0x94D049BB133111EBull;
  return v ^ (v >> 31);
}

bool plain(const SampleSpec& s) {
  return !s.biases && !s.mask && (s.repetition == 1.0f || !s.history_length) && s.presence == 0 && s.frequency == 0;
}

// Bias, mask and penalties, in place.
void adjust(float* scores, int vocab, const SampleSpec& s) {
  for (int64_t i = 0; i < s.biases; i++) scores[s.bias_tokens[i]] += s.bias_values[i];
  if (s.mask)
    for (int t = 0; t < vocab; t++)
      if (t / 32 >= s.mask_words || !(s.mask[t / 32] >> (t % 32) & 1)) scores[t] = -INFINITY;
  std::vector<int32_t> seen;
  if (s.repetition != 1.0f && s.history_length) {
    seen.assign(s.history, s.history + s.history_length);
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (int32_t t : seen) scores[t] = scores[t] > 0 ? scores[t] / s.repetition : scores[t] * s.repetition;
  }
  if (s.presence != 0 || s.frequency != 0) {
    seen.assign(s.history + s.prompt_length, s.history + s.history_length);
    std::sort(seen.begin(), seen.end());
    for (size_t i = 0, j; i < seen.size(); i = j) {
      for (j = i; j < seen.size() && seen[j] == seen[i]; j++) {
      }
      scores[seen[i]] -= s.presence + s.frequency * float(j - i);
    }
  }
}

struct Candidate {
  float weight;
  int32_t token;
};

bool heavier(const Candidate& a, const Candidate& b) {
  return a.weight != b.weight ? a.weight > b.weight : a.token < b.token;
}

}  // namespace

double uniform(uint64_t seed, int64_t position) {
  return double(mix64(seed + uint64_t(position + 1) * 0x9E3779B97F4A7C15ull) >> 11) * 0x1p-53;
}

int choose(const Kernels& k, const float* logits, int vocab, const SampleSpec& s, std::vector<float>& work) {
  const float* scores = logits;
  work.resize(size_t(vocab) * 2);
  if (!plain(s)) {
    std::memcpy(work.data(), logits, size_t(vocab) * sizeof(float));
    adjust(work.data(), vocab, s);
    scores = work.data();
  }
  float most = k.largest(scores, vocab);
  if (s.temperature == 0 || !(most > -FLT_MAX)) {
    const float* from = most > -FLT_MAX ? scores : logits;
    return int(std::max_element(from, from + vocab) - from);
  }
  float* weights = work.data() + vocab;
  double total = k.exp_sum(scores, most, 1.0f / s.temperature, weights, vocab);
  double drawn = uniform(s.seed, s.position);
  if (!s.top_k && s.top_p >= 1 && s.min_p <= 0) {
    double sum = 0, target = drawn * total;
    int last = 0;
    for (int t = 0; t < vocab; t++) {
      if (!(scores[t] > -FLT_MAX)) continue;
      sum += weights[t];
      last = t;
      if (sum > target) return t;
    }
    return last;
  }
  // Tokens that all together weigh less than what top-p may leave out cannot be kept by it.
  double floor = s.top_p < 1 && !s.top_k ? total * (1.0 - double(s.top_p)) / vocab : 0.0;
  std::vector<Candidate> kept;
  for (int t = 0; t < vocab; t++)
    if (scores[t] > -FLT_MAX && weights[t] >= floor) kept.push_back({weights[t], t});
  if (s.top_k && size_t(s.top_k) < kept.size()) {
    std::nth_element(kept.begin(), kept.begin() + s.top_k - 1, kept.end(), heavier);
    kept.resize(size_t(s.top_k));
    total = 0;
    for (auto& c : kept) total += c.weight;
  }
  if (s.top_p < 1) {
    std::sort(kept.begin(), kept.end(), heavier);
    double sum = 0;
    size_t count = 0;
    while (count < kept.size() && sum < double(s.top_p) * total) sum += kept[count++].weight;
    kept.resize(std::max<size_t>(count, 1));
  }
  if (s.min_p > 0) {
    float bound = 0;
    for (auto& c : kept) bound = std::max(bound, c.weight);
    bound *= s.min_p;
    kept.erase(std::remove_if(kept.begin(), kept.end(), [&](auto& c) { return c.weight < bound; }), kept.end());
  }
  std::sort(kept.begin(), kept.end(), [](auto& a, auto& b) { return a.token < b.token; });
  double sum = 0;
  for (auto& c : kept) sum += c.weight;
  double target = drawn * sum, walked = 0;
  for (auto& c : kept) {
    walked += c.weight;
    if (walked > target) return c.token;
  }
  return kept.back().token;
}

double log_sum(const Kernels& k, const float* logits, int vocab) {
  float most = k.largest(logits, vocab);
  return double(most) + std::log(k.exp_sum(logits, most, 1.0f, nullptr, vocab));
}

void top_tokens(const float* logits, int vocab, int count, int32_t* tokens) {
  std::vector<int32_t> order(size_t(vocab), 0);
  for (int t = 0; t < vocab; t++) order[size_t(t)] = t;
  count = std::min(count, vocab);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](int32_t a, int32_t b) {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  });
  std::copy(order.begin(), order.begin() + count, tokens);
}

}  // namespace herd
