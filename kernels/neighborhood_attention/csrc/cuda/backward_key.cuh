// Backward, second kernel: dK and dV, for a tile of keys over the queries that see it (the inverse neighborhood), so that
// nothing is added to by two CTAs. dV = P^T dO, dK = scale dS^T Q. The same kernel makes the gradients of the additional
// tokens, which are keys that all queries see: there the queries are shared out among slots, which leave partial sums.
#pragma once
#include "tiles.cuh"

struct KeyTile {
  Place place;
  bool empty;
  int head, first[3], rows[3];  // keys; head: of keys and values
  int length[3];                // of the dilation group
  int low[3], extent[3];        // queries
  int queries, first_query;     // first_query: of the slot, for additional tokens
};

NA_DEVICE void locate_keys_one(const NaProblem& p, const NaPlan& plan, unsigned item, bool additional, KeyTile& tile) {
  tile.empty = false;
  tile.first_query = 0;
  if (additional) {
    tile.head = item % (unsigned)p.kv_heads;
    item /= (unsigned)p.kv_heads;
    int row_tile = item % (unsigned)plan.row_tiles;
    item /= (unsigned)plan.row_tiles;
    int slot = item % (unsigned)plan.slots;
    tile.place.batch = item / (unsigned)plan.slots;
    int tokens = p.length[0] * p.length[1] * p.length[2], share = (tokens + plan.slots - 1) / plan.slots;
    for (int i = 0; i < 3; ++i) {
      tile.first[i] = 0, tile.rows[i] = 1, tile.low[i] = 0, tile.extent[i] = p.length[i];
      tile.place.group[i] = 0, tile.place.tile[i] = 0;
    }
    tile.place.tile[0] = slot;
    tile.first[2] = row_tile * 16 * plan.warps;
    tile.rows[2] = min(16 * plan.warps, p.additional - tile.first[2]);
    tile.first_query = min(slot * share, tokens);
    tile.queries = min(share, tokens - tile.first_query);
    return;
  }
  tile.head = item % (unsigned)p.kv_heads;
  tile.place = place_of(p, plan.tiles, item / (unsigned)p.kv_heads);
  tile.queries = 1;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    Axis axis = axis_of(p, i, tile.place.group[i]);
    tile.length[i] = axis.n;
    tile.first[i] = tile.place.tile[i] * plan.tile[i];
    tile.rows[i] = min(plan.tile[i], axis.n - tile.first[i]);
    if (tile.rows[i] <= 0) {
      tile.empty = true;
      return;
    }
    tile.low[i] = axis.first_query(tile.first[i]);
    tile.extent[i] = axis.end_query(tile.first[i] + tile.rows[i] - 1) - tile.low[i];
    tile.queries *= tile.extent[i];
  }
}

static_assert(sizeof(KeyTile) <= kTileBytes);

// What a chunk's columns, queries, need: bounds of their windows against the tile's keys, places, LSE and delta.
struct QueryTable {
  int4* windows;    // low, high, share of the bias index, kSpoilt or 0
  int2* offsets;    // in query and d_out
  float2* numbers;  // LSE in units of kUnit, delta

  NA_DEVICE QueryTable(unsigned char* memory, const NaPlan& plan, int at) {
    int all = (plan.columns + plan.slack) * plan.stages;
    windows = (int4*)(memory + plan.table_at) + at;
    offsets = (int2*)(memory + plan.table_at + 16 * all) + at;
    numbers = (float2*)(memory + plan.table_at + 24 * all) + at;
  }
};

