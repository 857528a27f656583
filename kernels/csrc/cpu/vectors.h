// Vectors of eight floats in GCC's and Clang's vector extension, which compiles for any instruction set.
//
// The headers of this folder but variant.h are included by an operator's kernels.cpp alone, inside its unnamed namespace,
// so that no function compiled for one instruction set can be linked in the place of another's.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

constexpr int64_t kLanes = 8;
constexpr float kLog2E = 1.44269504088896341f, kLn2 = 0.693147180559945309f;
typedef float Vec __attribute__((vector_size(32)));
typedef int32_t IntVec __attribute__((vector_size(32)));
typedef float UnalignedVec __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint16_t HalfVec __attribute__((vector_size(16), aligned(2), may_alias));
typedef uint32_t UIntVec __attribute__((vector_size(32)));

static ALWAYS_INLINE Vec load(const float* p) { return *reinterpret_cast<const UnalignedVec*>(p); }
static ALWAYS_INLINE void store(float* p, Vec v) { *reinterpret_cast<UnalignedVec*>(p) = v; }
static ALWAYS_INLINE Vec splat(float x) { return Vec{x, x, x, x, x, x, x, x}; }
static ALWAYS_INLINE Vec select(IntVec mask, Vec yes, Vec no) { return mask ? yes : no; }

// Calls f(0) ... f(N - 1) with constants: arrays indexed by them stay in registers, which a loop does not ensure.
template <int N, class F>
static ALWAYS_INLINE void unroll(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

// Keeps a loaded vector in a register: compilers otherwise load it again for each product that it is in.
static ALWAYS_INLINE void keep(Vec& v) {
#if defined(__AVX512VL__)
  __asm__("" : "+v"(v));
#elif defined(__AVX__)
  __asm__("" : "+x"(v));
#else
  (void)v;
#endif
}

#ifdef __clang__
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // older GCCs have no __builtin_shufflevector
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IntVec{__VA_ARGS__})
#endif

