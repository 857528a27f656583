// The products of attention between a group of queries and the keys of their windows.
//
// A group is up to kRows x kColumns queries that are neighbors in their dilation group. Their windows overlap, so that
// what is loaded once serves up to four of them. A row of keys is seen by the first row of queries, by the second, or by
// both; in it the keys that any column of queries sees form one interval, which is cut into blocks of eight. Scores are
// computed for whole blocks, with keys as vectors, and masked where a query does not see a key. Sums over keys run with
// channels as vectors and touch a query's own keys only: a NaN elsewhere must not reach it.
#pragma once

constexpr int kRows = 2, kColumns = 2;
constexpr int kSlots = kRows * kColumns;  // query (row, column) of a group is number row * kColumns + column

// What is held in registers: kMaxOwn blocks for one row of queries, or kMaxShared blocks for both.
#if defined(__AVX512VL__)
constexpr int kMaxOwn = 8, kMaxShared = 4, kVectors = 4;  // 32 registers of eight floats
#elif defined(__AVX2__)
constexpr int kMaxOwn = 5, kMaxShared = 2, kVectors = 2;  // 16 registers of eight floats
#else
constexpr int kMaxOwn = 2, kMaxShared = 1, kVectors = 1;  // 16 registers of four floats
#endif

// Which rows of queries see a row of keys, as bits.
enum Who : int { kFirst = 1, kSecond = 2, kBoth = 3 };

// One row of keys, or the additional tokens.
struct Segment {
  const float* rows;  // (keys, padded channels): what sums over keys add up
  float* d_rows[2];   // backward: gradients of keys and values, as `rows`; null where they are not this part's
  int64_t scores;     // where the scores of the row stand among a query's scores
  Who who;
  bool extra;  // the additional tokens, seen whole by every query
};

// The keys of a row that each column of queries sees, counted from `from`: [low[i], high[i]), both rising with i.
struct Seen {
  int64_t from, low[kColumns], high[kColumns];
};

// What becomes of the products of queries and blocks of keys.
enum class Kind {
  scores,         // scores = product, -inf where the query does not see the key; top = the largest, by lane
  biased_scores,  // the same of product + bias
  gradients,      // gradients = scores * (product + shift), 0 where the query does not see the key
};

struct BlockProducts {
  const float* query[kRows];  // each (kColumns, query_step)
  int64_t query_step, key_step, channels;
  const float* const* keys;  // of each block, without `key_offset`: channel c at c * key_step
  int64_t key_offset;
  const float* const* bias[kRows];  // of each block, without `bias_offset`: column i's stands i further left
  int64_t bias_offset;
  const float* shift;   // of each slot
  const IntVec* masks;  // [column of blocks][column of queries]: the lanes of keys that a query sees
  const int* column;    // of each block
  float* scores;        // (kSlots, score_step)
  float* gradients;     // the same
  int64_t score_step;
  Vec* top;  // of each slot
};

