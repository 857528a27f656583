// Backward, first kernel: dQ, the gradient of the bias table, and for the second kernel delta = rowsum(dO O) - dLSE.
//
// dS = P (dO V^T - delta), dQ = scale dS K, d_bias = dS summed over batch and queries. A CTA takes the items slot,
// slot + slots, ... of its head, one if there is no bias, and leaves one partial table: a fixed order, so results are the
// same from run to run.
#pragma once
#include "keys.cuh"

// rowsum(dO O) of one row, the same in the four lanes of the row. dO lies in shared memory, padded with zeros. In float it
// is summed in the order of `product`: where there is one key, dP - delta is exactly 0.
template <typename T>
NA_DEVICE float row_product(const T* d_out, const T* out, int channels, bool vector) {
  constexpr int lanes = kTensorCores<T> ? 4 : 1;  // that share a row
  int t = threadIdx.x & (lanes - 1);
  float sum = 0.f;
  if (out != nullptr) {
    if (vector) {
      for (int c = t * kPiece<T>; c < channels; c += lanes * kPiece<T>) {
        uint4 words[2] = {*(const uint4*)(out + c), *(const uint4*)(d_out + c)};
        const T* x = (const T*)&words[0];
        const T* y = (const T*)&words[1];
#pragma unroll
        for (int i = 0; i < kPiece<T>; ++i) sum = fmaf(to_float(x[i]), to_float(y[i]), sum);
      }
    } else {
      for (int c = t; c < channels; c += lanes) sum = fmaf(to_float(out[c]), to_float(d_out[c]), sum);
    }
  }
  return lanes == 1 ? sum : quad_sum(sum);
}

// Add a warp's dS, which lies in its scratch, to its own table. Lanes are keys: those of one query fall into different
// bins, and the queries follow each other.
template <int kAtOnce>
NA_DEVICE void add_to_bins(float* bins, const float* scratch, const int4* table, int row_bias, int columns) {
  int lane = threadIdx.x & 31;
  bool mine = lane < columns;
  int bin = mine ? table[lane].y : 0;
  for (int r = 0; r < 16; ++r) {
    int subtract = __shfl_sync(kAllLanes, row_bias, r);
    float x = mine ? scratch[r * (kAtOnce + 4) + lane] : 0.f;
    if (x != 0.f) bins[bin - subtract] += x;  // exactly 0 where the key is not seen, and the bin then may not exist
    __syncwarp();
  }
}

