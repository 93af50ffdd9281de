// Choosing a token from logits; the same steps as herd/engine/sampling.py, which says what each parameter means.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"

namespace herd {

struct SampleSpec {
  float temperature = 1, top_p = 1, min_p = 0, repetition = 1, presence = 0, frequency = 0;
  int top_k = 0;
  uint64_t seed = 0;
  int64_t position = 0;
  const int32_t* history = nullptr;  // prompt and reply
  int64_t history_length = 0, prompt_length = 0;
  const int32_t* bias_tokens = nullptr;
  const float* bias_values = nullptr;
  int64_t biases = 0;
  const uint32_t* mask = nullptr;  // one bit a token; null allows all
  int64_t mask_words = 0;
};

// A number in [0, 1) that depends on seed and position alone.
double uniform(uint64_t seed, int64_t position);

// The next token for logits [vocab]; `work` is scratch that is kept between calls.
int choose(const Kernels& k, const float* logits, int vocab, const SampleSpec& spec, std::vector<float>& work);

// Natural log of the sum of e^logit, so that logit - this is a log-probability.
double log_sum(const Kernels& k, const float* logits, int vocab);

// The `count` largest logits, largest first, lower token first among equals.
void top_tokens(const float* logits, int vocab, int count, int32_t* tokens);

}  // namespace herd