NA_DEVICE void describe_queries(const QueryTable& table, const NaProblem& p, const NaPlan& plan, const KeyTile& tile,
                                bool additional, int head, int chunk, float unit) {
  const float* deltas = (const float*)p.workspace;
  for (int i = threadIdx.x; i < plan.columns + plan.slack; i += blockDim.x) {
    int n = chunk * plan.columns + i;
    int4 window = {(int)unseen_low(plan.guard, plan.shift), (int)(2 * plan.guard), 0, 0};
    int2 offset = {-1, -1};
    float2 number = {0.f, 0.f};
    if (i < plan.columns && n < tile.queries) {
      unsigned rest = tile.first_query + n, low = 0, high = 2 * plan.guard;
      int place[3], bias = 0;
      offset = {0, 0};
#pragma unroll
      for (int a = 2; a >= 0; --a) {
        int c = a ? rest % (unsigned)tile.extent[a] : rest;
        rest = a ? rest / (unsigned)tile.extent[a] : 0;
        int q = tile.low[a] + c;
        if (additional) {  // keys are 1 on every axis, and all windows go from 0 to 1
          place[a] = q;
          high += 1u << plan.shift[a];
        } else {
          // Keys of the tile are 1 to its size: so a window that ends before it or begins behind it has its values too.
          Axis axis = {tile.length[a], p.kernel[a], p.stride[a], p.causal[a]};
          int most = plan.tile[a] + 1;
          low += (unsigned)min(max(axis.first_key(q) - tile.first[a] + 1, 0), most) << plan.shift[a];
          high += (unsigned)min(max(axis.end_key(q) - tile.first[a], 0), most) << plan.shift[a];
          bias += (q - tile.first[a] - (axis.kernel - 1)) * plan.bias_stride[a];
          place[a] = tile.place.group[a] + p.dilation[a] * q;
        }
        offset.x += place[a] * (int)p.query.axis[a];
        offset.y += place[a] * (int)p.d_out.axis[a];
      }
      window = {(int)low, (int)high, bias, 0};
      long long all = (long long)p.length[0] * p.length[1] * p.length[2];
      long long token = (place[0] * p.length[1] + place[1]) * p.length[2] + place[2];
      long long at = (tile.place.batch * all + token) * p.heads + head;
      number = {p.lse[at] * unit, deltas[at]};
    }
    table.windows[i] = window, table.offsets[i] = offset, table.numbers[i] = number;
  }
}

template <typename T>
NA_DEVICE void load_queries(T* queries, T* d_outs, const QueryTable& table, const NaProblem& p, const NaPlan& plan,
                            const KeyTile& tile, int head, int chunk) {
  int count = min(plan.columns, (tile.queries - chunk * plan.columns + 15) & ~15) + plan.slack;
  const int2* offsets = table.offsets;
  const T* query = (const T*)p.query.data + tile.place.batch * p.query.batch + head * p.query.head;
  const T* d_out = (const T*)p.d_out.data + tile.place.batch * p.d_out.batch + head * p.d_out.head;
  load_columns(queries, plan.d_stride, count, query, p.channels, plan.d16, plan.d_pieces_log2,
               plan.vector & NA_VECTOR_QUERY, [&](int i) { return (long long)offsets[i].x; });
  load_columns(d_outs, plan.e_stride, count, d_out, p.value_channels, plan.e16, plan.e_pieces_log2,
               plan.vector & NA_VECTOR_D_OUT, [&](int i) { return (long long)offsets[i].y; });
}

// A warp's 16 keys; lane r and lane r + 16 describe row r.
struct KeyRows {
  int token, extra;     // place in the map, or among the additional tokens; -1: no such row
  long long key, value;  // where the row lies from its sample and head on, -1
  unsigned packed;
  int bias;
  int first, end;       // columns that see one of the rows lie in [first, end)
};

NA_DEVICE KeyRows describe_key_rows(const NaProblem& p, const NaPlan& plan, const KeyTile& tile, bool additional, int block) {
  KeyRows rows;
  unsigned r = block * 16 + (threadIdx.x & 15);
  bool valid = (int)r < tile.rows[0] * tile.rows[1] * tile.rows[2];
  rows.token = rows.extra = -1, rows.key = rows.value = -1, rows.bias = 0;
  rows.packed = plan.guard | unseen_low(plan.guard, plan.shift);
  rows.first = 0, rows.end = tile.queries;
  if (additional) {
    if (valid) {
      rows.extra = tile.first[2] + r;
      rows.packed = plan.guard + (1u << plan.shift[0]) + (1u << plan.shift[1]) + (1u << plan.shift[2]);
      rows.key = rows.extra * p.additional_keys.axis[2], rows.value = rows.extra * p.additional_values.axis[2];
    }
    return rows;
  }
  unsigned packed = plan.guard;
  long long key = 0, value = 0;
  int first[3] = {0, 0, 0}, last[3] = {0, 0, 0}, place[3];
  bool some = block * 16 < tile.rows[0] * tile.rows[1] * tile.rows[2];
#pragma unroll
  for (int a = 2; a >= 0; --a) {
    place[a] = 0;
    if (p.length[a] == 1) {  // its one key has number 1, as below
      packed += 1u << plan.shift[a];
      continue;
    }
    Axis axis = {tile.length[a], p.kernel[a], p.stride[a], p.causal[a]};
    int c = a ? r % (unsigned)tile.rows[a] : valid ? r : 0;
    r = a ? r / (unsigned)tile.rows[a] : 0;
    packed += (unsigned)(c + 1) << plan.shift[a];
    rows.bias += c * plan.bias_stride[a];
    place[a] = tile.place.group[a] + p.dilation[a] * (tile.first[a] + c);
    key += place[a] * p.key.axis[a], value += place[a] * p.value.axis[a];
    int lowest = warp_min(valid ? c : 0x7fffffff), highest = warp_max(valid ? c : -1);
    if (some) {
      first[a] = axis.first_query(tile.first[a] + lowest) - tile.low[a];
      last[a] = axis.end_query(tile.first[a] + highest) - 1 - tile.low[a];
    }
  }
  if (valid) {
    rows.token = (place[0] * p.length[1] + place[1]) * p.length[2] + place[2];
    rows.packed = packed, rows.key = key, rows.value = value;
  }
  rows.end = 0;
  if (some) {
    rows.first = (first[0] * tile.extent[1] + first[1]) * tile.extent[2] + first[2];
    rows.end = (last[0] * tile.extent[1] + last[1]) * tile.extent[2] + last[2] + 1;
  }
  return rows;
}

