// The kernels, compiled once for each instruction set: VARIANT is its name, the compiler's flags choose it.
#include "problem.h"

#include "../../../csrc/cpu/variant.h"

#ifndef VARIANT
#error "compile with -DVARIANT=avx512, avx2 or portable, and the flags of that instruction set"
#endif

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

namespace {
using bestiary::scan::Problem;
using bestiary::scan::View;

#include "vectors.h"
#include "../../../csrc/cpu/scratch.h"
#include "tiles.h"
#include "tasks.h"
#include "forward.h"
#include "backward.h"
#include "sums.h"

// Calls body(number to compute with, number that is stored).
template <class Body>
auto with_type(const Problem& p, Body&& body) {
  switch (p.type) {
    case bestiary::scan::Type::bfloat16:
      return body(float{}, BFloat16{});
    case bestiary::scan::Type::float16:
      return body(float{}, Float16{});
    case bestiary::scan::Type::float64:
      return body(double{}, double{});
    default:
      return body(float{}, float{});
  }
}
}  // namespace

extern const bestiary::scan::Variant bestiary::scan::JOIN(variant_, VARIANT);
const bestiary::scan::Variant bestiary::scan::JOIN(variant_, VARIANT) = {
    TEXT(VARIANT),
    [](const Problem& p) { return with_type(p, [&](auto real, auto) { return Cut<decltype(real)>(p).tasks; }); },
    [](const Problem& p, int64_t begin, int64_t end) {
      return with_type(
          p, [&](auto real, auto type) { return forward_tasks<decltype(real), decltype(type)>(p, begin, end); });
    },
    [](const Problem& p) {
      return with_type(p, [&](auto real, auto) {
        using Real = decltype(real);
        return Shared<Real>(p, Cut<Real>(p), nullptr).bytes;
      });
    },
    [](const Problem& p, int64_t begin, int64_t end, void* shared) {
      return with_type(p, [&](auto real, auto type) {
        return backward_tasks<decltype(real), decltype(type)>(p, begin, end, shared);
      });
    },
    [](const Problem& p) {
      return with_type(p, [&](auto real, auto) {
        using Real = decltype(real);
        return SumParts<Real>(p, Shared<Real>(p, Cut<Real>(p), nullptr)).all;
      });
    },
    [](const Problem& p, int64_t begin, int64_t end, const void* shared) {
      with_type(p, [&](auto real, auto type) { sum_all<decltype(real), decltype(type)>(p, begin, end, shared); });
    },
};
