// Where regions and their tokens are, and how keys and values of the chosen regions come into scratch memory.
#pragma once
#include "problem.h"

using bestiary::routing::Problem;
using bestiary::routing::View;

// Keys and values of one head that are chosen more than once are packed whole where they take no more bytes than this.
constexpr int64_t kHeldBytes = 8 << 20;
// Bytes of scores that are worked on together.
constexpr int64_t kScoreBytes = 128 << 10;
constexpr int64_t kMaxQueries = 64;

// What is computed: the forward pass or all gradients, those of the queries, or those of the keys, of which one region is
// taken at a time.
enum Pass : int { kAll, kQueriesAlone, kKeysAlone };

// Sizes that depend on the problem and the pass alone.
struct Sizes {
  int64_t regions, tokens, keys;  // R T U
  int64_t d, e;                   // channels, padded to whole vectors
  int64_t all;                    // keys that a query sees, at most
  int64_t step;                   // floats from a row of scores, or of transposed keys, to the next
  int64_t queries;                // worked on together
  bool held;                      // keys and values of a head are packed once

  Pass pass;

  explicit Sizes(const Problem& p, Pass which = kAll) : pass(which) {
    regions = p.regions(), tokens = p.tokens(), keys = p.keys();
    d = padded(p.channels), e = padded(p.value_channels);
    all = p.topk * keys;
    step = transposed_stride(all);
    const int64_t fit = most(kScoreBytes / (step * static_cast<int64_t>(sizeof(float))), 8);
    queries = Cut(tokens, least(kMaxQueries, fit))(0);
    if (pass == kKeysAlone) all = keys, step = transposed_stride(all);  // the queries are the same in all passes
    held = pass != kKeysAlone && p.topk > 1 && regions * keys * (d + e) * static_cast<int64_t>(sizeof(float)) <= kHeldBytes;
  }
};

// The first element of the token at a place of a region with sides `side`.
template <class T>
static ALWAYS_INLINE T* token_at(const Problem& p, const View& view, const int64_t* side, int64_t batch, int64_t head,
                                 int64_t region, int64_t y, int64_t x) {
  const int64_t row = region / p.grid[1] * side[0] + y, column = region % p.grid[1] * side[1] + x;
  return static_cast<T*>(view.data) + batch * view.batch + row * view.row + column * view.column + head * view.head;
}

// body(first token of a run, its number in the region, tokens of the run) for the rows of tokens `first` to `last` - 1.
template <class Body>
static ALWAYS_INLINE void for_runs(const int64_t* side, int64_t first, int64_t last, Body&& body) {
  int64_t y = first / side[1], x = first - y * side[1];
  for (int64_t t = first; t < last; ++y, x = 0) {
    const int64_t count = least(side[1] - x, last - t);
    body(y, x, t - first, count);
    t += count;
  }
}

// Tokens `first` to `last` - 1 of a region, each number times `factor`, to (tokens, padded channels).
template <class T>
static void pack_tokens(const Problem& p, const View& view, const int64_t* side, int64_t batch, int64_t head,
                        int64_t region, int64_t first, int64_t last, int64_t channels, float factor, float* to) {
  for_runs(side, first, last, [&](int64_t y, int64_t x, int64_t at, int64_t count) {
    pack_rows(token_at<const T>(p, view, side, batch, head, region, y, x), view.column, count, channels, factor,
              to + at * padded(channels));
  });
}

// The same back.
template <class T>
static void unpack_tokens(const Problem& p, const View& view, const int64_t* side, int64_t batch, int64_t head,
                          int64_t region, int64_t first, int64_t last, int64_t channels, float factor,
                          const float* from) {
  for_runs(side, first, last, [&](int64_t y, int64_t x, int64_t at, int64_t count) {
    unpack_rows(from + at * padded(channels), count, channels, factor,
                token_at<T>(p, view, side, batch, head, region, y, x), view.column);
  });
}

