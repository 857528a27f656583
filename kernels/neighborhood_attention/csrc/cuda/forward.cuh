// Forward: softmax attention of a tile of queries, in one pass over their keys. Writes out and LSE once.
#pragma once
#include "keys.cuh"

template <typename T, int kWidest>
__global__ void __launch_bounds__(kThreads, resident(kTensorCores<T>, kWidest, true)) na_forward_kernel(NA_PARAMETER NaProblem p, NA_PARAMETER NaPlan plan) {
  constexpr int kAtOnce = kColumnsAtOnce<T, kWidest, true>, kBlocks = kAtOnce / 8;
  NA_SHARED_MEMORY(memory);
  QueryTile& tile = *(QueryTile*)memory;
  locate(p, plan, blockIdx.x / p.heads, blockIdx.x % p.heads, tile);
  if (tile.empty) return;
  int4* table = (int4*)(memory + plan.table_at);
  T* keys = (T*)(memory + plan.first_at);
  T* values = (T*)(memory + plan.second_at);
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
  T* row_memory = (T*)(memory + plan.rows_at) + warp * 16 * plan.row_stride[0];
  float* scratch = kTensorCores<T> ? nullptr : (float*)(memory + plan.scratch_at) + warp * 16 * (kAtOnce + 4);
  int step = plan.columns + plan.slack;  // columns from one stage to the next
  int chunks = (tile.columns + plan.columns - 1) / plan.columns;
  int blocks = (tile.rows[0] * tile.rows[1] * tile.rows[2] + 15) / 16;
  Bias bias = load_bias(p, plan, memory, tile.head);

  auto fetch = [&](int chunk, int stage) { fetch_keys(table, keys, values, p, plan, tile, chunk, stage); };
  for (int careful = 0;; ++careful) {
    bool broken = false;
    fetch(0, 0);

    // Every warp comes at least once, for the barriers. With several chunks there is one block of rows a warp.
    bool first_time = true;
    for (int block = warp; first_time || block < blocks; block += plan.warps, first_time = false) {
      QueryRows row = describe_rows(p, plan, tile, block);
      const T* query = (const T*)p.query.data + tile.place.batch * p.query.batch + tile.head * p.query.head;
      load_rows(row_memory, plan.row_stride[0], query, offset_of(p.query, row), p.channels, plan.d16,
                plan.d_pieces_log2, plan.vector & NA_VECTOR_QUERY);
      commit_copies();
      RowBounds bounds = bounds_of(row);
      Rows<T, kWidest> rows;
      rows.shared = row_memory, rows.stride = plan.row_stride[0];
      float out[kWidest / 8][4], most[2] = {kLowest, kLowest}, sum[2] = {0.f, 0.f};
#pragma unroll
      for (int c = 0; c < kWidest / 8; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) out[c][i] = 0.f;

      for (int chunk = 0; chunk < chunks; ++chunk) {
        int stage = await(plan, chunk, chunks, first_time, fetch);
        if (careful && first_time) {
          int count = min(plan.columns, tile.columns - chunk * plan.columns);
          clear_spoilt(values + stage * step * plan.e_stride, plan.e_stride, count, plan.e16, plan.e_pieces_log2,
                       [&](int i) { table[stage * step + i].w = kSpoilt; });
          __syncthreads();
        }
        if (chunk == 0) rows.keep(plan.d16);

        int begin = chunk * plan.columns, end = min(begin + plan.columns, tile.columns);
        for (int part = 0; part < 2; ++part) {  // the window, the additional tokens
          int from = max(part ? tile.extra_at : row.first, begin), to = min(part ? tile.columns : row.end, end);
          if (part && p.additional == 0) break;
          for (int n = from & (plan.slack ? ~1 : ~15); n < to; n += kAtOnce) {
            int at = stage * step + n - begin, left = to - n, tiles = min((left + 15) / 16, kBlocks / 2);
            float s[kBlocks][4];
            product<T, kWidest, kBlocks>(s, rows, keys + at * plan.d_stride, plan.d_stride, plan.d16, tiles);
            score_keys<T>(s, table + at, bounds, bias, p.scale * kUnit<T>, plan.guard, part, left);
            if (careful) spoil_keys(s, table + at, left);
#pragma unroll
            for (int r = 0; r < 2; ++r) {
              float largest = most[r];
#pragma unroll
              for (int j = 0; j < kBlocks; ++j) largest = fmaxf(largest, fmaxf(s[j][2 * r], s[j][2 * r + 1]));
              largest = quad_max(largest);
              float shrink = exponential<T>(most[r] - largest);
              most[r] = largest;
              sum[r] *= shrink;
#pragma unroll
              for (int c = 0; c < kWidest / 8; ++c) out[c][2 * r] *= shrink, out[c][2 * r + 1] *= shrink;
#pragma unroll
              for (int j = 0; j < kBlocks; ++j)
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; ++i) {
                  s[j][i] = exponential<T>(s[j][i] - largest);
                  sum[r] += s[j][i];
                }
            }
            if constexpr (!kTensorCores<T>) spread(s, scratch);
            accumulate<T>(out, s, scratch, values + at * plan.e_stride, plan.e_stride, plan.e16, tiles);
          }
        }
        if (chunks > 1) __syncthreads();
      }

      broken |= is_spoilt(out);
      float total[2] = {quad_sum(sum[0]), quad_sum(sum[1])};
      T* result = (T*)p.out.data + tile.place.batch * p.out.batch + tile.head * p.out.head;
      store_rows<T>(out, 1.f / total[0], 1.f / total[1], row_memory, plan.row_stride[0], result,
                    offset_of_token(row.token, p.heads * p.value_channels), p.value_channels, plan.e_pieces_log2, plan.vector & NA_VECTOR_OUT);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        int token = __shfl_sync(kAllLanes, row.token, g + 8 * r);
        if (t == 0 && token >= 0) {
          long long tokens = (long long)p.length[0] * p.length[1] * p.length[2];
          p.lse[(tile.place.batch * tokens + token) * p.heads + tile.head] = most[r] / kUnit<T> + logf(total[r]);
        }
      }
    }
    if (careful || !any_thread(broken)) break;
  }
}
