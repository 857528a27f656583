// Tiles whose rows are queries and whose columns are keys: the forward, and the gradient of the queries.
#pragma once
#include "tiles.cuh"

// A tile of queries in its dilation group, and the box of keys that they see together. Lies in shared memory: registers
// are short.
struct QueryTile {
  Place place;
  bool empty;
  int head, first[3], rows[3];  // queries: first place and number an axis
  int length[3];                // of the dilation group
  int low[3], extent[3];        // keys
  int keys, extra_at, columns;  // additional tokens are columns [extra_at, columns)
};

NA_DEVICE void locate_one(const NaProblem& p, const NaPlan& plan, unsigned item, int head, QueryTile& tile) {
  tile.place = place_of(p, plan.tiles, item);
  tile.head = head;
  tile.keys = 1;
  tile.empty = false;
#pragma unroll
  for (int i = 0; i < 3; ++i) {
    Axis axis = axis_of(p, i, tile.place.group[i]);
    tile.length[i] = axis.n;
    tile.first[i] = tile.place.tile[i] * plan.tile[i];
    tile.rows[i] = min(plan.tile[i], axis.n - tile.first[i]);
    if (tile.rows[i] <= 0) {  // of a dilation group that is shorter than the longest
      tile.empty = true;
      return;
    }
    tile.low[i] = axis.first_key(tile.first[i]);
    tile.extent[i] = axis.end_key(tile.first[i] + tile.rows[i] - 1) - tile.low[i];
    tile.keys *= tile.extent[i];
  }
  tile.extra_at = p.additional ? (tile.keys + 15) & ~15 : tile.keys;
  tile.columns = tile.extra_at + p.additional;
}

static_assert(sizeof(QueryTile) <= kTileBytes);

// One thread fills `tile` in; it is there for all when this returns.
NA_DEVICE void locate(const NaProblem& p, const NaPlan& plan, unsigned item, int head, QueryTile& tile) {
  if (threadIdx.x == 0) locate_one(p, plan, item, head, tile);
  __syncthreads();
}

// Column i of a chunk: packed coordinates, index into the bias table but for the query's share, offsets in key and value.
NA_DEVICE void describe_keys(int4* table, const NaProblem& p, const NaPlan& plan, const QueryTile& tile, int chunk) {
  for (int i = threadIdx.x; i < plan.columns + plan.slack; i += blockDim.x) {
    int n = chunk * plan.columns + i;
    int4 entry = {(int)(plan.guard | unseen_low(plan.guard, plan.shift)), 0, -1, -1};
    if (i < plan.columns && n < tile.keys) {
      unsigned rest = n, packed = plan.guard;
      int bias = 0, key = 0, value = 0;
#pragma unroll
      for (int a = 2; a >= 0; --a) {
        if (p.length[a] == 1) continue;
        int c = a ? rest % (unsigned)tile.extent[a] : rest;
        rest = a ? rest / (unsigned)tile.extent[a] : 0;
        packed += (unsigned)c << plan.shift[a];
        bias += c * plan.bias_stride[a];
        int token = tile.place.group[a] + p.dilation[a] * (tile.low[a] + c);
        key += token * (int)p.key.axis[a];
        value += token * (int)p.value.axis[a];
      }
      entry = {(int)packed, bias, key, value};
    } else if (i < plan.columns && n >= tile.extra_at && n < tile.columns) {
      int m = n - tile.extra_at;
      entry.z = m * (int)p.additional_keys.axis[2];
      entry.w = m * (int)p.additional_values.axis[2];
    }
    table[i] = entry;
  }
}