// s: products of keys and queries into P; d_s: products of values and d_out into dS.
template <typename T, bool kBias, int kBlocks>
NA_DEVICE void score_queries_with(float (&s)[kBlocks][4], float (&d_s)[kBlocks][4], const QueryTable& table, int at,
                                  const unsigned (&packed)[2], const int (&row_bias)[2], const float* bias, float factor,
                                  unsigned guard, int left) {
  int t = threadIdx.x & 3;
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    if (8 * (j & ~1) >= left) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] = d_s[j][i] = 0.f;
      continue;
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      int column = at + 8 * j + 2 * t + c;
      int2 window = *(const int2*)&table.windows[column];
      float2 number = table.numbers[column];
      int share = kBias ? table.windows[column].z : 0;
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        int i = 2 * r + c;
        float x = fmaf(s[j][i], factor, -number.x);
        bool seen = is_seen(packed[r], (unsigned)window.x, (unsigned)window.y, guard);
        if constexpr (kBias) x = fmaf(read_only(bias + (seen ? row_bias[r] - share : 0)), kUnit<T>, x);
        s[j][i] = seen ? exponential<T>(x) : 0.f;
        d_s[j][i] = seen ? s[j][i] * (d_s[j][i] - number.y) : 0.f;
      }
    }
  }
}

template <typename T, int kBlocks>
NA_DEVICE void score_queries(float (&s)[kBlocks][4], float (&d_s)[kBlocks][4], const QueryTable& table, int at,
                             const unsigned (&packed)[2], const int (&row_bias)[2], const float* bias, float factor,
                             unsigned guard, int left) {
  if (bias) score_queries_with<T, true>(s, d_s, table, at, packed, row_bias, bias, factor, guard, left);
  else score_queries_with<T, false>(s, d_s, table, at, packed, row_bias, nullptr, factor, guard, left);
}

// Weights of queries that clear_spoilt marked become NaN.
template <int kBlocks>
NA_DEVICE void spoil_queries(float (&s)[kBlocks][4], float (&d_s)[kBlocks][4], const int4* windows, int left,
                             const unsigned (&packed)[2], unsigned guard) {
  int t = threadIdx.x & 3;
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    if (8 * (j & ~1) >= left) break;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int column = 8 * j + 2 * t + i % 2;
      int4 window = windows[column];
      bool seen = is_seen(packed[i / 2], (unsigned)window.x, (unsigned)window.y, guard);
      if (seen && window.w == kSpoilt) s[j][i] = d_s[j][i] = NAN;
    }
  }
}

// A partial sum in float: the warp's rows straight from its registers.
template <int kBlocks>
NA_DEVICE void store_partial(const float (&acc)[kBlocks][4], float factor, float* rows, int row_elements, int first_row,
                             int row_count, int channels) {
  int lane = threadIdx.x & 31, g = lane >> 2, t = lane & 3;
#pragma unroll
  for (int j = 0; j < kBlocks; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      int row = first_row + g + 8 * (i / 2), channel = 8 * j + 2 * t + i % 2;
      if (row < row_count && channel < channels) rows[(long long)row * row_elements + channel] = acc[j][i] * factor;
    }
}

