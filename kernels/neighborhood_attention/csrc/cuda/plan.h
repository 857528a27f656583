// Chosen on the host for one launch: the tile of a CTA, how many columns it holds at a time, its shared memory.
//
// All kernels are alike: the rows of a tile stay (queries in the forward and for dQ, keys for dK and dV), 16 to a warp,
// and the columns that they meet (keys, or queries) pass by in chunks. The columns are those of a box in the dilation
// group, in row-major order, then the additional tokens from the next multiple of 16 on.
#pragma once
#include "problem.h"

enum NaKind { NA_FORWARD, NA_QUERY_GRADIENT, NA_KEY_GRADIENT, NA_ADDITIONAL_GRADIENT };

enum NaVector {  // tensors that can be moved 16 bytes at a time
  NA_VECTOR_QUERY = 1, NA_VECTOR_KEY = 2, NA_VECTOR_VALUE = 4, NA_VECTOR_OUT = 8, NA_VECTOR_D_OUT = 16,
  NA_VECTOR_ADDITIONAL = 32, NA_VECTOR_D_QUERY = 64, NA_VECTOR_D_KEY = 128, NA_VECTOR_D_VALUE = 256,
};

constexpr int kSlack = 16;            // columns of zeros behind a chunk: a warp reads 16 at a time from any even one
constexpr int kSliceChannels = 128;   // channels of dK and dV that a CTA makes
constexpr int kTileBytes = 128;       // at the start of shared memory: where the tile is
constexpr int kTargetShared = 100 * 1024;  // two CTAs a processor where that is possible
constexpr int kMaxBiasBytes = 16 * 1024, kMaxBinBytes = 32 * 1024;

// Columns that a warp takes at once. A constant of the kernels, by their widest head.
constexpr int columns_at_once(bool tensor_cores, int widest, bool forward) {
  if (!tensor_cores) return widest <= 128 ? 32 : 16;
  return forward && widest <= 64 ? 64 : 32;
}

constexpr int kThreads = 128;  // at most; four warps

// CTAs that have to fit on a processor: how many registers the kernels may use.
constexpr int resident(bool tensor_cores, int widest, bool forward) {
  if (forward) return widest <= 32 ? 4 : widest <= 64 ? 3 : 2;
  return tensor_cores && widest <= 32 ? 3 : 2;
}

struct NaPlan {
  int tile[3], tiles[3];                // rows of a CTA an axis; CTAs an axis (of the longest dilation group)
  int shift[3];                         // where the axes stand in packed coordinates
  unsigned guard;                       // their spare bits
  int bias_stride[3], bins;             // of the bias table of one head
  int warps, columns, stages, slices;   // columns: of one chunk, a multiple of 16; stages: chunks in shared memory
  int slack;                            // kSlack; 0: warps begin at multiples of 16
  int slots, row_tiles;                 // slots: CTAs that share the items of one head; row_tiles: of additional tokens
  int d16, e16, d_stride, e_stride;     // channels, padded to 16; elements from column to column
  int d_pieces_log2, e_pieces_log2;     // 16-byte pieces of a row, rounded up to a power of two
  int row_stride[2];                    // elements from row to row of the two row operands
  unsigned vector;                      // of NaVector
  int bias_at, table_at, first_at, second_at, rows_at, scratch_at, bins_at;  // -1: not in shared memory
  int shared_bytes;
  long long items, ctas;
  long long partials_at, extra_at;      // in the workspace, which begins with delta
};

inline int na_min(int a, int b) { return a < b ? a : b; }
inline int na_max(int a, int b) { return a > b ? a : b; }
inline int na_round_up(int n, int to) { return (n + to - 1) / to * to; }
inline int na_log2_up(int n) {
  int bits = 0;
  while ((1 << bits) < n) ++bits;
  return bits;
}
inline int na_element(const NaProblem& p) { return p.dtype == NA_FLOAT32 ? 4 : 2; }
inline int na_widest(const NaProblem& p) {  // the widths that kernels are compiled for
  int widest = na_max(p.channels, p.value_channels);
  return widest <= 32 ? 32 : widest <= 64 ? 64 : widest <= 128 ? 128 : 256;
}
inline int na_longest(const NaProblem& p, int i) { return (p.length[i] + p.dilation[i] - 1) / p.dilation[i]; }
inline long long na_tokens(const NaProblem& p) { return (long long)p.length[0] * p.length[1] * p.length[2]; }

inline bool na_is_vector(const NaProblem& p, const NaTensor& t, int channels) {
  long long bytes = na_element(p), all = channels | t.batch | t.head | t.axis[0] | t.axis[1] | t.axis[2];
  return all * bytes % 16 == 0 && ((unsigned long long)t.data & 15) == 0;
}