// Begin to copy keys and values of a chunk; its table has to be there.
template <typename T>
NA_DEVICE void load_keys(T* keys, T* values, const int4* table, const NaProblem& p, const NaPlan& plan,
                         const QueryTile& tile, int chunk) {
  int first = chunk * plan.columns, kv_head = tile.head / (p.heads / p.kv_heads);
  int count = min(plan.columns, (tile.columns - first + 15) & ~15) + plan.slack;
  int inside = min(max(tile.extra_at - first, 0), count);  // columns before the additional tokens
  bool only_inside = inside == count || p.additional == 0;
  const T* key = (const T*)p.key.data + tile.place.batch * p.key.batch + kv_head * p.key.head;
  const T* value = (const T*)p.value.data + tile.place.batch * p.value.batch + kv_head * p.value.head;
  if (only_inside) inside = count;
  load_columns(keys, plan.d_stride, inside, key, p.channels, plan.d16, plan.d_pieces_log2,
               plan.vector & NA_VECTOR_KEY, [&](int i) { return (long long)table[i].z; });
  load_columns(values, plan.e_stride, inside, value, p.value_channels, plan.e16, plan.e_pieces_log2,
               plan.vector & NA_VECTOR_VALUE, [&](int i) { return (long long)table[i].w; });
  if (only_inside) return;
  const NaTensor &ak = p.additional_keys, &av = p.additional_values;
  key = (const T*)ak.data + tile.place.batch * ak.batch + kv_head * ak.head;
  value = (const T*)av.data + tile.place.batch * av.batch + kv_head * av.head;
  load_columns(keys + inside * plan.d_stride, plan.d_stride, count - inside, key, p.channels, plan.d16,
               plan.d_pieces_log2, plan.vector & NA_VECTOR_ADDITIONAL,
               [&](int i) { return (long long)table[inside + i].z; });
  load_columns(values + inside * plan.e_stride, plan.e_stride, count - inside, value, p.value_channels, plan.e16,
               plan.e_pieces_log2, plan.vector & NA_VECTOR_ADDITIONAL,
               [&](int i) { return (long long)table[inside + i].w; });
}

// Describe a chunk's columns, and begin to copy them to a stage.
template <typename T>
NA_DEVICE void fetch_keys(int4* table, T* keys, T* values, const NaProblem& p, const NaPlan& plan,
                          const QueryTile& tile, int chunk, int stage) {
  int at = stage * (plan.columns + plan.slack);
  describe_keys(table + at, p, plan, tile, chunk);
  __syncthreads();
  load_keys(keys + at * plan.d_stride, values + at * plan.e_stride, table + at, p, plan, tile, chunk);
  commit_copies();
}

// A warp's 16 queries; lane r and lane r + 16 describe row r.
struct QueryRows {
  int token;               // place in the map, -1: no such row
  int place[3];            // the same an axis
  unsigned low, high;      // bounds of `is_seen`
  int bias;                // to subtract from a key's index
  int first, end;          // columns that the warp's rows see lie in [first, end)
};

NA_DEVICE QueryRows describe_rows(const NaProblem& p, const NaPlan& plan, const QueryTile& tile, int block) {
  QueryRows rows;
  unsigned r = block * 16 + (threadIdx.x & 15), count = tile.rows[0] * tile.rows[1] * tile.rows[2];
  bool valid = r < count;
  rows.low = 0, rows.high = 2 * plan.guard, rows.bias = 0;
  int first[3] = {0, 0, 0}, last[3] = {0, 0, 0};
#pragma unroll
  for (int a = 2; a >= 0; --a) {
    rows.place[a] = 0;
    if (p.length[a] == 1) continue;
    Axis axis = {tile.length[a], p.kernel[a], p.stride[a], p.causal[a]};
    int q = tile.first[a] + (a ? r % (unsigned)tile.rows[a] : valid ? r : 0);
    r = a ? r / (unsigned)tile.rows[a] : 0;
    int low = axis.first_key(q) - tile.low[a], high = axis.end_key(q) - 1 - tile.low[a];
    rows.low += (unsigned)low << plan.shift[a];
    rows.high += (unsigned)high << plan.shift[a];
    rows.bias += (q - tile.low[a] - (axis.kernel - 1)) * plan.bias_stride[a];
    rows.place[a] = tile.place.group[a] + p.dilation[a] * q;
    first[a] = warp_min(valid ? low : 0x7fffffff);
    last[a] = warp_max(valid ? high : -1);
  }
  rows.token = (rows.place[0] * p.length[1] + rows.place[1]) * p.length[2] + rows.place[2];
  if (!valid) rows.token = -1, rows.low = unseen_low(plan.guard, plan.shift), rows.high = 2 * plan.guard;
  rows.first = rows.end = 0;
  if (block * 16 < (int)count) {  // there is a row
    rows.first = (first[0] * tile.extent[1] + first[1]) * tile.extent[2] + first[2];
    rows.end = (last[0] * tile.extent[1] + last[1]) * tile.extent[2] + last[2] + 1;
  }
  return rows;
}