// body(number in the region, whether it counts) for the keys of a region, in order.
template <class Body>
static ALWAYS_INLINE void for_keys(const Problem& p, int64_t batch, int64_t region, Body&& body) {
  const int64_t width = p.grid[1] * p.kv_side[1], height = p.grid[0] * p.kv_side[0];
  const int64_t row = region / p.grid[1] * p.kv_side[0], column = region % p.grid[1] * p.kv_side[1];
  for (int64_t y = 0, u = 0; y < p.kv_side[0]; ++y) {
    const bool* line = p.mask ? p.mask + (batch * height + row + y) * width + column : nullptr;
    for (int64_t x = 0; x < p.kv_side[1]; ++x, ++u) body(u, line == nullptr || line[x]);
  }
}

// One region of queries, or of keys, and one head.
struct Item {
  int64_t batch, head, region;
};

// Those of a part follow one another from `first` to `last` - 1. Where keys are held, the regions of a head do; else the
// heads of a region, whose tokens are neighbors in memory.
struct Share {
  int64_t first, last;

  Share(const Problem& p, const Sizes& z, int64_t part, int64_t parts) {
    const int64_t all = p.batch * p.heads * z.regions;
    first = part * all / parts, last = (part + 1) * all / parts;
  }
  static Item item(const Problem& p, const Sizes& z, int64_t number) {
    const int64_t inner = z.held ? z.regions : p.heads, outer = z.held ? p.heads : z.regions;
    const int64_t batch = number / (inner * outer), i = number / inner % outer, j = number % inner;
    return z.held ? Item{batch, i, j} : Item{batch, j, i};
  }
};

// Asks for all tokens of a region.
template <class T>
static void prefetch_tokens(const Problem& p, const View& view, const int64_t* side, const Item& item, int64_t channels,
                            Prefetcher& ahead) {
  if (view.data == nullptr) return;
  for (int64_t y = 0; y < side[0]; ++y) {
    ahead.add(token_at<const T>(p, view, side, item.batch, item.head, item.region, y, 0), view.column * sizeof(T),
              side[1], channels * sizeof(T));
  }
}

// Keys and values of a region that count, one after another; how many they are.
template <class T>
static int64_t pack_region(const Problem& p, const Sizes& z, int64_t batch, int64_t head, int64_t region, float* keys,
                           float* values) {
  if (p.mask == nullptr) {
    pack_tokens<T>(p, p.key, p.kv_side, batch, head, region, 0, z.keys, p.channels, 1.0f, keys);
    pack_tokens<T>(p, p.value, p.kv_side, batch, head, region, 0, z.keys, p.value_channels, 1.0f, values);
    return z.keys;
  }
  int64_t count = 0;
  for_keys(p, batch, region, [&](int64_t u, bool counts) {
    if (!counts) return;
    pack_tokens<T>(p, p.key, p.kv_side, batch, head, region, u, u + 1, p.channels, 1.0f, keys + count * z.d);
    pack_tokens<T>(p, p.value, p.kv_side, batch, head, region, u, u + 1, p.value_channels, 1.0f,
                   values + count * z.e);
    ++count;
  });
  return count;
}

// Rows of `columns` floats (a multiple of the vector) to (columns, stride): row x of column c at c * stride + x. Zeros
// follow the last row up to a whole vector.
static NOINLINE void transpose_rows(float* const* rows, int64_t count, int64_t columns, float* to, int64_t stride) {
  for (int64_t x = 0; x < count; x += kLanes) {
    const int64_t some = least(count - x, kLanes);
    for (int64_t c = 0; c < columns; c += kLanes) {
      Vec v[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) v[i] = i < some ? load(rows[x + i] + c) : Vec{};
      transpose(v);
      for (int64_t i = 0; i < kLanes; ++i) store(to + (c + i) * stride + x, v[i]);
    }
  }
}

