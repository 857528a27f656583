// What one call of neighborhood attention is, in plain C: shared by the binding, which sees PyTorch, and by the kernels,
// which do not. Letters as in reference.py; one and two spatial axes are three with leading axes of length 1.
#pragma once

enum NaDtype { NA_FLOAT32 = 0, NA_FLOAT16 = 1, NA_BFLOAT16 = 2 };

// Strides in elements; the stride of the channels is 1. Additional tokens lie on axis 2.
struct NaTensor {
  void* data;
  long long batch, axis[3], head;
};

struct NaProblem {
  NaTensor query, key, value, out, additional_keys, additional_values;
  float* lse;         // (B, N, H), contiguous
  const float* bias;  // (H, bins), contiguous, or null

  // Backward only.
  NaTensor d_out, d_query, d_key, d_value, d_additional_keys, d_additional_values;
  const float* d_lse;  // (B, N, H), contiguous, or null
  float* d_bias;       // (H, bins), contiguous, or null
  char* workspace;     // na_cuda_workspace() bytes, aligned to 256

  int dtype, batch, heads, kv_heads, channels, value_channels, additional;
  int length[3], kernel[3], stride[3], dilation[3], causal[3];
  float scale;
  int processors;    // of the device: below a few tiles for each, tiles are made smaller
  int shared_limit;  // bytes of shared memory that one CTA may have
};

#ifdef __cplusplus
extern "C" {
#endif
// Return a cudaError_t, 0 for success. They neither allocate nor wait: a CUDA graph can capture them.
int na_cuda_forward(const NaProblem* problem, void* stream);
int na_cuda_backward(const NaProblem* problem, void* stream);
long long na_cuda_workspace(const NaProblem* problem);  // bytes that the backward needs; -1: it cannot be served
int na_cuda_device(int device, int* processors, int* shared_limit, int* capability);  // capability: 80 for 8.0
const char* na_cuda_error(int error);
#ifdef __cplusplus
}
#endif
