// The C interface of problem.h.
#include "plan.h"
#include "ptx.cuh"

#define NA_EACH_TYPE(apply) apply(fp16) apply(bf16) apply(float)
#define NA_DECLARE(type)                                       \
  int na_forward_##type(const NaProblem& p, void* stream);     \
  int na_backward_##type(const NaProblem& p, const NaPlan& query, const NaPlan& key, const NaPlan* extra, void* stream);
NA_EACH_TYPE(NA_DECLARE)

static const int kInvalid = 1;  // cudaErrorInvalidValue

static bool fits(const NaProblem* p) {
  return p->channels >= 1 && p->channels <= 256 && p->value_channels >= 1 && p->value_channels <= 256;
}

// The backward's plans and its workspace: delta, partial tables of the bias, partial gradients of additional tokens.
static long long plan_backward(const NaProblem& p, NaPlan& query, NaPlan& key, NaPlan& extra) {
  if (!na_plan(p, NA_QUERY_GRADIENT, query) || !na_plan(p, NA_KEY_GRADIENT, key)) return -1;
  long long at = 0;
  auto take = [&](long long bytes) {
    long long here = at;
    at += (bytes + 255) / 256 * 256;
    return here;
  };
  take((long long)p.batch * na_tokens(p) * p.heads * 4);
  query.partials_at = key.partials_at = extra.partials_at = 0;
  query.extra_at = key.extra_at = extra.extra_at = 0;
  if (p.d_bias) query.partials_at = take((long long)query.slots * (query.bins_at < 0 ? query.warps : 1) * p.heads * query.bins * 4);
  if (p.additional) {
    if (!na_plan(p, NA_ADDITIONAL_GRADIENT, extra)) return -1;
    extra.extra_at = take((long long)extra.slots * p.batch * p.additional * p.kv_heads * (p.channels + p.value_channels) * 4);
  }
  return at;
}

extern "C" int na_cuda_forward(const NaProblem* p, void* stream) {
  if (!fits(p)) return kInvalid;
  switch (p->dtype) {
    case NA_FLOAT16: return na_forward_fp16(*p, stream);
    case NA_BFLOAT16: return na_forward_bf16(*p, stream);
    default: return na_forward_float(*p, stream);
  }
}

extern "C" long long na_cuda_workspace(const NaProblem* p) {
  NaPlan query, key, extra;
  return fits(p) ? plan_backward(*p, query, key, extra) : -1;
}

extern "C" int na_cuda_backward(const NaProblem* p, void* stream) {
  NaPlan query, key, extra;
  if (!fits(p) || plan_backward(*p, query, key, extra) < 0) return kInvalid;
  const NaPlan* more = p->additional ? &extra : nullptr;
  switch (p->dtype) {
    case NA_FLOAT16: return na_backward_fp16(*p, query, key, more, stream);
    case NA_BFLOAT16: return na_backward_bf16(*p, query, key, more, stream);
    default: return na_backward_float(*p, query, key, more, stream);
  }
}

#ifdef NA_EMULATED
extern "C" int na_cuda_device(int, int* processors, int* shared_limit, int* capability) {
  const char* kilobytes = getenv("NA_EMULATED_SHARED");  // sm_80: 163, sm_86 and sm_89: 99, sm_90: 227
  *processors = 4, *shared_limit = (kilobytes ? atoi(kilobytes) : 227) * 1024, *capability = 90;
  return 0;
}
extern "C" const char* na_cuda_error(int) { return "emulated"; }
#else
extern "C" int na_cuda_device(int device, int* processors, int* shared_limit, int* capability) {
  int major = 0, minor = 0;
  cudaError_t error = cudaDeviceGetAttribute(processors, cudaDevAttrMultiProcessorCount, device);
  if (!error) error = cudaDeviceGetAttribute(shared_limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  if (!error) error = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  if (!error) error = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  *capability = 10 * major + minor;
  return (int)error;
}

extern "C" const char* na_cuda_error(int error) { return cudaGetErrorString((cudaError_t)error); }
#endif