// Offsets inside one sample and head are 32-bit.
inline bool na_is_near(const NaProblem& p, const NaTensor& t) {
  long long last = 0;
  for (int i = 0; i < 3; ++i) last += (long long)(p.length[i] - 1) * t.axis[i];
  return last + 4096 < 0x7fffffffLL;
}

// Most columns that a tile of `rows` rows meets on axis i.
inline int na_extent(const NaProblem& p, NaKind kind, int i, int rows) {
  int k = p.kernel[i], s = p.stride[i], n = na_longest(p, i);
  long long extent;
  if (kind == NA_KEY_GRADIENT) extent = (long long)rows + k + (k + 1) / 2 + 2 * s;
  else extent = (long long)k + (long long)(rows - 1 + s - 1) / s * s;
  return extent < n ? (int)extent : n;
}

// The same for the tiles of keys that there are, exactly where that is cheap: by the inverse neighborhood in closed form.
inline int na_queries(const NaProblem& p, int i, int rows) {
  int k = p.kernel[i], longest = na_longest(p, i), most = 0;
  if (p.stride[i] > 1 || p.causal[i] || longest > 64 * rows) return na_extent(p, NA_KEY_GRADIENT, i, rows);
  for (int n = longest; n >= na_max(1, longest - 1) && n >= k; --n)
    for (int first = 0; first < n; first += rows) {
      int last = na_min(first + rows, n) - 1;
      int low = first < k ? 0 : first - k + 1 + k / 2, high = last >= n - k ? n - 1 : last + k / 2;
      most = na_max(most, high - low + 1);
    }
  return most;
}

// Bytes of shared memory for `columns` a chunk; fills the places in.
inline int na_lay_out(const NaProblem& p, NaKind kind, NaPlan& plan) {
  int element = na_element(p), at = kTileBytes, columns = (plan.columns + plan.slack) * plan.stages;
  bool forward = kind == NA_FORWARD, rows_are_keys = kind == NA_KEY_GRADIENT || kind == NA_ADDITIONAL_GRADIENT;
  int at_once = columns_at_once(element == 2, na_widest(p), forward);
  auto take = [&](long long bytes) {
    int here = at;
    long long next = (here + bytes + 127) / 128 * 128;
    at = next > 0x3fffffff ? 0x3fffffff : (int)next;
    return here;
  };
  plan.bias_at = p.bias && kind != NA_ADDITIONAL_GRADIENT && plan.bins * 4 <= kMaxBiasBytes ? take(plan.bins * 4LL) : -1;
  plan.table_at = take((rows_are_keys ? 32LL : 16LL) * columns);
  plan.first_at = take((long long)columns * plan.d_stride * element);
  plan.second_at = take((long long)columns * plan.e_stride * element);
  // The output is put together in the rows' place. Elements are 2 or 4 bytes and the stride is a multiple of 16 bytes.
  plan.row_stride[0] = forward ? na_max(plan.d_stride, plan.e_stride) : plan.d_stride;
  plan.row_stride[1] = forward ? 0 : plan.e_stride;
  plan.rows_at = take(16LL * plan.warps * (plan.row_stride[0] + plan.row_stride[1]) * element);
  bool bins = kind == NA_QUERY_GRADIENT && p.d_bias;
  plan.scratch_at = element == 4 || bins ? take(16LL * plan.warps * (at_once + 4) * 4) : -1;
  plan.bins_at = bins && (long long)plan.bins * plan.warps * 4 <= kMaxBinBytes ? take((long long)plan.bins * plan.warps * 4) : -1;
  return plan.shared_bytes = at;
}

// One chunk for all columns if they fit, else two in turn, else one. False: not even that fits.
inline bool na_fit(const NaProblem& p, NaKind kind, NaPlan& plan, long long columns, bool only_whole) {
  int target = na_min(p.shared_limit, kTargetShared);
  int at_once = columns_at_once(na_element(p) == 2, na_widest(p), kind == NA_FORWARD);
  plan.slack = kSlack;
  if (columns <= 1 << 16) {
    plan.stages = 1, plan.columns = na_round_up((int)columns, 16);
    if (na_lay_out(p, kind, plan) <= target) return true;
  }
  if (only_whole) return false;
  for (plan.stages = 2; plan.stages >= 1; --plan.stages)
    for (plan.columns = na_max(at_once, plan.stages == 2 ? 128 : at_once); plan.columns >= at_once; plan.columns -= 16)
      if (na_lay_out(p, kind, plan) <= target) return true;
  plan.stages = 1, plan.columns = at_once;
  if (na_lay_out(p, kind, plan) <= p.shared_limit) return true;
  plan.slack = 0;
  return na_lay_out(p, kind, plan) <= p.shared_limit;
}

