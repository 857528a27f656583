// The backward for one dtype, NA_TYPE: compiled once for each of fp16, bf16 and float.
#include "backward_key.cuh"
#include "backward_query.cuh"

#define NA_NAME_2(name, type) name##_##type
#define NA_NAME(name, type) NA_NAME_2(name, type)

// Sums `count` partial results that lie `elements` apart, always in the same order.
template <typename T>
__global__ void na_reduce_kernel(const float* partial, int count, long long elements,
                                 T* result) {
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < elements; i += (long long)gridDim.x * blockDim.x) {
    float sum = 0.f;
    for (int c = 0; c < count; ++c) sum += partial[c * elements + i];
    result[i] = from_float<T>(sum);
  }
}

template <typename T>
static int reduce(const float* partial, int count, long long elements, T* result, void* stream) {
  if (elements == 0) return 0;
  long long ctas = (elements + 127) / 128;
  return launch(na_reduce_kernel<T>, ctas < 4096 ? ctas : 4096, 128, 0, stream, partial, count, elements, result);
}

template <typename T, int kWidest>
static int backward(const NaProblem& p, const NaPlan& query, const NaPlan& key, const NaPlan* extra, void* stream) {
  if (int error = launch(na_query_gradient_kernel<T, kWidest>, query.ctas, 32 * query.warps, query.shared_bytes, stream, p, query))
    return error;
  if (int error = launch(na_key_gradient_kernel<T, kWidest>, key.ctas, 32 * key.warps, key.shared_bytes, stream, p, key, 0))
    return error;
  if (p.d_bias) {
    int copies = query.slots * (query.bins_at < 0 ? query.warps : 1);
    if (int error = reduce<float>((float*)(p.workspace + query.partials_at), copies, (long long)p.heads * query.bins, p.d_bias, stream))
      return error;
  }
  if (!extra) return 0;
  if (int error = launch(na_key_gradient_kernel<T, kWidest>, extra->ctas, 32 * extra->warps, extra->shared_bytes, stream, p, *extra, 1))
    return error;
  long long rows = (long long)p.batch * p.additional * p.kv_heads;
  float* partial = (float*)(p.workspace + extra->extra_at);
  if (int error = reduce<T>(partial, extra->slots, rows * p.channels, (T*)p.d_additional_keys.data, stream)) return error;
  return reduce<T>(partial + extra->slots * rows * p.channels, extra->slots, rows * p.value_channels,
                   (T*)p.d_additional_values.data, stream);
}

int NA_NAME(na_backward, NA_TYPE)(const NaProblem& p, const NaPlan& query, const NaPlan& key, const NaPlan* extra, void* stream) {
  switch (na_widest(p)) {
    case 32: return backward<NA_TYPE, 32>(p, query, key, extra, stream);
    case 64: return backward<NA_TYPE, 64>(p, query, key, extra, stream);
    case 128: return backward<NA_TYPE, 128>(p, query, key, extra, stream);
    default: return backward<NA_TYPE, 256>(p, query, key, extra, stream);
  }
}
