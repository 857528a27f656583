// Moving rows and columns, and the two products of attention, for 16-bit types (tensor cores) and float (plain FMA).
//
// A warp's 16 x columns product lies in registers as mma.m16n8k16 gives it: of column block j (8 wide), lane 4 g + t
// holds row g, columns 2 t and 2 t + 1 in [j][0] and [j][1], and row g + 8 in [j][2] and [j][3].
#pragma once
#include "geometry.cuh"
#include "plan.h"

template <typename T>
constexpr bool kTensorCores = sizeof(T) == 2;
template <typename T>
constexpr int kPiece = 16 / (int)sizeof(T);  // elements in 16 bytes

template <typename T, int kWidest, bool kForward>
constexpr int kColumnsAtOnce = columns_at_once(kTensorCores<T>, kWidest, kForward);

// Scores are kept in units of kUnit: as logarithms to base 2 for 16-bit types, which saves a product in each exponential;
// as they are in float, where rounding the large products with log2(e) would show in the last bits of the weights.
template <typename T>
constexpr float kUnit = kTensorCores<T> ? kLog2e : 1.f;

template <typename T>
NA_DEVICE float exponential(float x) {
  return power_of_two(kTensorCores<T> ? x : x * kLog2e);
}

// One 16-byte piece: elements `from` to `from` + kPiece - 1 of a row with `channels` elements, zeros behind them.
template <typename T>
NA_DEVICE void move_piece(T* shared, const T* row, int from, int channels, bool vector) {
  if (vector) {
    bool inside = row != nullptr && from < channels;
    copy16_async(shared, inside ? (const void*)(row + from) : (const void*)shared, inside ? 16 : 0);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPiece<T>; ++i) {
    T x{};
    if (row != nullptr && from + i < channels) x = row[from + i];
    shared[i] = x;
  }
}

// Columns [0, count) of a chunk; offset(i) is the place of column i behind `base`, negative for zeros.
template <typename T, typename Offset>
NA_DEVICE void load_columns(T* shared, int stride, int count, const T* base, int channels, int padded, int pieces_log2,
                            bool vector, Offset offset) {
  int across = min(pieces_log2, 5);  // the threads are whole warps, more may not be there
  for (int i = threadIdx.x >> across; i < count; i += blockDim.x >> across) {
    long long at = offset(i);
    const T* row = at < 0 ? (const T*)nullptr : base + at;
    for (int piece = (threadIdx.x & ((1 << across) - 1)) * kPiece<T>; piece < padded; piece += kPiece<T> << across)
      move_piece(shared + i * stride + piece, row, piece, channels, vector);
  }
}

// Waits for the columns of step `step` of `steps` and returns their stage. With two stages those of the next step are
// then under way; with one, those of this step are only begun here, where nobody reads the last ones any more.
// fetch(step, stage) begins to copy and commits; it was called for the first step. `first_time`: all warps are here.
template <typename Fetch>
NA_DEVICE int await(const NaPlan& plan, int step, int steps, bool first_time, const Fetch& fetch) {
  int stage = plan.stages == 2 ? step & 1 : 0, next = step + plan.stages - 1;
  if (next > 0 && next < steps) {
    fetch(next, plan.stages == 2 ? next & 1 : 0);
    if (plan.stages == 2) wait_copies<1>();
    else wait_copies<0>();
  } else {
    wait_copies<0>();
  }
  if (first_time) __syncthreads();
  else __syncwarp();
  return stage;
}

constexpr int kSpoilt = -2;  // in the table of columns

// A weight of 0 does not keep a NaN away in a product of matrices. Where a result is not finite, the CTA starts again and
// replaces what is not finite in the columns of [0, count) by zeros; mark(i) is called for their columns, of which the
// rows that see them become NaN, and no others.
template <typename T, typename Mark>
NA_DEVICE void clear_spoilt(T* shared, int stride, int count, int padded, int pieces_log2, Mark mark) {
  int across = min(pieces_log2, 5);
  for (int i = threadIdx.x >> across; i < count; i += blockDim.x >> across) {
    for (int c = threadIdx.x & ((1 << across) - 1); c < padded; c += 1 << across) {
      T& x = shared[i * stride + c];
      if (to_float(x) * 0.f != 0.f) {
        x = T{};
        mark(i);
      }
    }
  }
}

// Whether one of the numbers is not finite.
template <int kBlocks>
NA_DEVICE bool is_spoilt(const float (&acc)[kBlocks][4]) {
  float probe = 0.f;
#pragma unroll
  for (int j = 0; j < kBlocks; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) probe = fmaf(acc[j][i], 0.f, probe);
  return probe != 0.f;
}

