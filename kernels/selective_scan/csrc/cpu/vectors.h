// Vectors in GCC's and Clang's vector extension, as wide as the instruction set has them, of floats or doubles.
//
// Included by kernels.cpp alone, inside its variant's namespace, so that no function compiled for one instruction set
// can be linked in the place of another's.
#pragma once

#define ALWAYS_INLINE inline __attribute__((always_inline))
#define NOINLINE __attribute__((noinline))

#ifdef __AVX512F__
constexpr int kBytes = 64;
#else
constexpr int kBytes = 32;
#endif

template <class Real>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float Type __attribute__((vector_size(kBytes)));
  typedef float Unaligned __attribute__((vector_size(kBytes), aligned(4), may_alias));
  typedef int32_t Int __attribute__((vector_size(kBytes)));
};
template <>
struct VecOf<double> {
  typedef double Type __attribute__((vector_size(kBytes)));
  typedef double Unaligned __attribute__((vector_size(kBytes), aligned(8), may_alias));
  typedef int64_t Int __attribute__((vector_size(kBytes)));
};
template <class Real>
using Vec = typename VecOf<Real>::Type;
template <class Real>
constexpr int kLanes = kBytes / sizeof(Real);

template <class Real>
static ALWAYS_INLINE Vec<Real> load(const Real* p) {
  return *reinterpret_cast<const typename VecOf<Real>::Unaligned*>(p);
}
template <class Real>
static ALWAYS_INLINE void store(Real* p, Vec<Real> v) {
  *reinterpret_cast<typename VecOf<Real>::Unaligned*>(p) = v;
}

// Calls f(0) ... f(N - 1) with constants: arrays indexed by them stay in registers, which a loop does not ensure.
template <int N, class F>
static ALWAYS_INLINE void unroll(F&& f) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (f(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, N>{});
}

#ifdef __clang__
#define SHUFFLE(a, b, mask, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else  // older GCCs have no __builtin_shufflevector
#define SHUFFLE(a, b, mask, ...) __builtin_shuffle(a, b, mask{__VA_ARGS__})
#endif

// Lane i of the result is pick(i): of a below the number of lanes, of b from there on.
template <class Real, class Pick>
static ALWAYS_INLINE Vec<Real> shuffled(Vec<Real> a, Vec<Real> b, Pick) {
  return [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    return SHUFFLE(a, b, typename VecOf<Real>::Int, Pick::of(I)...);
  }(std::make_integer_sequence<int, kLanes<Real>>{});
}
template <class Real, int S>  // lanes without bit S from a in place, lanes with it from b in place
struct Keep {
  static constexpr int of(int i) { return i & S ? i + kLanes<Real> : i; }
};
template <class Real, int S>  // the other ones of each, moved to the free lanes
struct Move {
  static constexpr int of(int i) { return (i ^ S) + (i & S ? kLanes<Real> : 0); }
};
template <class Real, int S>  // even halves of a and b, side by side
struct Low {
  static constexpr int of(int i) { return i & S ? (i ^ S) + kLanes<Real> : i; }
};
template <class Real, int S>
struct High {
  static constexpr int of(int i) { return i & S ? i + kLanes<Real> : i ^ S; }
};

// The transpose of as many vectors as there are lanes.
template <class Real>
static ALWAYS_INLINE void transpose(Vec<Real>* v) {
  constexpr int W = kLanes<Real>;
  unroll<4>([&](auto bit) __attribute__((always_inline)) {
    constexpr int S = 1 << bit();
    if constexpr (S < W) {
      unroll<W>([&](auto i) __attribute__((always_inline)) {
        if constexpr ((i() & S) == 0) {
          const Vec<Real> a = v[i()], b = v[i() | S];
          v[i()] = shuffled<Real>(a, b, Low<Real, S>{});
          v[i() | S] = shuffled<Real>(a, b, High<Real, S>{});
        }
      });
    }
  });
}

// Lane i of the result is the sum of the lanes of v[i % K].
template <int K, class Real>
static ALWAYS_INLINE Vec<Real> sums_of(Vec<Real>* v) {
  constexpr int W = kLanes<Real>;
  unroll<4>([&](auto bit) __attribute__((always_inline)) {
    constexpr int S = 1 << bit();
    if constexpr (S < K) {
      unroll<K / (2 * S)>([&](auto i) __attribute__((always_inline)) {
        const Vec<Real> a = v[2 * i()], b = v[2 * i() + 1];
        v[i()] = shuffled<Real>(a, b, Keep<Real, S>{}) + shuffled<Real>(a, b, Move<Real, S>{});
      });
    } else if constexpr (S < W) {
      v[0] += shuffled<Real>(v[0], v[0], Move<Real, S>{});
    }
  });
  return v[0];
}

