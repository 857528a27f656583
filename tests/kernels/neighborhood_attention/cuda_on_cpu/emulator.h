// Runs the CUDA kernels on a CPU: stands in for the CUDA half of ptx.cuh when that is compiled with -DNA_EMULATED.
//
// The threads of a CTA are fibers of one thread. A fiber runs until it meets a barrier or a warp instruction and goes on
// when all that take part have come; those that come to different instructions end the program. Copies by copy16_async
// happen when their thread waits for them. Shared memory is filled with NaN patterns before each CTA, lies in a heap
// block of exactly its size, and its alignment rules are checked. NA_EMULATED_REVERSE in the environment runs the fibers
// in the other order: results may not depend on it.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <vector>

using std::max;
using std::min;

#define __global__
#define __launch_bounds__(...)
#define NA_DEVICE inline
#define NA_PARAMETER const
#define NA_SHARED_MEMORY(name) unsigned char* name = emulator::cta().shared

struct int2 { int x, y; };
struct float2 { float x, y; };
struct alignas(16) int4 { int x, y, z, w; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) float4 { float x, y, z, w; };
struct Index3 { unsigned x; };

constexpr unsigned kAllLanes = 0xffffffffu;

namespace emulator {

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulated GPU: %s\n", what);
  std::abort();
}

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Fiber {
  void* stack_pointer = nullptr;
  unsigned thread = 0;
  bool done = false;
  std::vector<Copy> copies;      // not committed
  std::vector<std::vector<Copy>> groups;
};

struct Barrier {
  int arrived = 0;
  unsigned generation = 0;
  const char* what = nullptr;
};

struct Warp {
  Barrier barrier;
  alignas(16) unsigned char slot[2][32][32];  // what each lane hands in; two in turn
  unsigned turn = 0;
};

struct Cta {
  unsigned block = 0, threads = 0, grid = 0;
  unsigned char* shared = nullptr;
  int shared_bytes = 0;
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  Barrier barrier;
  bool votes[2] = {false, false};
  Fiber* now = nullptr;
  int direction = 1;
  long long waits = 0;  // switches since anything moved on: a deadlock makes it grow without end
  const std::function<void()>* body = nullptr;
};

inline Cta& cta() {
  static thread_local Cta one;
  return one;
}

void yield();  // to the next fiber that is not done

inline void meet(Barrier& barrier, int all, const char* what) {
  Cta& c = cta();
  if (barrier.arrived == 0) barrier.what = what;
  if (barrier.what != what) {
    std::fprintf(stderr, "emulated GPU: thread %u of CTA %u came to %s, others to %s\n", c.now->thread, c.block, what,
                 barrier.what);
    std::abort();
  }
  unsigned generation = barrier.generation;
  if (++barrier.arrived == all) {
    barrier.arrived = 0;
    ++barrier.generation;
    c.waits = 0;
    return;
  }
  while (barrier.generation == generation) yield();
}

inline Warp& warp() { return cta().warps[cta().now->thread / 32]; }
inline unsigned lane() { return cta().now->thread % 32; }

// Every lane hands `mine` in; returns what all 32 handed in.
template <typename T>
const T* exchange(const T& mine, const char* what, T (&all)[32]) {
  static_assert(sizeof(T) <= 32);
  Warp& w = warp();
  unsigned turn = w.barrier.generation & 1;
  std::memcpy(w.slot[turn][lane()], &mine, sizeof(T));
  meet(w.barrier, 32, what);
  for (int i = 0; i < 32; ++i) std::memcpy(&all[i], w.slot[turn][i], sizeof(T));
  return all;
}

inline void run_copies(const std::vector<Copy>& copies) {
  for (const Copy& copy : copies) {
    std::memset(copy.to, 0, 16);
    if (copy.bytes) std::memcpy(copy.to, copy.from, copy.bytes);
  }
}

inline void check_shared(const void* pointer, int bytes, const char* what) {
  Cta& c = cta();
  auto* p = (const unsigned char*)pointer;
  if (p < c.shared || p + bytes > c.shared + c.shared_bytes) fail(what);
  if ((uintptr_t)p & 15) fail("an address in shared memory is not aligned to 16 bytes");
}

void run(unsigned ctas, int threads, int shared_bytes, const std::function<void()>& body);

}  // namespace emulator

#define threadIdx (Index3{emulator::cta().now->thread})
#define blockIdx (Index3{emulator::cta().block})
#define blockDim (Index3{emulator::cta().threads})
#define gridDim (Index3{emulator::cta().grid})

inline void __syncthreads() { emulator::meet(emulator::cta().barrier, emulator::cta().threads, "__syncthreads"); }
inline void __syncwarp() { emulator::meet(emulator::warp().barrier, 32, "__syncwarp"); }

inline bool any_thread(bool x) {
  emulator::Cta& c = emulator::cta();
  unsigned turn = c.barrier.generation & 1;
  c.votes[turn] |= x;
  emulator::meet(c.barrier, c.threads, "any_thread");
  bool any = c.votes[turn];
  emulator::meet(c.barrier, c.threads, "any_thread");
  c.votes[turn] = false;
  emulator::meet(c.barrier, c.threads, "any_thread");
  return any;
}
template <typename T>
T __shfl_sync(unsigned, T x, int from) {
  T all[32];
  return emulator::exchange(x, "__shfl_sync", all)[from & 31];
}
template <typename T>
T __shfl_xor_sync(unsigned, T x, int bits) {
  T all[32];
  return emulator::exchange(x, "__shfl_xor_sync", all)[emulator::lane() ^ bits];
}
inline int warp_min(int x) {
  int all[32];
  emulator::exchange(x, "warp_min", all);
  return *std::min_element(all, all + 32);
}
inline int warp_max(int x) {
  int all[32];
  emulator::exchange(x, "warp_max", all);
  return *std::max_element(all, all + 32);
}