// The products of N columns of queries with `First` blocks that the first row sees, `Both` and `Second`, in this order;
// summed over channels in registers.
template <Kind kKind, int N, int First, int Both, int Second>
static NOINLINE void block_products(const BlockProducts& a) {
  constexpr int kBlocks[kRows] = {First + Both, Both + Second}, kBegin[kRows] = {0, First};
  Vec acc[kRows][N][First + Both + Second];
  const auto for_each = [&](auto&& body) __attribute__((always_inline)) {  // body(row, column, block)
    unroll<kRows>([&](auto r) __attribute__((always_inline)) {
      unroll<N>([&](auto i) __attribute__((always_inline)) {
        unroll<kBlocks[r()]>([&](auto m) __attribute__((always_inline)) {
          body(r, i, std::integral_constant<int, m() + kBegin[r()]>{});
        });
      });
    });
  };
  for_each([&](auto r, auto i, auto m) __attribute__((always_inline)) {
    if constexpr (kKind == Kind::biased_scores) {
      acc[r()][i()][m()] = load(a.bias[r()][m()] + (a.bias_offset - i()));
    } else {
      acc[r()][i()][m()] = kKind == Kind::gradients ? splat(a.shift[r() * kColumns + i()]) : Vec{};
    }
  });
  const float* block[First + Both + Second];
  unroll<First + Both + Second>([&](auto m) __attribute__((always_inline)) { block[m()] = a.keys[m()] + a.key_offset; });
  const float* const query[kRows] = {a.query[0], a.query[1]};
  const int64_t channels = a.channels, key_step = a.key_step, query_step = a.query_step;
  for (int64_t c = 0, at = 0; c < channels; ++c, at += key_step) {
    Vec factor[kRows][N];
    unroll<kRows>([&](auto r) __attribute__((always_inline)) {
      unroll<N>([&](auto i) __attribute__((always_inline)) {
        if constexpr (kBlocks[r()] > 0) factor[r()][i()] = splat(query[r()][i() * query_step + c]);
      });
    });
    unroll<First + Both + Second>([&](auto m) __attribute__((always_inline)) {
      Vec key = load(block[m()] + at);
      keep(key);
      unroll<kRows>([&](auto r) __attribute__((always_inline)) {
        unroll<N>([&](auto i) __attribute__((always_inline)) {
          if constexpr (m() >= kBegin[r()] && m() < kBegin[r()] + kBlocks[r()]) {
            acc[r()][i()][m()] += factor[r()][i()] * key;
          }
        });
      });
    });
  }
  // Copies, since a compiler must take it that the stores below may change `a`.
  const IntVec* const masks = a.masks;
  const int* const column = a.column;
  float* const scores = a.scores;
  float* const gradients = a.gradients;
  Vec* const top = a.top;
  const int64_t step = a.score_step;
  for_each([&](auto r, auto i, auto m) __attribute__((always_inline)) {
    constexpr int slot = r() * kColumns + i();
    const IntVec seen = masks[column[m()] * kColumns + i()];
    const int64_t at = slot * step + m() * kLanes;
    if constexpr (kKind == Kind::gradients) {
      store(gradients + at, select(seen, acc[r()][i()][m()] * load(scores + at), Vec{}));
    } else {
      const Vec s = select(seen, acc[r()][i()][m()], splat(-__builtin_inff()));
      store(scores + at, s);
      acc[r()][i()][kBegin[r()]] = m() == kBegin[r()] ? s : s > acc[r()][i()][kBegin[r()]] ? s : acc[r()][i()][kBegin[r()]];
      if constexpr (m() + 1 == kBegin[r()] + kBlocks[r()]) {
        const Vec here = acc[r()][i()][kBegin[r()]];
        top[slot] = here > top[slot] ? here : top[slot];
      }
    }
  });
}

// add(key, first, last) for every key that some column of queries sees, with the first and last that see it, as constants.
template <int N, class Add>
static ALWAYS_INLINE void for_each_key(const Seen& own, Add&& add) {
  constexpr std::integral_constant<int, 0> zero;
  if constexpr (N == 1) {
    for (int64_t key = own.low[0]; key < own.high[0]; ++key) add(key, zero, zero);
  } else {
    constexpr std::integral_constant<int, 1> one;
    const int64_t middle = own.low[1] < own.high[0] ? own.low[1] : own.high[0];
    int64_t key = own.low[0];
    for (; key < middle; ++key) add(key, zero, zero);
    for (key = own.low[1]; key < own.high[0]; ++key) add(key, zero, one);
    for (; key < own.high[1]; ++key) add(key, one, one);  // from high[0], or from low[1] where the two are apart
  }
}

