// How many float32 operations a second one core can do: independent fused multiply-adds on registers alone.
//
// The widest vectors of the processor are chosen at run time. What is measured is a bound for any kernel.

#include <algorithm>
#include <chrono>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

constexpr int REPEATS = 4096;  // a chunk takes some ten microseconds: shorter than a time slice of the system

using Chunk = double (*)(float*);  // runs REPEATS rounds, returns the operations that were done

#if defined(__x86_64__)

// 24 chains hide the latency of two units; the empty asm keeps every chain a register of its own.
__attribute__((target("avx512f"))) double chunk_avx512(float* sink) {
  constexpr int CHAINS = 24;
  __m512 chain[CHAINS];
  const __m512 factor = _mm512_set1_ps(0.999f), term = _mm512_set1_ps(sink[0]);
#pragma GCC unroll 24
  for (int i = 0; i < CHAINS; ++i) chain[i] = _mm512_set1_ps(float(i));
  for (int repeat = 0; repeat < REPEATS; ++repeat) {
#pragma GCC unroll 24
    for (int i = 0; i < CHAINS; ++i) chain[i] = _mm512_fmadd_ps(chain[i], factor, term);
#pragma GCC unroll 24
    for (int i = 0; i < CHAINS; ++i) asm volatile("" : "+v"(chain[i]));
  }
#pragma GCC unroll 24
  for (int i = 1; i < CHAINS; ++i) chain[0] = _mm512_add_ps(chain[0], chain[i]);
  sink[1] = _mm512_reduce_add_ps(chain[0]);
  return 2.0 * 16 * CHAINS * REPEATS;
}

__attribute__((target("avx2,fma"))) double chunk_avx2(float* sink) {
  constexpr int CHAINS = 12;
  __m256 chain[CHAINS];
  const __m256 factor = _mm256_set1_ps(0.999f), term = _mm256_set1_ps(sink[0]);
#pragma GCC unroll 12
  for (int i = 0; i < CHAINS; ++i) chain[i] = _mm256_set1_ps(float(i));
  for (int repeat = 0; repeat < REPEATS; ++repeat) {
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) chain[i] = _mm256_fmadd_ps(chain[i], factor, term);
#pragma GCC unroll 12
    for (int i = 0; i < CHAINS; ++i) asm volatile("" : "+x"(chain[i]));
  }
#pragma GCC unroll 12
  for (int i = 1; i < CHAINS; ++i) chain[0] = _mm256_add_ps(chain[0], chain[i]);
  float lanes[8];
  _mm256_storeu_ps(lanes, chain[0]);
  sink[1] = lanes[0];
  return 2.0 * 8 * CHAINS * REPEATS;
}

#endif

// Whatever the compiler makes of it for the oldest processor of this kind: a multiplication and an addition.
double chunk_portable(float* sink) {
  constexpr int LANES = 64;
  float chain[LANES];
  const float factor = 0.999f, term = sink[0];
  for (int i = 0; i < LANES; ++i) chain[i] = float(i);
  for (int repeat = 0; repeat < REPEATS; ++repeat)
    for (int i = 0; i < LANES; ++i) chain[i] = chain[i] * factor + term;
  for (int i = 0; i < LANES; ++i) sink[1] += chain[i];
  return 2.0 * LANES * REPEATS;
}

Chunk chosen(const char** name) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) {
    *name = "avx512";
    return chunk_avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    *name = "avx2";
    return chunk_avx2;
  }
#endif
  *name = "portable";
  return chunk_portable;
}

}  // namespace

extern "C" const char* bestiary_peak_vectors() {
  const char* name;
  chosen(&name);
  return name;
}

// The best chunk of `seconds`, in float32 operations a second (a fused multiply-add is two).
extern "C" double bestiary_peak_flops(double seconds) {
  using Clock = std::chrono::steady_clock;
  const char* name;
  const Chunk chunk = chosen(&name);
  volatile float term = 0.001f;
  float sink[2] = {term, 0.0f};
  double best = 0.0;
  const auto start = Clock::now();
  auto now = start;
  do {
    const double operations = chunk(sink);
    const auto then = now;
    now = Clock::now();
    const double taken = std::chrono::duration<double>(now - then).count();
    if (taken > 0) best = std::max(best, operations / taken);
  } while (std::chrono::duration<double>(now - start).count() < seconds);
  return best;
}
