// Halves without hardware. The functions are each translation unit's own: files are compiled for different instruction
// sets, and a shared inline function could be linked in a form that the processor does not have.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace herd {
namespace {

[[maybe_unused]] inline float half_to_float(uint16_t h) {
  uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023, bits;
  if (exponent == 31) {
    bits = sign | 0x7F800000 | (mantissa << 13);
  } else if (exponent) {
    bits = sign | ((exponent + 112) << 23) | (mantissa << 13);
  } else {
    float value = float(mantissa) * 5.9604644775390625e-8f;  // 2^-24
    std::memcpy(&bits, &value, 4);
    bits |= sign;
  }
  float out;
  std::memcpy(&out, &bits, 4);
  return out;
}

[[maybe_unused]] inline uint16_t float_to_half(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  uint32_t sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7FFFFFFF;
  if (magnitude >= 0x7F800000) return uint16_t(sign | 0x7C00 | (magnitude > 0x7F800000 ? 0x200 : 0));
  if (magnitude >= 0x477FF000) return uint16_t(sign | 0x7C00);
  if (magnitude < 0x38800000) {  // a subnormal half
    float scaled;
    std::memcpy(&scaled, &magnitude, 4);
    return uint16_t(sign | uint32_t(std::nearbyint(scaled * 16777216.0f)));
  }
  uint32_t rounded = magnitude + 0xFFF + ((magnitude >> 13) & 1);
  return uint16_t(sign | ((rounded - 0x38000000) >> 13));
}

[[maybe_unused]] inline uint16_t float_to_bf16(float f) {
  uint32_t bits;
  std::memcpy(&bits, &f, 4);
  if (f != f) return uint16_t(bits >> 16 | 0x40);  // stays not a number
  return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

}  // namespace
}  // namespace herd