template <typename T, int kWidest>
__global__ void __launch_bounds__(kThreads, resident(kTensorCores<T>, kWidest, false))
    na_query_gradient_kernel(NA_PARAMETER NaProblem p, NA_PARAMETER NaPlan plan) {
  constexpr int kAtOnce = kColumnsAtOnce<T, kWidest, false>, kBlocks = kAtOnce / 8;
  static_assert(kAtOnce <= 32, "add_to_bins has a lane for every column");
  NA_SHARED_MEMORY(memory);
  QueryTile& tile = *(QueryTile*)memory;
  int4* table = (int4*)(memory + plan.table_at);
  T* keys = (T*)(memory + plan.first_at);
  T* values = (T*)(memory + plan.second_at);
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  T* query_memory = (T*)(memory + plan.rows_at) + warp * 16 * plan.row_stride[0];
  T* d_out_memory =
      (T*)(memory + plan.rows_at) + plan.warps * 16 * plan.row_stride[0] + warp * 16 * plan.row_stride[1];
  float* scratch = plan.scratch_at < 0 ? nullptr : (float*)(memory + plan.scratch_at) + warp * 16 * (kAtOnce + 4);
  float* deltas = (float*)p.workspace;
  int step = plan.columns + plan.slack, head = blockIdx.x % p.heads;
  unsigned slot = blockIdx.x / p.heads;
  Bias bias = load_bias(p, plan, memory, head);

  float* bins = nullptr;
  float* partial = (float*)(p.workspace + plan.partials_at);
  if (p.d_bias) {
    bins = plan.bins_at >= 0 ? (float*)(memory + plan.bins_at) + warp * plan.bins
                             : partial + ((long long)(slot * plan.warps + warp) * p.heads + head) * plan.bins;
    for (int i = lane; i < plan.bins; i += 32) bins[i] = 0.f;
    __syncwarp();
  }

  for (unsigned item = slot; item < plan.items; item += plan.slots) {
    __syncthreads();  // nobody is at the last item any more
    locate(p, plan, item, head, tile);
    if (tile.empty) continue;
    int chunks = (tile.columns + plan.columns - 1) / plan.columns;
    int blocks = (tile.rows[0] * tile.rows[1] * tile.rows[2] + 15) / 16;
    auto fetch = [&](int chunk, int stage) { fetch_keys(table, keys, values, p, plan, tile, chunk, stage); };
    for (int careful = 0;; ++careful) {
      bool broken = false;
      fetch(0, 0);

      bool first_time = true;
      for (int block = warp; first_time || block < blocks; block += plan.warps, first_time = false) {
        QueryRows row = describe_rows(p, plan, tile, block);
        const T* query = (const T*)p.query.data + tile.place.batch * p.query.batch + head * p.query.head;
        const T* d_out = (const T*)p.d_out.data + tile.place.batch * p.d_out.batch + head * p.d_out.head;
        load_rows(query_memory, plan.row_stride[0], query, offset_of(p.query, row), p.channels, plan.d16,
                  plan.d_pieces_log2, plan.vector & NA_VECTOR_QUERY);
        load_rows(d_out_memory, plan.row_stride[1], d_out, offset_of(p.d_out, row), p.value_channels, plan.e16,
                  plan.e_pieces_log2, plan.vector & NA_VECTOR_D_OUT);
        commit_copies();
        RowBounds bounds = bounds_of(row);
        float lse[2], delta[2], d_query[kWidest / 8][4];
        int tokens[2];
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          tokens[r] = __shfl_sync(kAllLanes, row.token, g + 8 * r);
          long long all = (long long)p.length[0] * p.length[1] * p.length[2];
          long long at = (tile.place.batch * all + tokens[r]) * p.heads + head;
          lse[r] = tokens[r] < 0 ? 0.f : p.lse[at] * kUnit<T>;
          delta[r] = tokens[r] < 0 || !p.d_lse ? 0.f : -p.d_lse[at];
        }
        Rows<T, kWidest> queries, d_outs;
        queries.shared = query_memory, queries.stride = plan.row_stride[0];
        d_outs.shared = d_out_memory, d_outs.stride = plan.row_stride[1];
#pragma unroll
        for (int c = 0; c < kWidest / 8; ++c)
#pragma unroll
          for (int i = 0; i < 4; ++i) d_query[c][i] = 0.f;

        for (int chunk = 0; chunk < chunks; ++chunk) {
          int stage = await(plan, chunk, chunks, first_time, fetch);
          if (careful && first_time) {
            int count = min(plan.columns, tile.columns - chunk * plan.columns);
            clear_spoilt(keys + stage * step * plan.d_stride, plan.d_stride, count, plan.d16, plan.d_pieces_log2,
                         [&](int i) { table[stage * step + i].w = kSpoilt; });
            __syncthreads();
          }
          if (chunk == 0) {
            queries.keep(plan.d16);
            d_outs.keep(plan.e16);
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              const T* out = (const T*)p.out.data + tile.place.batch * p.out.batch + head * p.out.head +
                             offset_of_token(tokens[r], p.heads * p.value_channels);
              delta[r] += row_product<T>(d_out_memory + (g + 8 * r) * plan.row_stride[1], tokens[r] < 0 ? nullptr : out,
                                      p.value_channels, plan.vector & NA_VECTOR_OUT);
              long long all = (long long)p.length[0] * p.length[1] * p.length[2];
              if (t == 0 && tokens[r] >= 0) {
                deltas[(tile.place.batch * all + tokens[r]) * p.heads + head] = delta[r];
              }
            }
          }

          int begin = chunk * plan.columns, end = min(begin + plan.columns, tile.columns);
          for (int part = 0; part < 2; ++part) {  // the window, the additional tokens
            int from = max(part ? tile.extra_at : row.first, begin), to = min(part ? tile.columns : row.end, end);
            if (part && p.additional == 0) break;
            for (int n = from & (plan.slack ? ~1 : ~15); n < to; n += kAtOnce) {
              int at = stage * step + n - begin, left = to - n, tiles = min((left + 15) / 16, kBlocks / 2);
              float s[kBlocks][4], d_s[kBlocks][4];
              product<T, kWidest, kBlocks>(s, queries, keys + at * plan.d_stride, plan.d_stride, plan.d16, tiles);
              product<T, kWidest, kBlocks>(d_s, d_outs, values + at * plan.e_stride, plan.e_stride, plan.e16, tiles);
              score_keys<T>(s, table + at, bounds, bias, p.scale * kUnit<T>, plan.guard, part, left);
              if (careful) spoil_keys(s, table + at, left);
#pragma unroll
              for (int j = 0; j < kBlocks; ++j)
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                  float weight = exponential<T>(s[j][i] - lse[i / 2]);
                  d_s[j][i] = s[j][i] == -INFINITY ? 0.f : weight * (d_s[j][i] - delta[i / 2]);
                }
              bool binned = bins != nullptr && part == 0 && !careful;  // they are complete after the first time
              if (!kTensorCores<T> || binned) spread(d_s, scratch);
              accumulate<T>(d_query, d_s, scratch, keys + at * plan.d_stride, plan.d_stride, plan.d16, tiles);
              if (binned) add_to_bins<kAtOnce>(bins, scratch, table + at, row.bias, 16 * tiles);
            }
          }
          if (chunks > 1) __syncthreads();
        }
        broken |= is_spoilt(d_query);
        T* result = (T*)p.d_query.data + tile.place.batch * p.d_query.batch + head * p.d_query.head;
        store_rows<T>(d_query, p.scale, p.scale, query_memory, plan.row_stride[0], result,
                      offset_of_token(row.token, p.heads * p.channels), p.channels, plan.d_pieces_log2,
                      plan.vector & NA_VECTOR_D_QUERY);
      }
      if (careful || !any_thread(broken)) break;
    }
  }

  if (p.d_bias && plan.bins_at >= 0) {
    __syncthreads();
    const float* all = (const float*)(memory + plan.bins_at);
    for (int i = threadIdx.x; i < plan.bins; i += blockDim.x) {
      float sum = 0.f;
      for (int w = 0; w < plan.warps; ++w) sum += all[w * plan.bins + i];
      partial[((long long)slot * p.heads + head) * plan.bins + i] = sum;
    }
  }
}
