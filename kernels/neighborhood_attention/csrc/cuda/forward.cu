// The forward for one dtype, NA_TYPE: compiled once for each of fp16, bf16 and float.
#include "forward.cuh"

#define NA_NAME_2(name, type) name##_##type
#define NA_NAME(name, type) NA_NAME_2(name, type)

int NA_NAME(na_forward, NA_TYPE)(const NaProblem& p, void* stream) {
  NaPlan plan;
  if (!na_plan(p, NA_FORWARD, plan)) return 1;
  auto start = [&](auto* kernel) { return launch(kernel, plan.ctas, 32 * plan.warps, plan.shared_bytes, stream, p, plan); };
  switch (na_widest(p)) {
    case 32: return start(na_forward_kernel<NA_TYPE, 32>);
    case 64: return start(na_forward_kernel<NA_TYPE, 64>);
    case 128: return start(na_forward_kernel<NA_TYPE, 128>);
    default: return start(na_forward_kernel<NA_TYPE, 256>);
  }
}
