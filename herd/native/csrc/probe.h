// Probes of the machine; see probe.cpp.
#pragma once

#include <cstddef>

namespace herd {

// Bytes a second that `threads` read from `bytes` of memory, the best of `rounds`.
double probe_bandwidth(int threads, size_t bytes, int rounds);

// Float operations a second in fused multiply-adds.
double probe_flops(int threads, const char* isa, int rounds);

// Integer operations a second in multiply-adds of 4-bit weights with 8-bit activations, as the kernels of prompts do them.
double probe_integer_ops(int threads, const char* isa, int rounds);

}  // namespace herd
