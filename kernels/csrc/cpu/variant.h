// A CPU library holds its kernels once for each instruction set, as an object `Variant` with a `name`; the best that the
// processor can run is taken.
#pragma once
#include <array>
#include <cstdlib>
#include <stdexcept>
#include <string_view>

#define JOIN_AGAIN(a, b) a##b
#define JOIN(a, b) JOIN_AGAIN(a, b)
#define TEXT_AGAIN(a) #a
#define TEXT(a) TEXT_AGAIN(a)

namespace bestiary {

// Of the candidates avx512, avx2 and portable; BESTIARY_CPU_VARIANT names a lesser one, for tests and comparisons.
template <class Variant>
const Variant& best_variant(const std::array<const Variant*, 3>& candidates) {
  bool runs[] = {false, false, true};
#if defined(__x86_64__)
  runs[1] = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  runs[0] = runs[1] && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw");
#endif
  const char* given = std::getenv("BESTIARY_CPU_VARIANT");
  const char* wanted = given && *given ? given : nullptr;
  for (int i = 0; i < 3; ++i) {
    if (runs[i] && (wanted == nullptr || std::string_view(wanted) == candidates[i]->name)) return *candidates[i];
  }
  throw std::runtime_error("BESTIARY_CPU_VARIANT must be avx512, avx2 or portable, one that this processor can run");
}

}  // namespace bestiary