// Where a row lies in a tensor, from its sample and head on; -1 for no such row.
NA_DEVICE long long offset_of(const NaTensor& tensor, const QueryRows& rows) {
  if (rows.token < 0) return -1;
  return rows.place[0] * tensor.axis[0] + rows.place[1] * tensor.axis[1] + rows.place[2] * tensor.axis[2];
}
NA_DEVICE long long offset_of_token(int token, int elements) {  // in contiguous tensors
  return token < 0 ? -1 : (long long)token * elements;
}

// What a lane needs of its two rows, g and g + 8.
struct RowBounds {
  unsigned low[2], high[2];
  int bias[2];
};

NA_DEVICE RowBounds bounds_of(const QueryRows& rows) {
  RowBounds bounds;
  int g = (threadIdx.x & 31) >> 2;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    bounds.low[i] = __shfl_sync(kAllLanes, rows.low, g + 8 * i);
    bounds.high[i] = __shfl_sync(kAllLanes, rows.high, g + 8 * i);
    bounds.bias[i] = __shfl_sync(kAllLanes, rows.bias, g + 8 * i);
  }
  return bounds;
}

// The bias table of one head in shared memory, where it fits.
struct Bias {
  const float* shared;
  const float* global;
};

NA_DEVICE Bias load_bias(const NaProblem& p, const NaPlan& plan, unsigned char* memory, int head) {
  Bias bias = {nullptr, nullptr};
  if (!p.bias) return bias;
  bias.global = p.bias + (long long)head * plan.bins;
  if (plan.bias_at >= 0) {
    float* shared = (float*)(memory + plan.bias_at);
    for (int i = threadIdx.x; i < plan.bins; i += blockDim.x) shared[i] = read_only(bias.global + i);
    bias.shared = shared;
  }
  return bias;
}

// Products of queries and keys into scores in units of kUnit, minus infinity where a key is not seen. `table` begins with
// the first column; `left` columns count; `extra`: additional tokens, seen by all rows. One copy of the loops for each
// kind of bias, without a branch inside: a masked score reads entry 0 of the table.
enum NaBias { NA_NO_BIAS, NA_BIAS_SHARED, NA_BIAS_GLOBAL, NA_EXTRA };

template <typename T, NaBias kBias, int kBlocks>
NA_DEVICE void score_keys_with(float (&s)[kBlocks][4], const int4* table, const RowBounds& rows, const float* bias,
                               float factor, unsigned guard, int left) {
  int t = threadIdx.x & 3;
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    if (8 * (j & ~1) >= left) {
#pragma unroll
      for (int i = 0; i < 4; ++i) s[j][i] = -INFINITY;
      continue;
    }
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      int column = 8 * j + 2 * t + c;
      int2 entry = *(const int2*)(table + column);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        float x = s[j][2 * r + c] * factor;
        bool seen = kBias == NA_EXTRA ? column < left : is_seen((unsigned)entry.x, rows.low[r], rows.high[r], guard);
        int at = seen ? entry.y - rows.bias[r] : 0;
        if constexpr (kBias == NA_BIAS_SHARED) x = fmaf(bias[at], kUnit<T>, x);
        if constexpr (kBias == NA_BIAS_GLOBAL) x = fmaf(read_only(bias + at), kUnit<T>, x);
        s[j][2 * r + c] = seen ? x : -INFINITY;
      }
    }
  }
}

template <typename T, int kBlocks>
NA_DEVICE void score_keys(float (&s)[kBlocks][4], const int4* table, const RowBounds& rows, const Bias& bias, float factor,
                          unsigned guard, bool extra, int left) {
  if (extra) score_keys_with<T, NA_EXTRA>(s, table, rows, nullptr, factor, guard, left);
  else if (bias.shared) score_keys_with<T, NA_BIAS_SHARED>(s, table, rows, bias.shared, factor, guard, left);
  else if (bias.global) score_keys_with<T, NA_BIAS_GLOBAL>(s, table, rows, bias.global, factor, guard, left);
  else score_keys_with<T, NA_NO_BIAS>(s, table, rows, nullptr, factor, guard, left);
}

// Scores that see a column which clear_spoilt marked become NaN.
template <int kBlocks>
NA_DEVICE void spoil_keys(float (&s)[kBlocks][4], const int4* table, int left) {
#pragma unroll
  for (int j = 0; j < kBlocks; ++j) {
    if (8 * (j & ~1) >= left) break;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      bool spoilt = table[8 * j + 2 * (threadIdx.x & 3) + i % 2].w == kSpoilt;
      if (spoilt && s[j][i] != -INFINITY) s[j][i] = NAN;
    }
  }
}