// A warp's 16 rows; lane r (and r + 16) knows where row r lies, negative for zeros.
template <typename T>
NA_DEVICE void load_rows(T* shared, int stride, const T* base, long long offset, int channels, int padded,
                         int pieces_log2, bool vector) {
  int lane = threadIdx.x & 31;
  for (int i = lane; i < 16 << pieces_log2; i += 32) {
    int row = i >> pieces_log2, piece = (i & ((1 << pieces_log2) - 1)) * kPiece<T>;
    long long at = __shfl_sync(kAllLanes, offset, row);
    if (piece < padded) {
      move_piece(shared + row * stride + piece, at < 0 ? (const T*)nullptr : base + at, piece, channels, vector);
    }
  }
}

// A warp's 16 rows from its registers by way of shared memory (its own place) to global memory, `factor` times.
// `channels`: of the row from `base` on, at most 8 * kBlocks of them written.
template <typename T, int kBlocks>
NA_DEVICE void store_rows(const float (&acc)[kBlocks][4], float factor_low, float factor_high, T* shared, int stride,
                          T* base, long long offset, int channels, int pieces_log2, bool vector) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  __syncwarp();  // all lanes are done with what lay there
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    if (8 * j >= channels) break;
    T* low = shared + g * stride + 8 * j + 2 * t;
    T* high = low + 8 * stride;
    if constexpr (kTensorCores<T>) {
      *(unsigned*)low = pack<T>(acc[j][0] * factor_low, acc[j][1] * factor_low);
      *(unsigned*)high = pack<T>(acc[j][2] * factor_high, acc[j][3] * factor_high);
    } else {
      low[0] = acc[j][0] * factor_low, low[1] = acc[j][1] * factor_low;
      high[0] = acc[j][2] * factor_high, high[1] = acc[j][3] * factor_high;
    }
  }
  __syncwarp();
  for (int i = lane; i < 16 << pieces_log2; i += 32) {
    int row = i >> pieces_log2, piece = (i & ((1 << pieces_log2) - 1)) * kPiece<T>;
    long long at = __shfl_sync(kAllLanes, offset, row);
    if (at < 0 || piece >= channels) continue;
    const T* from = shared + row * stride + piece;
    T* to = base + at + piece;
    if (vector) {
      *(uint4*)to = *(const uint4*)from;
    } else {
      for (int c = 0; c < kPiece<T> && piece + c < channels; ++c) to[c] = from[c];
    }
  }
  __syncwarp();
}

// The rows of one warp as left operand. 16-bit rows up to 64 wide stay in registers.
template <typename T, int kWidest>
struct Rows {
  static constexpr bool kKept = kTensorCores<T> && kWidest <= 64;
  const T* shared;
  int stride;
  unsigned kept[kKept ? kWidest / 16 : 1][4];

  NA_DEVICE const T* matrix_row(int step) const {  // the address that this lane gives to load_matrices
    int lane = threadIdx.x & 31;
    return shared + ((lane >> 3 & 1) * 8 + (lane & 7)) * stride + 16 * step + (lane >> 4) * 8;
  }
  NA_DEVICE void keep(int padded) {
    if constexpr (kKept) {
#pragma unroll
      for (int step = 0; step < kWidest / 16; ++step)
        if (16 * step < padded) load_matrices(kept[step], matrix_row(step));
    }
  }
};

