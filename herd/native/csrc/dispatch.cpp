// Which instruction set to use: the best that both this processor and this build have.
#include <cstring>

#include "kernels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace herd {

const Kernels* choose_kernels(const char* name) {
  bool any = !name || !*name;
  auto wanted = [&](const char* isa) { return any || std::strcmp(name, isa) == 0; };
#if defined(__x86_64__)
  bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("avx512vnni");
  if (wanted("avx512bf16") && avx512 && __builtin_cpu_supports("avx512bf16")) return &kernels_avx512bf16();
  if (wanted("avx512") && avx512) return &kernels_avx512();
  if (wanted("avxvnni") && avx2 && __builtin_cpu_supports("avxvnni")) return &kernels_avxvnni();
  if (wanted("avx2") && avx2) return &kernels_avx2();
#elif defined(__aarch64__)
#if defined(__linux__)
  bool dot_product = getauxval(AT_HWCAP) & (1 << 20);  // HWCAP_ASIMDDP
#else
  bool dot_product = true;  // every Apple processor of this kind
#endif
  if (wanted("neon") && dot_product) return &kernels_neon();
#endif
  if (wanted("portable")) return &kernels_portable();
  return nullptr;
}

}  // namespace herd
