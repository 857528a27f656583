// Registers the CPU kernels with PyTorch's dispatcher, through its stable C interface (no ATen headers).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "../../../csrc/cpu/variant.h"
#include "problem.h"

namespace {
using bestiary::scan::Problem;
using bestiary::scan::Type;
using bestiary::scan::Variant;
using bestiary::scan::View;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

const Variant& variant() {
  static const Variant& chosen = bestiary::best_variant<Variant>(
      {&bestiary::scan::variant_avx512, &bestiary::scan::variant_avx2, &bestiary::scan::variant_portable});
  return chosen;
}

Type type_of(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Float:
      return Type::float32;
    case ScalarType::BFloat16:
      return Type::bfloat16;
    case ScalarType::Half:
      return Type::float16;
    case ScalarType::Double:
      return Type::float64;
    default:
      throw std::runtime_error("bestiary::selective_scan: the CPU kernels take float32, bfloat16, float16 and float64");
  }
}

// (B, L, R, X), or (B, R, X, L).
View view(const Tensor& t, bool steps_last) {
  if (steps_last) return {t.data_ptr(), t.stride(0), t.stride(3), t.stride(1), t.stride(2)};
  return {t.data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)};
}

// (B, R, D, N).
View view_of_states(const Tensor& t) {
  return {t.data_ptr(), t.stride(0), t.stride(3), t.stride(1), t.stride(2)};
}

Ints shape_of(const Tensor& t) {
  Ints shape(t.dim());
  for (int64_t i = 0; i < t.dim(); ++i) shape[i] = t.size(i);
  return shape;
}

Tensor empty_like_shape(const Tensor& t) { return torch::stable::new_empty(t, shape_of(t)); }

Problem describe(const Tensor& u, const Tensor& delta, const Tensor& a, const Tensor& b, const Tensor& c,
                 const Optional& d, const Optional& z, const Optional& bias, const Optional& initial,
                 const Optional& routes, bool softplus, bool steps_last) {
  Problem p{};
  p.type = type_of(u);
  p.batch = u.size(0);
  p.maps = u.size(steps_last ? 1 : 2);
  p.length = u.size(steps_last ? 3 : 1);
  p.routes = a.size(0);
  p.channels = a.size(1);
  p.states = a.size(2);
  p.softplus = softplus;
  p.steps_last = steps_last;
  p.u = view(u, steps_last);
  p.delta = view(delta, steps_last);
  p.b = view(b, steps_last);
  p.c = view(c, steps_last);
  if (z) p.z = view(*z, steps_last);
  p.a = a.data_ptr();
  if (d) p.d = d->data_ptr();
  if (bias) p.bias = bias->data_ptr();
  if (initial) p.initial = view_of_states(*initial);
  if (routes) {
    p.order = static_cast<const int64_t*>(routes->data_ptr());
    bool inside = true;
    for (int64_t i = 0; i < p.routes * p.length; ++i) inside &= p.order[i] >= 0 && p.order[i] < p.length;
    if (!inside) throw std::runtime_error("bestiary::selective_scan: the routes name steps that are not there");
  }
  return p;
}

bool is_empty(const Problem& p) { return p.batch == 0 || p.channels == 0; }

// Runs `work(begin, end)` over all parts, on PyTorch's threads.
template <class Work>
void run(int64_t parts, const Work& work) {
  std::atomic<bool> failed{false};
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    if (!work(begin, end)) failed = true;
  });
  if (failed) throw std::runtime_error("bestiary::selective_scan: out of memory for scratch space");
}

std::tuple<Tensor, Tensor, Tensor> forward(const Tensor u, const Tensor delta, const Tensor a, const Tensor b,
                                           const Tensor c, const Optional d, const Optional z, const Optional bias,
                                           const Optional initial, const Optional routes, bool softplus,
                                           bool steps_last, int64_t chunk) {
  Problem p = describe(u, delta, a, b, c, d, z, bias, initial, routes, softplus, steps_last);
  const int64_t chunks = chunk > 0 ? (p.length + chunk - 1) / chunk : 0;
  Tensor out = empty_like_shape(delta);
  Tensor last = torch::stable::new_empty(a, Ints{p.batch, p.routes, p.channels, p.states});
  Tensor kept = torch::stable::new_empty(a, Ints{chunks, p.batch, p.routes, p.channels, p.states});
  p.chunk = chunk > 0 ? chunk : bestiary::scan::kChunk;
  p.out = view(out, steps_last);
  p.last = last.data_ptr();
  p.kept = chunk > 0 ? kept.data_ptr() : nullptr;
  if (!is_empty(p)) {
    const Variant& v = variant();
    run(v.tasks(p), [&](int64_t begin, int64_t end) { return v.forward(p, begin, end); });
  }
  return {out, last, kept};
}

using Nine = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

Nine backward(const Tensor d_out, const Optional d_last, const Tensor kept, const Tensor u, const Tensor delta,
              const Tensor a, const Tensor b, const Tensor c, const Optional d, const Optional z, const Optional bias,
              const Optional initial, const Optional routes, bool softplus, bool steps_last, int64_t chunk) {
  Problem p = describe(u, delta, a, b, c, d, z, bias, initial, routes, softplus, steps_last);
  const auto like = [&](const Optional& t, const Tensor& of) {
    return t ? empty_like_shape(*t) : torch::stable::new_empty(of, Ints{0});
  };
  Tensor d_u = empty_like_shape(u), d_delta = empty_like_shape(delta), d_a = empty_like_shape(a);
  Tensor d_b = empty_like_shape(b), d_c = empty_like_shape(c), d_d = like(d, a), d_z = like(z, u), d_bias = like(bias, a);
  Tensor d_initial = torch::stable::new_empty(a, Ints{p.batch, p.routes, p.channels, p.states});
  Nine gradients = {d_u, d_delta, d_a, d_b, d_c, d_d, d_z, d_bias, d_initial};
  if (is_empty(p)) {
    for (Tensor* t : {&d_u, &d_delta, &d_a, &d_b, &d_c, &d_d, &d_z, &d_bias, &d_initial}) torch::stable::zero_(*t);
    return gradients;
  }
  p.chunk = chunk;
  p.kept = kept.data_ptr();
  p.d_out = view(d_out, steps_last);
  if (d_last) p.d_last = view_of_states(*d_last);
  p.d_u = view(d_u, steps_last);
  p.d_delta = view(d_delta, steps_last);
  p.d_b = view(d_b, steps_last);
  p.d_c = view(d_c, steps_last);
  if (z) p.d_z = view(d_z, steps_last);
  p.d_a = d_a.data_ptr();
  if (d) p.d_d = d_d.data_ptr();
  if (bias) p.d_bias = d_bias.data_ptr();
  p.d_initial = d_initial.data_ptr();
  const Variant& v = variant();
  const std::unique_ptr<void, decltype(&std::free)> shared(std::aligned_alloc(64, v.shared_bytes(p) + 64), &std::free);
  if (shared == nullptr) throw std::runtime_error("bestiary::selective_scan: out of memory for scratch space");
  run(v.tasks(p), [&](int64_t begin, int64_t end) { return v.backward(p, begin, end, shared.get()); });
  run(v.sums(p), [&](int64_t begin, int64_t end) {
    v.sum(p, begin, end, shared.get());
    return true;
  });
  return gradients;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(bestiary, CPU, m) {
  m.impl("selective_scan_forward", TORCH_BOX(&forward));
  m.impl("selective_scan_backward", TORCH_BOX(&backward));
}
