// Registers the CPU kernels with PyTorch's dispatcher, through its stable C interface (no ATen headers).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
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
using bestiary::na::Problem;
using bestiary::na::Type;
using bestiary::na::Variant;
using bestiary::na::View;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

const Variant& variant() {
  static const Variant& chosen = bestiary::best_variant<Variant>(
      {&bestiary::na::variant_avx512, &bestiary::na::variant_avx2, &bestiary::na::variant_portable});
  return chosen;
}

// (B, one to three axes, heads, channels), or (B, axes, heads) without `channels`.
View view(const Tensor& t, bool channels = true) {
  View v{t.data_ptr(), t.stride(0), {0, 0, 0}, 0};
  const int64_t axes = t.dim() - (channels ? 3 : 2);
  for (int64_t i = 0; i < axes; ++i) v.axis[3 - axes + i] = t.stride(1 + i);
  v.head = t.stride(1 + axes);
  return v;
}

// The lengths of the first `axes` axes.
Ints shape_of(const Tensor& t, int64_t axes) {
  Ints shape(axes);
  for (int64_t i = 0; i < axes; ++i) shape[i] = t.size(i);
  return shape;
}

Problem describe(const Tensor& query, const Tensor& key, const Tensor& value, const Optional& bias,
                 const Optional& extra_keys, const Optional& extra_values, const Ints& kernel, const Ints& stride,
                 const Ints& dilation, const Ints& causal, double scale) {
  Problem p{};
  switch (query.scalar_type()) {
    case ScalarType::Float:
      p.type = Type::float32;
      break;
    case ScalarType::BFloat16:
      p.type = Type::bfloat16;
      break;
    case ScalarType::Half:
      p.type = Type::float16;
      break;
    default:
      throw std::runtime_error("bestiary::na: the CPU kernels take float32, bfloat16 and float16");
  }
  const int64_t axes = query.dim() - 3;
  p.batch = query.size(0);
  p.heads = query.size(axes + 1);
  p.kv_heads = key.size(axes + 1);
  p.channels = query.size(axes + 2);
  p.value_channels = value.size(axes + 2);
  for (int64_t i = 0; i < 3; ++i) p.length[i] = p.kernel[i] = p.stride[i] = p.dilation[i] = 1;
  for (int64_t i = 0; i < axes; ++i) {
    const int64_t to = 3 - axes + i;
    p.length[to] = query.size(1 + i);
    p.kernel[to] = kernel[i];
    p.stride[to] = stride[i];
    p.dilation[to] = dilation[i];
    p.causal[to] = causal[i] != 0;
  }
  p.scale = static_cast<float>(scale);
  p.query = view(query);
  p.key = view(key);
  p.value = view(value);
  if (bias) p.bias = static_cast<const float*>(bias->data_ptr());
  if (extra_keys && extra_values) {
    p.additional = extra_keys->size(1);
    p.extra_keys = view(*extra_keys);
    p.extra_values = view(*extra_values);
  }
  return p;
}

bool is_empty(const Problem& p) { return p.batch == 0 || p.heads == 0; }

// Runs `work(part)` for all parts, on PyTorch's threads.
template <class Work>
void run(int64_t parts, const Work& work) {
  std::atomic<bool> failed{false};
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      if (!work(part)) failed = true;
    }
  });
  if (failed) throw std::runtime_error("bestiary::na: out of memory for scratch space");
}

Tensor contiguous_bias(const Tensor& bias) { return bias.is_contiguous() ? bias : torch::stable::clone(bias); }

std::tuple<Tensor, Tensor> forward(const Tensor query, const Tensor key, const Tensor value, const Optional bias,
                                   const Optional extra_keys, const Optional extra_values, const Ints kernel,
                                   const Ints stride, const Ints dilation, const Ints causal, double scale) {
  const Optional table = bias ? Optional(contiguous_bias(*bias)) : std::nullopt;
  Problem p = describe(query, key, value, table, extra_keys, extra_values, kernel, stride, dilation, causal, scale);
  Ints shape = shape_of(query, query.dim() - 1);
  Tensor lse = torch::stable::new_empty(query, shape, ScalarType::Float);
  shape.push_back(p.value_channels);
  Tensor out = torch::stable::new_empty(query, shape);
  p.out = view(out);
  p.lse = view(lse, false);
  if (!is_empty(p)) {
    const Variant& v = variant();
    const int64_t parts = v.forward_parts(p, torch::stable::get_num_threads());
    run(parts, [&](int64_t part) { return v.forward(p, part, parts); });
  }
  return {out, lse};
}

Tensor empty_like_shape(const Tensor& t, std::optional<ScalarType> type = std::nullopt) {
  return torch::stable::new_empty(t, shape_of(t, t.dim()), type);
}

Tensor absent(const Tensor& like, std::optional<ScalarType> type = std::nullopt) {
  return torch::stable::new_empty(like, Ints{0}, type);
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    const Tensor d_out, const Optional d_lse, const Tensor query, const Tensor key, const Tensor value,
    const Tensor out, const Tensor lse, const Optional bias, const Optional extra_keys, const Optional extra_values,
    const Ints kernel, const Ints stride, const Ints dilation, const Ints causal, double scale) {
  const Optional table = bias ? Optional(contiguous_bias(*bias)) : std::nullopt;
  Problem p = describe(query, key, value, table, extra_keys, extra_values, kernel, stride, dilation, causal, scale);
  Tensor d_query = empty_like_shape(query), d_key = empty_like_shape(key), d_value = empty_like_shape(value);
  Tensor d_bias = bias ? empty_like_shape(*bias) : absent(query, ScalarType::Float);
  Tensor d_extra_keys = extra_keys ? empty_like_shape(*extra_keys) : absent(query);
  Tensor d_extra_values = extra_values ? empty_like_shape(*extra_values) : absent(query);
  if (is_empty(p)) {
    for (Tensor* t : {&d_query, &d_key, &d_value, &d_bias, &d_extra_keys, &d_extra_values}) torch::stable::zero_(*t);
    return {d_query, d_key, d_value, d_bias, d_extra_keys, d_extra_values};
  }
  p.out = view(out);
  p.lse = view(lse, false);
  p.d_out = view(d_out);
  if (d_lse) p.d_lse = view(*d_lse, false);
  p.d_query = view(d_query);
  p.d_key = view(d_key);
  p.d_value = view(d_value);
  if (bias) p.d_bias = static_cast<float*>(d_bias.data_ptr());
  if (extra_keys && extra_values) {
    p.d_extra_keys = view(d_extra_keys);
    p.d_extra_values = view(d_extra_values);
  }
  const Variant& v = variant();
  const int64_t parts = v.backward_parts(p, torch::stable::get_num_threads());
  const std::unique_ptr<void, decltype(&std::free)> shared(std::calloc(v.shared_bytes(p, parts) + 1, 1), &std::free);
  if (shared == nullptr) throw std::runtime_error("bestiary::na: out of memory for scratch space");
  run(parts, [&](int64_t part) { return v.backward(p, part, parts, shared.get()); });
  v.reduce(p, parts, shared.get());
  return {d_query, d_key, d_value, d_bias, d_extra_keys, d_extra_values};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(bestiary, CPU, m) {
  m.impl("na_forward", TORCH_BOX(&forward));
  m.impl("na_backward", TORCH_BOX(&backward));
}