// 2^(whole + f), |f| <= 0.5 and a whole number. The polynomial is a minimax fit of 2^f in relative error (2e-9 before
// rounding) that is exactly 1 at 0 and right about it, so that slow decays do not drift.
static ALWAYS_INLINE Vec<float> power(Vec<float> whole, Vec<float> f) {
  Vec<float> p = 1.53533620e-4f * f + 1.33988750e-3f;
  p = p * f + 9.61843692e-3f;
  p = p * f + 5.55033237e-2f;
  p = p * f + 2.40226477e-1f;
  p = p * f + 6.93147182e-1f;
  p = p * f + 1.0f;
#ifdef __AVX512F__
  return (Vec<float>)_mm512_scalef_ps((__m512)p, (__m512)whole);
#else
  typedef VecOf<float>::Int Int;
  return (Vec<float>)((Int)p + (__builtin_convertvector(whole, Int) << 23));
#endif
}

// The nearest whole number, of a magnitude below 2^22.
static ALWAYS_INLINE Vec<float> nearest(Vec<float> x) {
#ifdef __AVX512F__
  return (Vec<float>)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  return (x + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23
#endif
}

// 2^x to 1 unit in the last place; infinity from 128 on, next to nothing or 0 below -126; NaN for NaN.
static ALWAYS_INLINE Vec<float> exp2(Vec<float> x) {
#ifndef __AVX512F__
  x = x < -126.0f ? Vec<float>{} - 126.0f : x;
  x = x > 128.0f ? Vec<float>{} + 128.0f : x;
#endif
  const Vec<float> whole = nearest(x);
  return power(whole, x - whole);
}

// -|x|.
static ALWAYS_INLINE Vec<float> below_zero(Vec<float> x) {
  return (Vec<float>)((VecOf<float>::Int)x | static_cast<int32_t>(0x80000000u));
}
static ALWAYS_INLINE Vec<double> below_zero(Vec<double> x) { return x < 0 ? x : -x; }

// e^x for x <= 0 to 1 unit in the last place however small it gets, down to -87: below, that of -87.
static ALWAYS_INLINE Vec<float> exp_negative(Vec<float> x) {
  x = x < -87.0f ? Vec<float>{} - 87.0f : x;
  const Vec<float> whole = nearest(x * 1.44269502f);
  const Vec<float> rest = (x - whole * 0.693145752f) - whole * 1.42860677e-6f;  // ln 2 in two, the first product exact
  return power(whole, rest * 1.44269502f);
}

// log(1 + e) for 0 <= e <= 1, to 2 units in the last place: a minimax fit of log(1 + e) / e in relative error (5e-9).
static ALWAYS_INLINE Vec<float> log1p(Vec<float> e) {
  Vec<float> p = -3.37386597e-3f * e + 2.04645209e-2f;
  p = p * e - 5.81762046e-2f;
  p = p * e + 1.07353657e-1f;
  p = p * e - 1.53899938e-1f;
  p = p * e + 1.97084144e-1f;
  p = p * e - 2.49613866e-1f;
  p = p * e + 3.33308190e-1f;
  p = p * e - 4.99999464e-1f;
  p = p * e + 1.0f;
  return p * e;
}

// Doubles: for checks of derivatives, by the C library, a lane at a time.
#define BY_LANES(function, x)                                          \
  Vec<double> result = x;                                              \
  for (int i = 0; i < kLanes<double>; ++i) result[i] = function(x[i]); \
  return result
static ALWAYS_INLINE Vec<double> exp2(Vec<double> x) { BY_LANES(__builtin_exp2, x); }
static ALWAYS_INLINE Vec<double> exp_negative(Vec<double> x) { BY_LANES(__builtin_exp, x); }
static ALWAYS_INLINE Vec<double> log1p(Vec<double> x) { BY_LANES(__builtin_log1p, x); }

// log(1 + e^x), x itself above 20 as PyTorch has it; `slope` is its derivative.
template <bool WithSlope, class V>
static ALWAYS_INLINE V softplus(V x, V* slope) {
  const V e = exp_negative(below_zero(x));
  const V soft = (x < 0 ? V{} : x) + log1p(e);
  if constexpr (WithSlope) {
    const V share = 1 / (1 + e);
    *slope = x > 20 ? V{} + 1 : (x < 0 ? e * share : share);
  }
  return x > 20 ? x : soft;
}

// 1 / (1 + e^-x).
template <class V>
static ALWAYS_INLINE V sigmoid(V x) {
  const V e = exp_negative(below_zero(x)), share = 1 / (1 + e);
  return x < 0 ? e * share : share;
}

// Storage types, as many at a time as there are lanes of floats.

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};
typedef uint16_t HalfVec __attribute__((vector_size(kBytes / 2), aligned(2), may_alias));
typedef uint32_t UIntVec __attribute__((vector_size(kBytes)));

