// Choosing a token from logits; the same steps as herd/engine/sampling.py, which says what each parameter means.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels.h"

namespace herd {

struct SamplingParams {
  float temperature = 1, top_p = 1, min_p = 0, repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  int top_k = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
};

struct Sampling {
  SamplingParams params;
  uint64_t seed = 0;
  int64_t position = 0;          // in the reply
  std::vector<int32_t> history;  // prompt and reply; empty where no penalty needs it
  size_t prompt_length = 0;
  // One bit a token, `mask_words` of 32 of them a mask, one mask for this token and each of those guessed after it; none allow all.
  std::vector<uint32_t> masks;
  size_t mask_words = 0, guesses = 0;  // guesses: that come before the token to choose

  size_t mask_count() const { return mask_words ? masks.size() / mask_words : 0; }
  const uint32_t* mask() const { return guesses < mask_count() ? masks.data() + guesses * mask_words : nullptr; }
};

// A number in [0, 1) that depends on seed and position alone.
double uniform(uint64_t seed, int64_t position);

// The next token for logits [vocab]; `work` is scratch that is kept between calls.
int choose(const Kernels& k, const float* logits, int vocab, const Sampling& sampling, std::vector<float>& work);

// Whether no logit is a NaN or an infinity.
bool all_finite(const float* logits, int vocab);

// Natural log of the sum of e^logit, so that logit - this is a log-probability.
double log_sum(const Kernels& k, const float* logits, int vocab);

// The `count` largest logits, largest first, lower token first among equals.
void top_tokens(const float* logits, int vocab, int count, int32_t* tokens);

}  // namespace herd
