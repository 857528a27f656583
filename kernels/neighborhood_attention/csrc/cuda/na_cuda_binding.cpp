// The CUDA kernels as bestiary::na_forward and bestiary::na_backward, through PyTorch's stable C interface. The tests
// compile this file with -DNA_EMULATED too, over CPU tensors and in a namespace of their own.
#ifndef NA_EMULATED
#define USE_CUDA  // shim.h then declares the current-stream call
#endif
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "problem.h"

#ifdef NA_EMULATED
#define NA_KEY CPU
#else
#define NA_NAMESPACE bestiary
#define NA_KEY CUDA
#endif

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

// The stream of the tensors' device, which is current while this lives.
struct Stream {
  void* handle = nullptr;
#ifdef NA_EMULATED
  explicit Stream(int) {}
#else
  torch::stable::accelerator::DeviceGuard guard;
  explicit Stream(int device) : guard(device) {
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &handle));
  }
#endif
};

void check(int error, const char* what) {
  STD_TORCH_CHECK(error == 0, "neighborhood_attention (cuda): ", what, ": ", na_cuda_error(error));
}

Ints sizes_of(const Tensor& t) {
  Ints sizes(t.dim());
  for (int64_t i = 0; i < t.dim(); ++i) sizes[i] = t.size(i);
  return sizes;
}

Tensor like(const Tensor& query, const Ints& sizes, std::optional<ScalarType> dtype = std::nullopt) {
  return torch::stable::new_empty(query, sizes, dtype);
}

// (B, *S, heads, channels), or (B, M, heads, channels) for additional tokens. Strides of axes of one entry mean nothing
// and are left at 0.
NaTensor view(const Tensor& t) {
  NaTensor v = {};
  v.data = t.mutable_data_ptr();
  int64_t axes = t.dim() - 3;
  auto stride = [&](int64_t i) { return t.size(i) == 1 ? 0LL : (long long)t.stride(i); };
  v.batch = stride(0), v.head = stride(axes + 1);
  for (int64_t i = 0; i < axes; ++i) v.axis[3 - axes + i] = stride(1 + i);
  return v;
}

Tensor with_unit_stride(const Tensor& t) {
  return t.size(t.dim() - 1) == 1 || t.stride(t.dim() - 1) == 1 ? t : torch::stable::contiguous(t);
}

bool has(const Optional& t) { return t.has_value() && t->numel() > 0; }

NaProblem describe(const Tensor& query, const Tensor& key, const Tensor& value, const Optional& additional_keys,
                   const Optional& additional_values, const Ints& kernel_size, const Ints& stride, const Ints& dilation,
                   const Ints& is_causal, double scale) {
  NaProblem p = {};
  auto dtype = query.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                  "neighborhood_attention (cuda): it takes float16, bfloat16 and float32");
  p.dtype = dtype == ScalarType::Float ? NA_FLOAT32 : dtype == ScalarType::Half ? NA_FLOAT16 : NA_BFLOAT16;
  int64_t axes = query.dim() - 3;
  p.batch = query.size(0), p.heads = query.size(axes + 1), p.channels = query.size(axes + 2);
  p.kv_heads = value.size(axes + 1), p.value_channels = value.size(axes + 2);
  STD_TORCH_CHECK(p.channels <= 256 && p.value_channels <= 256,
                  "neighborhood_attention (cuda): heads are at most 256 channels wide");
  for (int i = 0; i < 3; ++i) p.length[i] = p.kernel[i] = p.stride[i] = p.dilation[i] = 1;
  for (int64_t i = 0; i < axes; ++i) {
    int64_t at = 3 - axes + i;
    p.length[at] = query.size(1 + i), p.kernel[at] = kernel_size[i], p.stride[at] = stride[i];
    p.dilation[at] = dilation[i], p.causal[at] = is_causal[i] != 0;
  }
  p.query = view(query), p.key = view(key), p.value = view(value);
  if (has(additional_keys)) {
    p.additional = additional_keys->size(1);
    p.additional_keys = view(*additional_keys), p.additional_values = view(*additional_values);
  }
  p.scale = (float)scale;
  int capability = 0;
  check(na_cuda_device(query.get_device(), &p.processors, &p.shared_limit, &capability), "the device does not answer");
  return p;
}