// out = rows columns^T, over `padded` channels and 16 * `blocks` columns.
template <typename T, int kWidest, int kBlocks>
NA_DEVICE void product(float (&out)[kBlocks][4], const Rows<T, kWidest>& rows, const T* columns, int stride, int padded,
                       int blocks) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int j = 0; j < kBlocks; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) out[j][i] = 0.f;
  if constexpr (kTensorCores<T>) {
    constexpr int kUnrolled = Rows<T, kWidest>::kKept ? kWidest / 16 : 2;
    const T* column = columns + ((lane >> 4) * 8 + (lane & 7)) * stride + (lane >> 3 & 1) * 8;
#pragma unroll(kUnrolled)
    for (int step = 0; step < kWidest / 16; ++step) {
      if (16 * step >= padded) break;
      unsigned a[4];
      if constexpr (Rows<T, kWidest>::kKept) {
        for (int i = 0; i < 4; ++i) a[i] = rows.kept[step][i];
      } else {
        load_matrices(a, rows.matrix_row(step));
      }
#pragma unroll
      for (int j = 0; j < kBlocks / 2; ++j) {
        if (j >= blocks) break;
        unsigned b[4];
        load_matrices(b, column + 16 * j * stride + 16 * step);
        multiply<T>(out[2 * j], a, b[0], b[1]);
        multiply<T>(out[2 * j + 1], a, b[2], b[3]);
      }
    }
  } else {
    const float* low = rows.shared + g * rows.stride;
    const float* high = low + 8 * rows.stride;
#pragma unroll 1
    for (int c = 0; c < padded; c += 4) {
      float4 a = *(const float4*)(low + c), b = *(const float4*)(high + c);
#pragma unroll
      for (int j = 0; j < kBlocks; ++j) {
        if (j >= 2 * blocks) break;
        const float* column = columns + (8 * j + 2 * t) * stride + c;
        float4 x = *(const float4*)column, y = *(const float4*)(column + stride);
        out[j][0] = fmaf(a.w, x.w, fmaf(a.z, x.z, fmaf(a.y, x.y, fmaf(a.x, x.x, out[j][0]))));
        out[j][1] = fmaf(a.w, y.w, fmaf(a.z, y.z, fmaf(a.y, y.y, fmaf(a.x, y.x, out[j][1]))));
        out[j][2] = fmaf(b.w, x.w, fmaf(b.z, x.z, fmaf(b.y, x.y, fmaf(b.x, x.x, out[j][2]))));
        out[j][3] = fmaf(b.w, y.w, fmaf(b.z, y.z, fmaf(b.y, y.y, fmaf(b.x, y.x, out[j][3]))));
      }
    }
  }
}

// The warp's weights in its scratch, 16 rows of 8 * kBlocks floats, for lanes that need those of others.
template <int kBlocks>
NA_DEVICE void spread(const float (&weights)[kBlocks][4], float* scratch) {
  constexpr int stride = 8 * kBlocks + 4;
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  __syncwarp();  // the last round's readers are done
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    float* low = scratch + g * stride + 8 * j + 2 * t;
    float* high = low + 8 * stride;
    low[0] = weights[j][0], low[1] = weights[j][1];
    high[0] = weights[j][2], high[1] = weights[j][3];
  }
  __syncwarp();
}

// out += weights columns, over 16 * `blocks` columns and the channels [0, padded) from `columns` on. In float the weights
// have to be in `scratch` (spread).
template <typename T, int kChannelBlocks, int kBlocks>
NA_DEVICE void accumulate(float (&out)[kChannelBlocks][4], const float (&weights)[kBlocks][4], const float* scratch,
                          const T* columns, int stride, int padded, int blocks) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  if constexpr (kTensorCores<T>) {
    const T* column = columns + ((lane >> 3 & 1) * 8 + (lane & 7)) * stride + (lane >> 4) * 8;
#pragma unroll
    for (int j = 0; j < kBlocks / 2; ++j) {
      if (j >= blocks) break;
      const float(&left)[4] = weights[2 * j];
      const float(&right)[4] = weights[2 * j + 1];
      unsigned a[4] = {pack<T>(left[0], left[1]), pack<T>(left[2], left[3]), pack<T>(right[0], right[1]),
                       pack<T>(right[2], right[3])};
#pragma unroll
      for (int c = 0; c < kChannelBlocks / 2; ++c) {
        if (16 * c >= padded) break;
        unsigned b[4];
        load_matrices_transposed(b, column + 16 * j * stride + 16 * c);
        multiply<T>(out[2 * c], a, b[0], b[1]);
        multiply<T>(out[2 * c + 1], a, b[2], b[3]);
      }
    }
  } else {
    constexpr int width = 8 * kBlocks + 4;
#pragma unroll(kChannelBlocks <= 4 ? 4 : 1)
    for (int n = 0; n < 16 * blocks; ++n) {
      float low = scratch[g * width + n], high = scratch[(g + 8) * width + n];
      const float* column = columns + n * stride + 2 * t;
#pragma unroll
      for (int c = 0; c < kChannelBlocks; ++c) {
        if (8 * c >= padded) break;
        float2 x = *(const float2*)(column + 8 * c);
        out[c][0] = fmaf(low, x.x, out[c][0]), out[c][1] = fmaf(low, x.y, out[c][1]);
        out[c][2] = fmaf(high, x.x, out[c][2]), out[c][3] = fmaf(high, x.y, out[c][3]);
      }
    }
  }
}

NA_DEVICE float quad_sum(float x) {  // over the four lanes that hold one row
  x += __shfl_xor_sync(kAllLanes, x, 1);
  return x + __shfl_xor_sync(kAllLanes, x, 2);
}
NA_DEVICE float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
  return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}