// The 8 x 8 transpose of vectors v[0..8).
static ALWAYS_INLINE void transpose(Vec* v) {
  Vec a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = SHUFFLE(v[i], v[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    a[i + 1] = SHUFFLE(v[i], v[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      b[i + j] = SHUFFLE(a[i + j], a[i + j + 2], 0, 1, 8, 9, 4, 5, 12, 13);
      b[i + j + 2] = SHUFFLE(a[i + j], a[i + j + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    }
  }
  for (int j = 0; j < 4; ++j) {
    v[j] = SHUFFLE(b[j], b[j + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    v[j + 4] = SHUFFLE(b[j], b[j + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

static ALWAYS_INLINE float sum(Vec v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

// Lane i of the result is the sum, or the largest, of the lanes of v[i].
static ALWAYS_INLINE Vec sums_of(Vec* v) {
  transpose(v);
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
static ALWAYS_INLINE Vec tops_of(Vec* v) {
  transpose(v);
  Vec m = v[0];
  for (int i = 1; i < kLanes; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

// 2^x to 1.3 units in the last place; 0 below -126.5, NaN for NaN. x must be below 127 (it is at most 0 here).
// The polynomial is a minimax fit of 2^f on [-0.5, 0.5] in relative error (2e-9 before rounding).
static ALWAYS_INLINE Vec exp2(Vec x) {
  x = x < -127.0f ? splat(-127.0f) : x;
  const Vec shifted = x + 12582912.0f;  // 1.5 * 2^23: the integer nearest to x is in the low bits
  const Vec f = x - (shifted - 12582912.0f);
  Vec p = 1.53533619e-4f * f + 1.33988750e-3f;
  p = p * f + 9.61843692e-3f;
  p = p * f + 5.55033237e-2f;
  p = p * f + 2.40226477e-1f;
  p = p * f + 6.93147182e-1f;
  p = p * f + 1.0f;
  return p * (Vec)(((IntVec)shifted + 127) << 23);
}

// The natural logarithm of x >= 1 (NaN for NaN, infinity for infinity): that of the significand by 2 atanh(s) with
// s = (m - 1) / (m + 1), whose series ends below 1e-9 on [sqrt(1/2), sqrt(2)].
static ALWAYS_INLINE Vec log(Vec x) {
  const IntVec bits = (IntVec)x - 0x3f3504f3;  // of sqrt(1/2)
  const Vec exponent = __builtin_convertvector(bits >> 23, Vec);
  const Vec m = (Vec)((bits & 0x007fffff) + 0x3f3504f3);
  const Vec s = (m - 1.0f) / (m + 1.0f), ss = s * s;
  Vec p = 0.222222222f * ss + 0.285714286f;
  p = p * ss + 0.4f;
  p = p * ss + 0.666666667f;
  p = p * ss * s + 2.0f * s;
  const Vec result = exponent * 0.693147181f + p;
  return x < __builtin_inff() ? result : x;
}

// Storage types.

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

static ALWAYS_INLINE Vec widen(const float* p) { return load(p); }
static ALWAYS_INLINE Vec widen(const BFloat16* p) {
  const HalfVec h = *reinterpret_cast<const HalfVec*>(p);
  return (Vec)(__builtin_convertvector(h, UIntVec) << 16);
}
static ALWAYS_INLINE Vec widen(const Float16* p) {
  const UIntVec h = __builtin_convertvector(*reinterpret_cast<const HalfVec*>(p), UIntVec);
  const UIntVec sign = (h & 0x8000u) << 16, magnitude = (h & 0x7fffu) << 13;
  // The exponent is rebased by a product, which also makes subnormals right; infinity and NaN get the largest exponent.
  Vec value = (Vec)magnitude * 0x1p112f;
  const IntVec special = (IntVec)(magnitude >= 0x0f800000u);
  value = special ? (Vec)(magnitude | 0x7f800000u) : value;
  return (Vec)((UIntVec)value | sign);
}

static ALWAYS_INLINE void narrow(float* p, Vec v) { store(p, v); }
static ALWAYS_INLINE void narrow(BFloat16* p, Vec v) {  // to the nearest, ties to even; NaN stays NaN
  const UIntVec bits = (UIntVec)v;
  UIntVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  rounded = (v != v) ? ((bits >> 16) | 0x40u) : rounded;
  *reinterpret_cast<HalfVec*>(p) = __builtin_convertvector(rounded, HalfVec);
}
static ALWAYS_INLINE void narrow(Float16* p, Vec v) {  // to the nearest, ties to even; overflow gives infinity
  const UIntVec bits = (UIntVec)v, sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  // Subnormal results: adding 0.5 puts the unit of 2^-24 at the last bit of the significand, so the sum rounds there.
  const UIntVec small = (UIntVec)((Vec)magnitude + 0.5f) - 0x3f000000u;
  UIntVec normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  normal = (IntVec)(magnitude >= 0x47800000u) ? UIntVec{} + 0x7c00u : normal;
  UIntVec half = (IntVec)(magnitude < 0x38800000u) ? small : normal;
  half = (IntVec)(magnitude > 0x7f800000u) ? UIntVec{} + 0x7e00u : half;
  *reinterpret_cast<HalfVec*>(p) = __builtin_convertvector(half | sign, HalfVec);
}

// The first `count` of eight, the others 0 (or left alone).
template <class T>
static ALWAYS_INLINE Vec widen_some(const T* p, int64_t count) {
  T eight[kLanes] = {};
  for (int64_t i = 0; i < count; ++i) eight[i] = p[i];
  return widen(eight);
}
template <class T>
static ALWAYS_INLINE void narrow_some(T* p, Vec v, int64_t count) {
  T eight[kLanes];
  narrow(eight, v);
  for (int64_t i = 0; i < count; ++i) p[i] = eight[i];
}