inline void copy16_async(void* shared, const void* global, int bytes) {
  emulator::check_shared(shared, 16, "copy16_async outside of shared memory");
  if (((uintptr_t)global & 15)) emulator::fail("copy16_async from an address that is not aligned to 16 bytes");
  emulator::cta().now->copies.push_back({shared, global, bytes});
}
inline void commit_copies() {
  emulator::Fiber& f = *emulator::cta().now;
  f.groups.push_back(std::move(f.copies));
  f.copies.clear();
}
template <int kLeft>
void wait_copies() {
  auto& groups = emulator::cta().now->groups;
  while ((int)groups.size() > kLeft) {
    emulator::run_copies(groups.front());
    groups.erase(groups.begin());
  }
}

// Element of a 16-bit type. Conversions by hand: round to nearest even, as cvt.rn does.
inline float to_float(float x) { return x; }
inline float to_float(bf16 x) {
  uint32_t bits = (uint32_t)x.bits << 16;
  float f;
  std::memcpy(&f, &bits, 4);
  return f;
}
inline float to_float(fp16 x) {
  uint32_t sign = x.bits >> 15, exponent = x.bits >> 10 & 31, mantissa = x.bits & 1023;
  float f = exponent == 31  ? (mantissa ? NAN : INFINITY)
            : exponent == 0 ? std::ldexp((float)mantissa, -24)
                            : std::ldexp((float)(mantissa | 1024), (int)exponent - 25);
  return sign ? -f : f;
}
inline unsigned short round_to(bf16*, float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, 4);
  if (x != x) return 0x7fff;
  return (unsigned short)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
inline unsigned short round_to(fp16*, float x) {
  if (x != x) return 0x7fff;
  unsigned short sign = std::signbit(x) ? 0x8000 : 0;
  float size = std::fabs(x);
  if (size == 0.f) return sign;
  if (size >= 65520.f) return sign | 0x7c00;
  int exponent;
  std::frexp(size, &exponent);  // size = m 2^exponent with m in [0.5, 1)
  float unit = std::ldexp(1.f, std::max(exponent - 11, -24));
  auto steps = (uint32_t)std::nearbyint(size / unit);
  if (exponent - 11 <= -24) return sign | (unsigned short)steps;  // subnormal, or the first normal by carrying over
  return sign | (unsigned short)((((uint32_t)(exponent + 14)) << 10) + (steps - 1024));
}
template <typename T>
unsigned pack(float low, float high) {
  return (unsigned)round_to((T*)nullptr, low) | (unsigned)round_to((T*)nullptr, high) << 16;
}
template <typename T>
float half_of(unsigned word, int high) {
  return to_float(T{(unsigned short)(high ? word >> 16 : word)});
}

// ldmatrix, x4: lane i gives row i % 8 of matrix i / 8, and receives of matrix m elements 2 t and 2 t + 1 of row g
// (transposed: of column g). PTX ISA, "Warp-level matrix load instruction: ldmatrix".
inline void load_matrices_any(unsigned (&r)[4], const void* row, bool transposed) {
  emulator::check_shared(row, 16, "ldmatrix outside of shared memory");
  const void* rows[32];
  emulator::exchange(row, transposed ? "ldmatrix.trans" : "ldmatrix", rows);
  int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int m = 0; m < 4; ++m) {
    auto element = [&](int i, int j) {
      unsigned short bits;
      std::memcpy(&bits, (const unsigned char*)rows[8 * m + i] + 2 * j, 2);
      return (unsigned)bits;
    };
    r[m] = transposed ? element(2 * t, g) | element(2 * t + 1, g) << 16 : element(g, 2 * t) | element(g, 2 * t + 1) << 16;
  }
  __syncwarp();  // nobody writes before all have read: the instruction reads at once
}
inline void load_matrices(unsigned (&r)[4], const void* row) { load_matrices_any(r, row, false); }
inline void load_matrices_transposed(unsigned (&r)[4], const void* row) { load_matrices_any(r, row, true); }

// mma.m16n8k16, fragments as in the PTX ISA: a0 (g, 2t), a1 (g + 8, 2t), a2 (g, 2t + 8), a3 (g + 8, 2t + 8);
// b0 (k 2t, n g), b1 (k 2t + 8, n g); d0, d1 (g, 2t and 2t + 1), d2, d3 (g + 8, the same).
template <typename T>
void multiply(float (&d)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
  struct Fragment { unsigned a[4], b[2]; };
  Fragment all[32], mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
  emulator::exchange(mine, "mma", all);
  int g = emulator::lane() / 4, t = emulator::lane() % 4;
  for (int i = 0; i < 4; ++i) {
    int row = g + 8 * (i / 2), column = 2 * t + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      float x = half_of<T>(all[(row % 8) * 4 + (k % 8) / 2].a[(k / 8) * 2 + row / 8], k & 1);
      float y = half_of<T>(all[column * 4 + (k % 8) / 2].b[k / 8], k & 1);
      sum += x * y;
    }
    d[i] += sum;
  }
}

inline float power_of_two(float x) { return std::exp2(x); }
inline float read_only(const float* p) { return *p; }

template <typename Kernel, typename... Arguments>
int launch(Kernel* kernel, long long ctas, int threads, int shared_bytes, void*, const Arguments&... arguments) {
  emulator::run((unsigned)ctas, threads, shared_bytes, [&] { kernel(arguments...); });
  return 0;
}