std::tuple<Tensor, Tensor> forward(Tensor query, Tensor key, Tensor value, Optional rel_pos_bias,
                                   Optional additional_keys, Optional additional_values, Ints kernel_size, Ints stride,
                                   Ints dilation, Ints is_causal, double scale) {
  Ints sizes = sizes_of(query);
  sizes.back() = value.size(value.dim() - 1);
  Tensor out = like(query, sizes);
  sizes.pop_back();
  Tensor lse = like(query, sizes, ScalarType::Float);
  if (out.numel() == 0) return {out, lse};
  Stream stream(query.get_device());
  NaProblem p = describe(query, key, value, additional_keys, additional_values, kernel_size, stride, dilation, is_causal, scale);
  Optional bias;
  if (has(rel_pos_bias)) bias = torch::stable::contiguous(*rel_pos_bias);
  p.bias = bias ? (const float*)bias->const_data_ptr() : nullptr;
  p.out = view(out), p.lse = (float*)lse.mutable_data_ptr();
  check(na_cuda_forward(&p, stream.handle), "forward");
  return {out, lse};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor> backward(
    Tensor d_out, Optional d_lse, Tensor query, Tensor key, Tensor value, Tensor out, Tensor lse, Optional rel_pos_bias,
    Optional additional_keys, Optional additional_values, Ints kernel_size, Ints stride, Ints dilation, Ints is_causal,
    double scale) {
  auto gradient = [&](const Optional& t, std::optional<ScalarType> dtype = std::nullopt) {
    return like(query, t.has_value() ? sizes_of(*t) : Ints{0}, dtype);
  };
  Tensor d_query = gradient(query), d_key = gradient(key), d_value = gradient(value);
  Tensor d_bias = gradient(rel_pos_bias, ScalarType::Float);
  Tensor d_additional_keys = gradient(additional_keys), d_additional_values = gradient(additional_values);
  if (query.numel() == 0) {
    if (d_bias.numel() > 0) torch::stable::zero_(d_bias);
    return {d_query, d_key, d_value, d_bias, d_additional_keys, d_additional_values};
  }
  Stream stream(query.get_device());
  NaProblem p = describe(query, key, value, additional_keys, additional_values, kernel_size, stride, dilation, is_causal, scale);
  Optional bias, d_lse_here;
  if (has(rel_pos_bias)) {
    bias = torch::stable::contiguous(*rel_pos_bias);
    p.bias = (const float*)bias->const_data_ptr(), p.d_bias = (float*)d_bias.mutable_data_ptr();
  }
  if (d_lse.has_value()) {
    d_lse_here = torch::stable::contiguous(*d_lse);
    p.d_lse = (const float*)d_lse_here->const_data_ptr();
  }
  Tensor d_out_here = with_unit_stride(d_out), out_here = torch::stable::contiguous(out), lse_here = torch::stable::contiguous(lse);
  p.out = view(out_here), p.d_out = view(d_out_here), p.lse = (float*)lse_here.mutable_data_ptr();
  p.d_query = view(d_query), p.d_key = view(d_key), p.d_value = view(d_value);
  if (p.additional) p.d_additional_keys = view(d_additional_keys), p.d_additional_values = view(d_additional_values);
  long long bytes = na_cuda_workspace(&p);
  STD_TORCH_CHECK(bytes >= 0, "neighborhood_attention (cuda): backward: the call is too large");
  Tensor workspace = like(query, {bytes}, ScalarType::Byte);  // by the caching allocator, aligned to 512
  p.workspace = (char*)workspace.mutable_data_ptr();
  check(na_cuda_backward(&p, stream.handle), "backward");
  return {d_query, d_key, d_value, d_bias, d_additional_keys, d_additional_values};
}

}  // namespace

#define NA_IMPLEMENT(space, key, m) STABLE_TORCH_LIBRARY_IMPL(space, key, m)

NA_IMPLEMENT(NA_NAMESPACE, NA_KEY, m) {
  m.impl("na_forward", TORCH_BOX(&forward));
  m.impl("na_backward", TORCH_BOX(&backward));
}