// Cost of a tile, in columns a warp multiplies with; a column loaded costs about twice that (model, no measurement).
inline double na_cost(const NaProblem& p, NaKind kind, const int (&tile)[3]) {
  double tiles = 1, loaded = 1, extent[3];
  int rows = 1;
  for (int i = 0; i < 3; ++i) {
    int n = na_longest(p, i);
    tiles *= (n + tile[i] - 1) / tile[i];
    rows *= tile[i];
    long long reach = kind == NA_KEY_GRADIENT ? tile[i] + p.kernel[i] - 1 : na_extent(p, kind, i, tile[i]);
    loaded *= extent[i] = reach < n ? (double)reach : n;
  }
  int inner = tile[1] * tile[2];
  auto span = [&](int i, int wide) { return (double)na_min(na_longest(p, i), wide + p.kernel[i] - 1); };
  double met;
  if (inner < 16) met = span(0, (16 + inner - 1) / inner) * extent[1] * extent[2];
  else if (tile[2] < 16) met = (span(0, 1) - 1) * extent[1] * extent[2] + span(1, (16 + tile[2] - 1) / tile[2]) * extent[2];
  else met = (span(0, 1) - 1) * extent[1] * extent[2] + (span(1, 1) - 1) * extent[2] + span(2, 16);
  return tiles * (2 * loaded + (rows + 15) / 16 * (met < loaded ? met : loaded));
}

// Bits of every axis, its spare bit included. False: the box is too large for one word.
inline bool na_pack(NaPlan& plan, const int (&largest)[3]) {  // largest value of each field
  int at = 0;
  plan.guard = 0;
  for (int i = 2; i >= 0; --i) {
    int bits = 1;
    while (bits < 31 && (1LL << bits) - 1 <= largest[i]) ++bits;  // all ones is larger than any: never seen
    plan.shift[i] = at;
    at += bits + 1;
    if (at > 32) return false;
    plan.guard |= 1u << (at - 1);
  }
  return true;
}