template <typename T, int kWidest>
__global__ void __launch_bounds__(kThreads, resident(kTensorCores<T>, kWidest, false))
    na_key_gradient_kernel(NA_PARAMETER NaProblem p, NA_PARAMETER NaPlan plan, NA_PARAMETER int additional) {
  constexpr int kAtOnce = kColumnsAtOnce<T, kWidest, false>, kBlocks = kAtOnce / 8;
  constexpr int kOut = kWidest < kSliceChannels ? kWidest : kSliceChannels;
  NA_SHARED_MEMORY(memory);
  KeyTile& tile = *(KeyTile*)memory;
  unsigned item = blockIdx.x / plan.slices;
  int slice = blockIdx.x % plan.slices * kSliceChannels;  // first channel of this CTA
  if (threadIdx.x == 0) locate_keys_one(p, plan, item, additional, tile);
  __syncthreads();
  if (tile.empty) return;
  T* queries = (T*)(memory + plan.first_at);
  T* d_outs = (T*)(memory + plan.second_at);
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2;
  T* key_memory = (T*)(memory + plan.rows_at) + warp * 16 * plan.row_stride[0];
  T* value_memory =
      (T*)(memory + plan.rows_at) + plan.warps * 16 * plan.row_stride[0] + warp * 16 * plan.row_stride[1];
  float* scratch = plan.scratch_at < 0 ? nullptr : (float*)(memory + plan.scratch_at) + warp * 16 * (kAtOnce + 4);
  int group = p.heads / p.kv_heads, width = plan.columns + plan.slack;
  int chunks = max(1, (tile.queries + plan.columns - 1) / plan.columns), steps = chunks * group;
  int row_count = tile.rows[0] * tile.rows[1] * tile.rows[2], blocks = (row_count + 15) / 16;

  auto fetch = [&](int step, int stage) {
    int head = tile.head * group + step / chunks, chunk = step % chunks;
    QueryTable table(memory, plan, stage * width);
    describe_queries(table, p, plan, tile, additional, head, chunk, kUnit<T>);
    __syncthreads();
    load_queries(queries + stage * width * plan.d_stride, d_outs + stage * width * plan.e_stride, table, p, plan, tile,
                 head, chunk);
    commit_copies();
  };
  for (int careful = 0;; ++careful) {
    bool broken = false;
    fetch(0, 0);

    bool first_time = true;
    for (int block = warp; first_time || block < blocks; block += plan.warps, first_time = false) {
      KeyRows row = describe_key_rows(p, plan, tile, additional, block);
      const NaTensor &kt = additional ? p.additional_keys : p.key, &vt = additional ? p.additional_values : p.value;
      bool key_vector = plan.vector & (additional ? NA_VECTOR_ADDITIONAL : NA_VECTOR_KEY);
      bool value_vector = plan.vector & (additional ? NA_VECTOR_ADDITIONAL : NA_VECTOR_VALUE);
      load_rows(key_memory, plan.row_stride[0], (const T*)kt.data + tile.place.batch * kt.batch + tile.head * kt.head,
                row.key, p.channels, plan.d16, plan.d_pieces_log2, key_vector);
      load_rows(value_memory, plan.row_stride[1], (const T*)vt.data + tile.place.batch * vt.batch + tile.head * vt.head,
                row.value, p.value_channels, plan.e16, plan.e_pieces_log2, value_vector);
      commit_copies();
      unsigned packed[2];
      int row_bias[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        packed[r] = __shfl_sync(kAllLanes, row.packed, g + 8 * r);
        row_bias[r] = __shfl_sync(kAllLanes, row.bias, g + 8 * r);
      }
      Rows<T, kWidest> keys, values;
      keys.shared = key_memory, keys.stride = plan.row_stride[0];
      values.shared = value_memory, values.stride = plan.row_stride[1];
      float d_key[kOut / 8][4], d_value[kOut / 8][4];
#pragma unroll
      for (int c = 0; c < kOut / 8; ++c)
#pragma unroll
        for (int i = 0; i < 4; ++i) d_key[c][i] = d_value[c][i] = 0.f;

      for (int step = 0; step < steps; ++step) {
        int stage = await(plan, step, steps, first_time, fetch);
        if (careful && first_time) {
          int count = min(plan.columns, tile.queries - step % chunks * plan.columns);
          int4* windows = QueryTable(memory, plan, stage * width).windows;
          auto mark = [&](int i) { windows[i].w = kSpoilt; };
          clear_spoilt(queries + stage * width * plan.d_stride, plan.d_stride, count, plan.d16, plan.d_pieces_log2, mark);
          clear_spoilt(d_outs + stage * width * plan.e_stride, plan.e_stride, count, plan.e16, plan.e_pieces_log2, mark);
          __syncthreads();
        }
        if (step == 0) {
          keys.keep(plan.d16);
          values.keep(plan.e16);
        }
        int head = tile.head * group + step / chunks, begin = step % chunks * plan.columns;
        QueryTable table(memory, plan, stage * width);
        const float* bias = p.bias && !additional ? p.bias + (long long)head * plan.bins : nullptr;
        int from = max(row.first, begin), to = min(row.end, min(begin + plan.columns, tile.queries));
        for (int n = from & (plan.slack ? ~1 : ~15); n < to; n += kAtOnce) {
          int at = n - begin, left = to - n, tiles = min((left + 15) / 16, kBlocks / 2);
          const T* query = queries + (stage * width + at) * plan.d_stride;
          const T* d_out = d_outs + (stage * width + at) * plan.e_stride;
          float s[kBlocks][4], d_s[kBlocks][4];
          product<T, kWidest, kBlocks>(s, keys, query, plan.d_stride, plan.d16, tiles);
          product<T, kWidest, kBlocks>(d_s, values, d_out, plan.e_stride, plan.e16, tiles);
          score_queries<T>(s, d_s, table, at, packed, row_bias, bias, p.scale * kUnit<T>, plan.guard, left);
          if (careful) spoil_queries(s, d_s, table.windows + at, left, packed, plan.guard);
          if constexpr (!kTensorCores<T>) spread(s, scratch);
          accumulate<T>(d_value, s, scratch, d_out + slice, plan.e_stride, plan.e16 - slice, tiles);
          if constexpr (!kTensorCores<T>) spread(d_s, scratch);
          accumulate<T>(d_key, d_s, scratch, query + slice, plan.d_stride, plan.d16 - slice, tiles);
        }
        if (steps > 1) __syncthreads();
      }

      broken |= is_spoilt(d_key) || is_spoilt(d_value);
      int d_channels = min(p.channels - slice, kOut), e_channels = min(p.value_channels - slice, kOut);
      if (additional) {
        long long tokens = (long long)p.batch * p.additional * p.kv_heads;  // rows of one slot, (B, M, G)
        long long at = (long long)tile.place.batch * p.additional * p.kv_heads + tile.head;
        int slot = tile.place.tile[0];
        float* partial = (float*)(p.workspace + plan.extra_at);
        float* value_partial = partial + plan.slots * tokens * p.channels;
        store_partial(d_key, p.scale, partial + (slot * tokens + at) * p.channels + slice, p.kv_heads * p.channels,
                      tile.first[2] + block * 16, p.additional, d_channels);
        store_partial(d_value, 1.f, value_partial + (slot * tokens + at) * p.value_channels + slice,
                      p.kv_heads * p.value_channels, tile.first[2] + block * 16, p.additional, e_channels);
        continue;
      }
      long long at = tile.place.batch;
      int most = kOut / kPiece<T>, pieces = 0;
      while ((1 << pieces) < most) ++pieces;
      store_rows<T>(d_key, p.scale, p.scale, key_memory, plan.row_stride[0],
                    (T*)p.d_key.data + at * p.d_key.batch + tile.head * p.d_key.head + slice,
                    row.token < 0 ? -1 : (long long)row.token * p.kv_heads * p.channels, d_channels,
                    min(plan.d_pieces_log2, pieces), plan.vector & NA_VECTOR_D_KEY);
      store_rows<T>(d_value, 1.f, 1.f, value_memory, plan.row_stride[1],
                    (T*)p.d_value.data + at * p.d_value.batch + tile.head * p.d_value.head + slice,
                    row.token < 0 ? -1 : (long long)row.token * p.kv_heads * p.value_channels, e_channels,
                    min(plan.e_pieces_log2, pieces), plan.vector & NA_VECTOR_D_VALUE);
    }
    if (careful || !any_thread(broken)) break;
  }
}
