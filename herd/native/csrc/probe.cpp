// What this machine can do at the moment: bytes a second from memory, float and integer operations a second.
#include "probe.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "decoder.h"

namespace herd {
namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

double probe_bandwidth(int threads, size_t bytes, int rounds) {
  Pool pool(threads);
  Memory memory(bytes);
  size_t words = bytes / 8 / size_t(threads);
  uint64_t* data = memory.as<uint64_t>();
  pool.run([&](int t) {
    for (size_t i = 0; i < words; i++) data[size_t(t) * words + i] = i;
  });
  std::vector<uint64_t> sums(size_t(threads) * 8);
  double best = 0;
  for (int n = 0; n < rounds; n++) {
    double begun = seconds();
    pool.run([&](int t) {
      const uint64_t* p = data + size_t(t) * words;
      uint64_t a = 0, b = 0, c = 0, d = 0;
      for (size_t i = 0; i + 32 <= words; i += 32) {
        __builtin_prefetch(p + i + 512);
        __builtin_prefetch(p + i + 520);
        __builtin_prefetch(p + i + 528);
        __builtin_prefetch(p + i + 536);
        for (size_t j = 0; j < 32; j += 4) {
          a += p[i + j];
          b += p[i + j + 1];
          c += p[i + j + 2];
          d += p[i + j + 3];
        }
      }
      sums[size_t(t) * 8] = a + b + c + d;
    });
    double rate = double(words) * 8 * threads / (seconds() - begun);
    best = rate > best ? rate : best;
  }
  return sums[0] ? best : 0;
}

template <class F>
double best_rate(int threads, double operations, F&& rounds) {
  Pool pool(threads);
  std::vector<double> out(size_t(threads) * 8);
  double best = 0;
  for (int n = 0; n < 3; n++) {
    double begun = seconds();
    pool.run([&](int t) { out[size_t(t) * 8] = double(rounds()); });
    best = std::max(best, operations * threads / (seconds() - begun));
  }
  return out[0] != 0 ? best : 0;
}

double probe_flops(int threads, const char* isa, int rounds) {
  const Kernels* k = choose_kernels(isa);
  return k ? best_rate(threads, 2.0 * 12 * TILE * rounds, [&] { return k->float_rounds(rounds); }) : 0;
}

double probe_integer_ops(int threads, const char* isa, int rounds) {
  const Kernels* k = choose_kernels(isa);
  return k ? best_rate(threads, 2.0 * 12 * TILE * 4 * rounds, [&] { return k->integer_rounds(rounds); }) : 0;
}

}  // namespace herd
