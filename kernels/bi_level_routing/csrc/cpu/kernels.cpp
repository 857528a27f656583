// The kernels, compiled once for each instruction set: VARIANT is its name, the compiler's flags choose it.
#include "../../../csrc/cpu/variant.h"
#include "problem.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

namespace {
#include "../../../csrc/cpu/vectors.h"
#include "../../../csrc/cpu/scratch.h"
#include "../../../csrc/cpu/pack.h"
#include "products.h"
#include "regions.h"
#include "forward.h"
#include "backward.h"

template <class Body>
auto with_type(const Problem& p, Body&& body) {
  switch (p.type) {
    case bestiary::routing::Type::bfloat16:
      return body(BFloat16{});
    case bestiary::routing::Type::float16:
      return body(Float16{});
    default:
      return body(float{});
  }
}
}  // namespace

extern const bestiary::routing::Variant bestiary::routing::JOIN(variant_, VARIANT);
const bestiary::routing::Variant bestiary::routing::JOIN(variant_, VARIANT) = {
    TEXT(VARIANT),
    [](const Problem& p, int64_t part, int64_t parts) {
      return with_type(p, [&](auto type) { return forward_part<decltype(type)>(p, part, parts); });
    },
    [](const Problem& p, int64_t part, int64_t parts) {
      return with_type(p, [&](auto type) { return backward_heads<decltype(type)>(p, part, parts); });
    },
    [](const Problem& p, int64_t part, int64_t parts) {
      return with_type(p, [&](auto type) { return backward_items<decltype(type)>(p, kQueriesAlone, part, parts); });
    },
    [](const Problem& p, int64_t part, int64_t parts) {
      return with_type(p, [&](auto type) { return backward_items<decltype(type)>(p, kKeysAlone, part, parts); });
    },
};