// The same over all segments but those to skip: add(segment, key, row of queries first, last, column first, last).
template <int N, class Skip, class Add>
static ALWAYS_INLINE void for_each_segment(const Segment* segments, int64_t count, const Seen* seen, Skip&& skip,
                                           Add&& add) {
  constexpr std::integral_constant<int, 0> zero;
  constexpr std::integral_constant<int, 1> one;
  for (int64_t s = 0; s < count; ++s) {
    const Segment& segment = segments[s];
    if (skip(segment)) continue;
    const Seen& own = seen[segment.extra];
    const auto for_rows = [&](auto row_first, auto row_last) __attribute__((always_inline)) {
      for_each_key<N>(own, [&](int64_t key, auto first, auto last) __attribute__((always_inline)) {
        add(segment, key, row_first, row_last, first, last);
      });
    };
    if (segment.who == kBoth) {
      for_rows(zero, one);
    } else if (segment.who == kFirst) {
      for_rows(zero, zero);
    } else {
      for_rows(one, one);
    }
  }
}

// Runs body(row, column) for constants in the ranges that the constants give.
template <class F0, class L0, class F1, class L1, class Body>
static ALWAYS_INLINE void for_queries(F0 row_first, L0 row_last, F1 first, L1 last, Body&& body) {
  unroll<kRows>([&](auto r) __attribute__((always_inline)) {
    unroll<kColumns>([&](auto i) __attribute__((always_inline)) {
      if constexpr (r() >= F0{}() && r() <= L0{}() && i() >= F1{}() && i() <= L1{}()) body(r, i);
    });
  });
}

// result[slot] = the sum of weights[slot][key] * rows[key] over the keys that the query sees, for V vectors of channels.
//   weights: (kSlots, weight_step); result: (kSlots, row_step).
template <int N, int V>
static NOINLINE void weighted_sum(const Segment* segments, int64_t count, const Seen* seen, const float* weights,
                                  int64_t weight_step, int64_t row_step, int64_t channel, float* result) {
  Vec acc[kRows][kColumns][V];
  unroll<kRows>([&](auto r) __attribute__((always_inline)) {
    unroll<N>([&](auto i) __attribute__((always_inline)) {
      unroll<V>([&](auto v) __attribute__((always_inline)) { acc[r()][i()][v()] = Vec{}; });
    });
  });
  const auto all = [](const Segment&) __attribute__((always_inline)) { return false; };
  for_each_segment<N>(segments, count, seen, all, [&](const Segment& segment, int64_t key, auto row_first, auto row_last,
                                                      auto first, auto last) __attribute__((always_inline)) {
    const float* row = segment.rows + (seen[segment.extra].from + key) * row_step + channel;
    const float* w = weights + segment.scores + key;
    Vec x[V];
    unroll<V>([&](auto v) __attribute__((always_inline)) {
      x[v()] = load(row + v() * kLanes);
      keep(x[v()]);
    });
    for_queries(row_first, row_last, first, last, [&](auto r, auto i) __attribute__((always_inline)) {
      const Vec factor = splat(w[(r() * kColumns + i()) * weight_step]);
      unroll<V>([&](auto v) __attribute__((always_inline)) { acc[r()][i()][v()] += factor * x[v()]; });
    });
  });
  unroll<kRows>([&](auto r) __attribute__((always_inline)) {
    unroll<N>([&](auto i) __attribute__((always_inline)) {
      unroll<V>([&](auto v) __attribute__((always_inline)) {
        store(result + (r() * kColumns + i()) * row_step + channel + v() * kLanes, acc[r()][i()][v()]);
      });
    });
  });
}