// The keys and values that one region of queries attends to, of one head.
class Keys {
 public:
  Keys(const Problem& p, const Sizes& z, Arena& arena)
      : starts(arena.take<int64_t>(p.topk + 1)),
        key_rows(arena.take<float*>(z.all)),
        value_rows(arena.take<float*>(z.all)),
        raw_key_rows(p.weights ? arena.take<float*>(z.all) : key_rows),
        raw_value_rows(p.weights ? arena.take<float*>(z.all) : value_rows),
        held_counts(arena.take<int64_t>(z.held ? z.regions : 0)),
        held_keys(arena.take<float>(z.held ? z.regions * z.keys * z.d : 0)),
        held_values(arena.take<float>(z.held ? z.regions * z.keys * z.e : 0)),
        copied_keys(arena.take<float>(z.held ? 0 : z.all * z.d)),
        copied_values(arena.take<float>(z.held ? 0 : z.all * z.e)),
        weighted_keys(arena.take<float>(p.weights ? z.all * z.d : 0)),
        weighted_values(arena.take<float>(p.weights ? z.all * z.e : 0)) {}

  // To be told before the first region of a head.
  void set_head(const Sizes& z, int64_t batch, int64_t head) {
    batch_ = batch, head_ = head;
    for (int64_t r = 0; z.held && r < z.regions; ++r) held_counts[r] = -1;
  }

  // The regions that `region` chose: rows of their keys and values, with the weights in them.
  template <class T>
  void gather(const Problem& p, const Sizes& z, int64_t region) {
    const int64_t at = (batch_ * z.regions + region) * p.topk;
    count = 0;
    for (int64_t slot = 0; slot < p.topk; ++slot) {
      starts[slot] = count;
      const float factor = p.weights ? p.weights[at + slot] : 1.0f;
      add<T>(p, z, p.index[at + slot], factor);
    }
    starts[p.topk] = count;
  }

  // Those of one region of keys.
  template <class T>
  void gather_one(const Problem& p, const Sizes& z, int64_t region, float factor) {
    count = 0;
    starts[0] = 0;
    add<T>(p, z, region, factor);
    starts[1] = count;
  }

  int64_t count;
  int64_t* starts;  // of each chosen region's keys
  float **key_rows, **value_rows;
  float **raw_key_rows, **raw_value_rows;  // without the weights

 private:
  template <class T>
  void add(const Problem& p, const Sizes& z, int64_t chosen, float factor) {
    float *keys = copied_keys + count * z.d, *values = copied_values + count * z.e;
    int64_t some;
    if (z.held) {
      keys = held_keys + chosen * z.keys * z.d, values = held_values + chosen * z.keys * z.e;
      if (held_counts[chosen] < 0) held_counts[chosen] = pack_region<T>(p, z, batch_, head_, chosen, keys, values);
      some = held_counts[chosen];
    } else {
      some = pack_region<T>(p, z, batch_, head_, chosen, keys, values);
    }
    list(z, keys, values, some, raw_key_rows, raw_value_rows);
    if (p.weights) {
      float *own_keys = weighted_keys + count * z.d, *own_values = weighted_values + count * z.e;
      pack_rows(keys, z.d, some, z.d, factor, own_keys);
      pack_rows(values, z.e, some, z.e, factor, own_values);
      list(z, own_keys, own_values, some, key_rows, value_rows);
    }
    count += some;
  }

  void list(const Sizes& z, float* keys, float* values, int64_t some, float** to_keys, float** to_values) const {
    for (int64_t u = 0; u < some; ++u) to_keys[count + u] = keys + u * z.d, to_values[count + u] = values + u * z.e;
  }

  int64_t batch_ = 0, head_ = 0;
  int64_t* held_counts;  // keys of a region that count, -1 where they are not packed yet
  float *held_keys, *held_values;
  float *copied_keys, *copied_values;
  float *weighted_keys, *weighted_values;
};
