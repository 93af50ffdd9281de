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

bool plain(const Sampling& s) {
  const SamplingParams& p = s.params;
  bool repeats = p.repetition_penalty != 1.0f && !s.history.empty();
  return p.logit_bias.empty() && !s.mask() && !repeats && p.presence_penalty == 0 && p.frequency_penalty == 0;
}

// Bias, mask and penalties, in place.
void adjust(float* scores, int vocab, const Sampling& s) {
  const SamplingParams& p = s.params;
  for (auto& [token, bias] : p.logit_bias) scores[token] += bias;
  if (const uint32_t* mask = s.mask())
    for (size_t t = 0; t < size_t(vocab); t++)
      if (t / 32 >= s.mask_words || !(mask[t / 32] >> (t % 32) & 1)) scores[t] = -INFINITY;
  std::vector<int32_t> seen;
  if (p.repetition_penalty != 1.0f && !s.history.empty()) {
    seen = s.history;
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (int32_t t : seen) scores[t] = scores[t] > 0 ? scores[t] / p.repetition_penalty : scores[t] * p.repetition_penalty;
  }
  if ((p.presence_penalty != 0 || p.frequency_penalty != 0) && s.prompt_length < s.history.size()) {
    seen.assign(s.history.begin() + std::ptrdiff_t(s.prompt_length), s.history.end());
    std::sort(seen.begin(), seen.end());
    for (size_t i = 0, j; i < seen.size(); i = j) {
      for (j = i; j < seen.size() && seen[j] == seen[i]; j++) {
      }
      scores[seen[i]] -= p.presence_penalty + p.frequency_penalty * float(j - i);
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

int choose(const Kernels& k, const float* logits, int vocab, const Sampling& s, std::vector<float>& work) {
  const SamplingParams& p = s.params;
  const float* scores = logits;
  work.resize(size_t(vocab) * 2);
  if (!plain(s)) {
    std::memcpy(work.data(), logits, size_t(vocab) * sizeof(float));
    adjust(work.data(), vocab, s);
    scores = work.data();
  }
  float most = k.largest(scores, vocab);
  if (p.temperature == 0 || !(most > -FLT_MAX)) {
    const float* from = most > -FLT_MAX ? scores : logits;
    return int(std::max_element(from, from + vocab) - from);
  }
  float* weights = work.data() + vocab;
  double total = k.exp_sum(scores, most, 1.0f / p.temperature, weights, vocab);
  double drawn = uniform(s.seed, s.position);
  if (!p.top_k && p.top_p >= 1 && p.min_p <= 0) {
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
  double floor = p.top_p < 1 && !p.top_k ? total * (1.0 - double(p.top_p)) / vocab : 0.0;
  std::vector<Candidate> kept;
  for (int t = 0; t < vocab; t++)
    if (scores[t] > -FLT_MAX && weights[t] >= floor) kept.push_back({weights[t], t});
  if (p.top_k && size_t(p.top_k) < kept.size()) {
    std::nth_element(kept.begin(), kept.begin() + p.top_k - 1, kept.end(), heavier);
    kept.resize(size_t(p.top_k));
    total = 0;
    for (auto& c : kept) total += c.weight;
  }
  if (p.top_p < 1) {
    std::sort(kept.begin(), kept.end(), heavier);
    double sum = 0;
    size_t count = 0;
    while (count < kept.size() && sum < double(p.top_p) * total) sum += kept[count++].weight;
    kept.resize(std::max<size_t>(count, 1));
  }
  if (p.min_p > 0) {
    float bound = 0;
    for (auto& c : kept) bound = std::max(bound, c.weight);
    bound *= p.min_p;
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

bool all_finite(const float* logits, int vocab) {
  uint32_t found = 0;  // integers, so that compilers may do many at a time
  for (int t = 0; t < vocab; t++) {
    uint32_t bits;
    std::memcpy(&bits, logits + t, sizeof bits);
    found |= uint32_t((bits & 0x7F800000u) == 0x7F800000u);
  }
  return !found;
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
