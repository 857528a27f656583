// Products of small matrices: a tile of the result stays in registers while one row of the second factor after the other
// is read once for all rows of the tile.
#pragma once

// Rows and vectors of a tile of the result.
#if defined(__AVX512VL__)
constexpr int kRows = 6, kVectors = 4;  // 32 registers of eight floats
#elif defined(__AVX2__)
constexpr int kRows = 6, kVectors = 2;  // 16 registers of eight floats
#else
constexpr int kRows = 6, kVectors = 1;  // 16 registers of four floats
#endif

// Rows of the second factor that are gone through for all tiles before the next ones are: they stay in the first cache.
constexpr int64_t kDepth = 144;

// Rows of a matrix that lie `step` apart.
struct Strided {
  float* first;
  int64_t step;

  ALWAYS_INLINE float* operator()(int64_t row) const { return first + row * step; }
  ALWAYS_INLINE Strided from(int64_t row, int64_t column) const { return {first + row * step + column, step}; }
};

// Rows that lie anywhere.
struct Listed {
  float* const* rows;
  int64_t column;

  ALWAYS_INLINE float* operator()(int64_t row) const { return rows[row] + column; }
  ALWAYS_INLINE Listed from(int64_t row, int64_t more) const { return {rows + row, column + more}; }
};

// c = a b, or c += a b: Q rows, V vectors of columns, summed over `count` in order.
//   a: (Q, count) with rows `a_step` apart; if kTransposed (count, Q).
template <int Q, int V, bool kTransposed, class B, class C>
static NOINLINE void multiply_tile(const float* a, int64_t a_step, B b, int64_t count, C c, bool add) {
  Vec acc[Q][V];
  const auto for_each = [&](auto&& body) __attribute__((always_inline)) {
    unroll<Q>([&](auto q) __attribute__((always_inline)) {
      unroll<V>([&](auto v) __attribute__((always_inline)) { body(q, v); });
    });
  };
  if (add) {
    for_each([&](auto q, auto v) __attribute__((always_inline)) { acc[q()][v()] = load(c(q()) + v() * kLanes); });
  } else {
    for_each([&](auto q, auto v) __attribute__((always_inline)) { acc[q()][v()] = Vec{}; });
  }
  for (int64_t k = 0; k < count; ++k) {
    const float* const row = b(k);
    Vec x[V];
    unroll<V>([&](auto v) __attribute__((always_inline)) {
      x[v()] = load(row + v() * kLanes);
      keep(x[v()]);
    });
    unroll<Q>([&](auto q) __attribute__((always_inline)) {
      const Vec factor = splat(kTransposed ? a[k * a_step + q()] : a[q() * a_step + k]);
      unroll<V>([&](auto v) __attribute__((always_inline)) { acc[q()][v()] += factor * x[v()]; });
    });
  }
  for_each([&](auto q, auto v) __attribute__((always_inline)) { store(c(q()) + v() * kLanes, acc[q()][v()]); });
}

// Cuts a length into parts of at most `most`, as equal as can be.
struct Cut {
  int64_t parts, size, larger;  // the first `larger` parts have one more than `size`

  Cut(int64_t length, int64_t most) : parts((length + most - 1) / most) {
    size = parts ? length / parts : 0;
    larger = length - parts * size;
  }
  int64_t operator()(int64_t part) const { return size + (part < larger); }
};

// What the next steps need, asked for a few tokens after each tile.
struct Ahead {
  Prefetcher prefetcher;
  int64_t each = 0;

  void ask() { prefetcher.ask(each); }
};

template <class F, int N>
struct Table {
  F entries[N];
};

template <bool kTransposed, class B, class C, int... I>
static constexpr auto tiles(std::integer_sequence<int, I...>) {
  using Tile = void (*)(const float*, int64_t, B, int64_t, C, bool);
  return Table<Tile, sizeof...(I)>{{&multiply_tile<I / kVectors + 1, I % kVectors + 1, kTransposed, B, C>...}};
}

// c = a b, or c += a b, as above but for any number of rows and vectors; `ahead` asks for something after each tile.
template <bool kTransposed, class B, class C>
static void multiply(int64_t rows, const float* a, int64_t a_step, B b, int64_t count, int64_t vectors, C c, bool add,
                     Ahead& ahead) {
  static constexpr auto table = tiles<kTransposed, B, C>(std::make_integer_sequence<int, kRows * kVectors>{});
  const Cut columns(vectors, kVectors), lines(rows, kRows), depths(count, kDepth);
  for (int64_t d = 0, from = 0; d < depths.parts; ++d) {
    const int64_t depth = depths(d);
    for (int64_t i = 0, column = 0; i < columns.parts; ++i) {
      const int64_t v = columns(i);
      for (int64_t j = 0, line = 0; j < lines.parts; ++j) {
        const int64_t q = lines(j);
        const float* const part = kTransposed ? a + from * a_step + line : a + line * a_step + from;
        table.entries[(q - 1) * kVectors + v - 1](part, a_step, b.from(from, column), depth, c.from(line, column),
                                                  add || d > 0);
        line += q;
        ahead.ask();
      }
      column += v * kLanes;
    }
    from += depth;
  }
}