static ALWAYS_INLINE Vec<float> widen(const float* p) { return load(p); }
static ALWAYS_INLINE Vec<double> widen(const double* p) { return load(p); }
static ALWAYS_INLINE Vec<float> widen(const BFloat16* p) {
  return (Vec<float>)(__builtin_convertvector(*reinterpret_cast<const HalfVec*>(p), UIntVec) << 16);
}
static ALWAYS_INLINE Vec<float> widen(const Float16* p) {
  const UIntVec h = __builtin_convertvector(*reinterpret_cast<const HalfVec*>(p), UIntVec);
  const UIntVec magnitude = (h & 0x7fffu) << 13;
  // The exponent is rebased by a product, which also makes subnormals right; infinity and NaN get the largest exponent.
  const UIntVec value = (UIntVec)((Vec<float>)magnitude * 0x1p112f);
  return (Vec<float>)((magnitude >= 0x0f800000u ? (magnitude | 0x7f800000u) : value) | (h & 0x8000u) << 16);
}

static ALWAYS_INLINE void narrow(float* p, Vec<float> v) { store(p, v); }
static ALWAYS_INLINE void narrow(double* p, Vec<double> v) { store(p, v); }
static ALWAYS_INLINE void narrow(BFloat16* p, Vec<float> v) {  // to the nearest, ties to even; NaN stays NaN
  const UIntVec bits = (UIntVec)v;
  const UIntVec rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  *reinterpret_cast<HalfVec*>(p) =
      __builtin_convertvector((bits & 0x7fffffffu) > 0x7f800000u ? ((bits >> 16) | 0x40u) : rounded, HalfVec);
}
static ALWAYS_INLINE void narrow(Float16* p, Vec<float> v) {  // to the nearest, ties to even; overflow gives infinity
  const UIntVec bits = (UIntVec)v, magnitude = bits & 0x7fffffffu;
  // Subnormal results: adding 0.5 puts the unit of 2^-24 at the last bit of the significand, so the sum rounds there.
  const UIntVec small = (UIntVec)((Vec<float>)magnitude + 0.5f) - 0x3f000000u;
  UIntVec half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  half = magnitude >= 0x47800000u ? UIntVec{} + 0x7c00u : half;
  half = magnitude < 0x38800000u ? small : half;
  half = magnitude > 0x7f800000u ? UIntVec{} + 0x7e00u : half;
  *reinterpret_cast<HalfVec*>(p) = __builtin_convertvector(half | ((bits >> 16) & 0x8000u), HalfVec);
}

// The first `count` lanes, the others 0 (or left alone).
template <class T>
static ALWAYS_INLINE auto widen_some(const T* p, int64_t count) {
  T some[kBytes / (sizeof(T) < 4 ? 4 : sizeof(T))] = {};
  for (int64_t i = 0; i < count; ++i) some[i] = p[i];
  return widen(some);
}
template <class T, class V>
static ALWAYS_INLINE void narrow_some(T* p, V v, int64_t count) {
  T some[kBytes / (sizeof(T) < 4 ? 4 : sizeof(T))];
  narrow(some, v);
  for (int64_t i = 0; i < count; ++i) p[i] = some[i];
}

// One number.
template <class Real, class T>
static ALWAYS_INLINE Real widened(T x) {
  if constexpr (std::is_same_v<T, Real>) {
    return x;
  } else {
    return widen_some(&x, 1)[0];
  }
}