// The transpose of it: d_rows[which][key] += weights[slot][key] * queries[row][column], for V vectors of channels.
//   queries[row]: (kColumns, row_step).
template <int N, int V>
static NOINLINE void scatter(const Segment* segments, int64_t count, const Seen* seen, const float* weights,
                             int64_t weight_step, int which, int64_t row_step, int64_t channel,
                             const float* const* queries) {
  Vec query[kRows][kColumns][V];
  unroll<kRows>([&](auto r) __attribute__((always_inline)) {
    unroll<N>([&](auto i) __attribute__((always_inline)) {
      unroll<V>([&](auto v) __attribute__((always_inline)) {
        query[r()][i()][v()] = load(queries[r()] + i() * row_step + channel + v() * kLanes);
      });
    });
  });
  const auto foreign = [&](const Segment& s) __attribute__((always_inline)) { return s.d_rows[which] == nullptr; };
  for_each_segment<N>(segments, count, seen, foreign, [&](const Segment& segment, int64_t key, auto row_first,
                                                          auto row_last, auto first,
                                                          auto last) __attribute__((always_inline)) {
    float* to = segment.d_rows[which] + (seen[segment.extra].from + key) * row_step + channel;
    const float* w = weights + segment.scores + key;
    Vec x[V];
    unroll<V>([&](auto v) __attribute__((always_inline)) { x[v()] = load(to + v() * kLanes); });
    for_queries(row_first, row_last, first, last, [&](auto r, auto i) __attribute__((always_inline)) {
      const Vec factor = splat(w[(r() * kColumns + i()) * weight_step]);
      unroll<V>([&](auto v) __attribute__((always_inline)) { x[v()] += factor * query[r()][i()][v()]; });
    });
    unroll<V>([&](auto v) __attribute__((always_inline)) { store(to + v() * kLanes, x[v()]); });
  });
}

// Runs body(constant n) for n = value, 1 to Max.
template <int Max, class Body>
static ALWAYS_INLINE void with_constant(int64_t value, Body&& body) {
  unroll<Max>([&](auto i) __attribute__((always_inline)) {
    if (value == i() + 1) body(std::integral_constant<int, i() + 1>{});
  });
}

// body(b) for b = 0 to count - 1, in runs of up to eight without a loop, whose end would be guessed wrong each time.
template <class Body>
static ALWAYS_INLINE void for_each_block(int64_t count, Body&& body) {
  for (int64_t b = 0; b < count; b += 8) {
    with_constant<8>(count - b < 8 ? count - b : 8, [&](auto n) __attribute__((always_inline)) {
      unroll<n()>([&](auto i) __attribute__((always_inline)) { body(b + i()); });
    });
  }
}

// body(constant n, constant v, channel) over all channels, v vectors at a time, for n columns of queries.
template <class Body>
static ALWAYS_INLINE void for_channels(int64_t columns, int64_t channels, Body&& body) {
  with_constant<kColumns>(columns, [&](auto n) __attribute__((always_inline)) {
    for (int64_t c = 0; c < channels; c += kVectors * kLanes) {
      const int64_t left = (channels - c) / kLanes;
      with_constant<kVectors>(left < kVectors ? left : kVectors,
                              [&](auto v) __attribute__((always_inline)) { body(n, v, c); });
    }
  });
}

// A run of blocks that one call of block_products takes.
struct Run {
  int first, both, second;  // blocks seen by the first row of queries, by both, by the second
  int64_t block;            // the first of them
  int row;                  // of queries, where only one row sees the run (then `first` counts its blocks)
  bool extra;
};

// block_products for a run; its counts are those that `Keys::set` makes.
template <Kind kKind, int N>
static void run_products(const Run& run, const BlockProducts& a) {
  if (run.both == 0) {
    with_constant<kMaxOwn>(run.first, [&](auto m) __attribute__((always_inline)) {
      block_products<kKind, N, m(), 0, 0>(a);
    });
    return;
  }
  with_constant<kMaxShared>(run.both, [&](auto m) __attribute__((always_inline)) {
    if (run.first) {
      block_products<kKind, N, 1, m(), 0>(a);
    } else if (run.second) {
      block_products<kKind, N, 0, m(), 1>(a);
    } else {
      block_products<kKind, N, 0, m(), 0>(a);
    }
  });
}
