// Every instruction that C++ has no word for, behind functions; the emulator of the tests has its own copy of them.
#pragma once

struct fp16 {
  unsigned short bits;
};
struct bf16 {
  unsigned short bits;
};

#ifdef NA_EMULATED
#include "emulator.h"
#else
#include <cuda_runtime.h>

#define NA_DEVICE __device__ __forceinline__
#define NA_SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]
#define NA_PARAMETER const __grid_constant__

constexpr unsigned kAllLanes = 0xffffffffu;

NA_DEVICE unsigned shared_address(const void* pointer) { return (unsigned)__cvta_generic_to_shared(pointer); }

// 16 bytes to shared memory, of which the last 16 - `bytes` are zeros and not read. Both addresses aligned to 16.
NA_DEVICE void copy16_async(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
NA_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int kLeft>  // groups that may still be under way
NA_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements; lanes 8 i to 8 i + 7 give the rows of matrix i, 16 bytes each.
NA_DEVICE void load_matrices(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
NA_DEVICE void load_matrices_transposed(unsigned (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b, with a 16 x 16, b 16 x 8 and d 16 x 8, the first two in T, the last in float.
template <typename T>
NA_DEVICE void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);
template <>
NA_DEVICE void multiply<fp16>(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <>
NA_DEVICE void multiply<bf16>(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};\n"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two floats rounded to nearest even, the first in the low half.
template <typename T>
NA_DEVICE unsigned pack(float low, float high);
template <>
NA_DEVICE unsigned pack<fp16>(float low, float high) {
  unsigned d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
template <>
NA_DEVICE unsigned pack<bf16>(float low, float high) {
  unsigned d;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(d) : "f"(high), "f"(low));
  return d;
}

NA_DEVICE float to_float(float x) { return x; }
NA_DEVICE float to_float(bf16 x) { return __uint_as_float((unsigned)x.bits << 16); }
NA_DEVICE float to_float(fp16 x) {
  float d;
  asm("cvt.f32.f16 %0, %1;\n" : "=f"(d) : "h"(x.bits));
  return d;
}

NA_DEVICE float power_of_two(float x) {  // 2^x; minus infinity gives 0
  float d;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(d) : "f"(x));
  return d;
}

NA_DEVICE int warp_min(int x) { return __reduce_min_sync(kAllLanes, x); }
NA_DEVICE int warp_max(int x) { return __reduce_max_sync(kAllLanes, x); }
NA_DEVICE bool any_thread(bool x) { return __syncthreads_or(x); }  // of the CTA; a barrier too
NA_DEVICE float read_only(const float* p) { return __ldg(p); }

template <typename Kernel, typename... Arguments>
int launch(Kernel* kernel, long long ctas, int threads, int shared_bytes, void* stream, const Arguments&... arguments) {
  if (ctas > 0x7fffffffLL) return (int)cudaErrorInvalidConfiguration;
  if (shared_bytes > 48 * 1024) {
    cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    if (error != cudaSuccess) return (int)error;
  }
  kernel<<<(unsigned)ctas, threads, shared_bytes, (cudaStream_t)stream>>>(arguments...);
  return (int)cudaGetLastError();
}
#endif

template <typename T>
NA_DEVICE T from_float(float x) {
  return T{(unsigned short)pack<T>(x, 0.f)};
}
template <>
NA_DEVICE float from_float<float>(float x) {
  return x;
}