// The plan of one kernel; false where it cannot be served.
inline bool na_plan(const NaProblem& p, NaKind kind, NaPlan& plan) {
  int element = na_element(p), wide = 16 / element;
  bool mine = kind == NA_FORWARD || kind == NA_QUERY_GRADIENT;  // rows are queries
  plan.d16 = na_round_up(p.channels, 16), plan.e16 = na_round_up(p.value_channels, 16);
  plan.d_stride = plan.d16 + wide, plan.e_stride = plan.e16 + wide;  // an odd number of 16 bytes: no bank conflicts
  plan.d_pieces_log2 = na_log2_up(plan.d16 / wide), plan.e_pieces_log2 = na_log2_up(plan.e16 / wide);
  plan.bins = 1;
  for (int i = 2; i >= 0; --i) {
    plan.bias_stride[i] = plan.bins;
    plan.bins *= 2 * p.kernel[i] - 1;
  }
  plan.vector = 0;
  auto test = [&](const NaTensor& t, int channels, unsigned bit) {
    if (t.data && na_is_vector(p, t, channels)) plan.vector |= bit;
  };
  int d = p.channels, e = p.value_channels;
  test(p.query, d, NA_VECTOR_QUERY), test(p.key, d, NA_VECTOR_KEY), test(p.value, e, NA_VECTOR_VALUE);
  test(p.out, e, NA_VECTOR_OUT), test(p.d_out, e, NA_VECTOR_D_OUT), test(p.d_query, d, NA_VECTOR_D_QUERY);
  test(p.d_key, d, NA_VECTOR_D_KEY), test(p.d_value, e, NA_VECTOR_D_VALUE);
  if (p.additional && na_is_vector(p, p.additional_keys, d) && na_is_vector(p, p.additional_values, e))
    plan.vector |= NA_VECTOR_ADDITIONAL;
  const NaTensor* far[] = {&p.query, &p.key, &p.value, &p.out, &p.d_out, &p.d_query, &p.d_key, &p.d_value};
  for (const NaTensor* t : far)
    if (t->data && !na_is_near(p, *t)) return false;

  int n[3], groups = 1, extra = mine ? p.additional : 0, heads_a_row = mine ? 1 : p.heads / p.kv_heads;
  long long tokens = 1;
  for (int i = 0; i < 3; ++i) {
    n[i] = na_longest(p, i);
    tokens *= n[i];
    groups *= p.dilation[i];
  }
  long long grid = (long long)p.batch * groups * (mine ? p.heads : p.kv_heads);
  plan.slices = mine ? 1 : (na_max(d, e) + kSliceChannels - 1) / kSliceChannels;
  plan.slots = plan.row_tiles = 1;

  if (kind == NA_ADDITIONAL_GRADIENT) {
    plan.warps = na_min(4, (p.additional + 15) / 16);
    for (; plan.warps >= 1; plan.warps /= 2)
      if (na_fit(p, kind, plan, 1LL << 40, false)) break;
    if (plan.warps < 1) return false;
    plan.row_tiles = (p.additional + 16 * plan.warps - 1) / (16 * plan.warps);
    plan.tile[0] = plan.tile[1] = plan.tile[2] = plan.tiles[0] = plan.tiles[1] = plan.tiles[2] = 1;
    int one[3] = {1, 1, 1};
    na_pack(plan, one);
    long long ctas = (long long)p.batch * p.kv_heads * plan.row_tiles * plan.slices;
    long long wanted = (2LL * p.processors + ctas - 1) / ctas;
    // Partial sums stay below a sixteenth of the queries, and a slot has at least a few chunks of work.
    long long most = na_min(64, (int)(na_tokens(p) * heads_a_row / (16LL * p.additional + 1) + 1));
    plan.slots = (int)(wanted < most ? wanted : most);
    plan.items = (long long)p.batch * p.kv_heads * plan.row_tiles * plan.slots;
    plan.ctas = plan.items * plan.slices;
    return plan.ctas < 0x7fffffffLL;
  }

  // The whole dilation group in one CTA: no halo. Only where that leaves CTAs enough, or the tile is small anyway.
  bool whole = false;
  if (heads_a_row == 1 && tokens <= 1024 && (tokens <= 64 || grid >= 2LL * p.processors)) {
    for (int i = 0; i < 3; ++i) plan.tile[i] = n[i];
    plan.warps = na_min(4, (int)(tokens + 15) / 16);
    whole = na_fit(p, kind, plan, na_round_up((int)tokens, 16) + extra, true);
  }
  if (!whole) {
    for (plan.warps = 4; plan.warps >= 1; plan.warps /= 2) {
      int rows = 16 * plan.warps, tile[3];
      double best = -1;
      for (int a = 1;; a *= 2) {  // powers of two, cut to the axis
        for (int b = 1; a * b <= rows; b *= 2) {
          int c = rows / (a * b);
          tile[0] = na_min(a, n[0]), tile[1] = na_min(b, n[1]), tile[2] = na_min(c, n[2]);
          double cost = na_cost(p, kind, tile);
          if (best < 0 || cost < best) {
            best = cost;
            for (int i = 0; i < 3; ++i) plan.tile[i] = tile[i];
          }
        }
        if (a >= rows) break;
      }
      double columns = 1;
      for (int i = 0; i < 3; ++i) columns *= mine ? na_extent(p, kind, i, plan.tile[i]) : na_queries(p, i, plan.tile[i]);
      if (extra) columns += 15 + extra;
      if (heads_a_row > 1) columns = 1e12;  // they pass by once a query head: no use in holding all of them
      if (na_fit(p, kind, plan, columns < 1e12 ? (long long)columns : 1LL << 40, false)) break;
    }
    if (plan.warps < 1) return false;
  }
  int largest[3];
  for (int i = 0; i < 3; ++i) {
    largest[i] = mine ? na_extent(p, kind, i, plan.tile[i]) : plan.tile[i] + 1;
    plan.tiles[i] = (n[i] + plan.tile[i] - 1) / plan.tile[i];
  }
  if (!na_pack(plan, largest)) return false;
  plan.items = (long long)p.batch * groups * plan.tiles[0] * plan.tiles[1] * plan.tiles[2];
  long long slots = plan.items;
  if (kind == NA_QUERY_GRADIENT && p.d_bias) {
    // Partial sums of the bias' gradient, one a slot, stay below a twentieth of queries, keys and values.
    int copies = plan.bins_at < 0 ? plan.warps : 1;
    long long tensors = (long long)p.batch * na_tokens(p) * p.heads * (2 * d + e) * element;
    long long most = tensors / 20 / ((long long)p.heads * plan.bins * 4 * copies), cap = 16LL * p.processors / p.heads + 1;
    most = most < 1 ? 1 : most < cap ? most : cap;
    slots = slots < most ? slots : most;
  }
  plan.slots = slots < 0x7fffffffLL ? (int)slots : 0x7fffffff;
  plan.ctas = (long long)plan.slots * (mine ? p.heads : p.kv_heads) * plan.slices;
  return plan.items < 0x7fffffffLL && plan.ctas < 0x7fffffffLL;
}
