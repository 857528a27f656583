// The queries at hand, and the blocks of keys that they see: what forward and backward share.
#pragma once
#include "geometry.h"
#include "products.h"

// A row of keys in scratch memory, from its first token on. What a pass does not need is null.
struct Row {
  const float* keys_transposed;
  const float* values_transposed;
  const float* rows;     // values (forward) or keys (backward) to be summed
  float* d_rows[2];      // gradients of keys and values
  int64_t bias[kRows];   // offsets in a head's padded bias table, for each row of queries
};

// The rows of keys that a band, one or two rows of queries, sees: those of the first alone, of both, the additional
// tokens, those of the second alone. So the scores of each row of queries lie together.
class Keys {
 public:
  Keys(const Sizes& z, Arena& arena)
      : rows(arena.take<Row>(z.rows)),
        who(arena.take<Who>(z.rows)),
        transposed(arena.take<const float*>(z.all_blocks)),
        values_transposed(arena.take<const float*>(z.all_blocks)),
        bias{arena.take<const float*>(z.all_blocks), arena.take<const float*>(z.all_blocks)},
        column(arena.take<int>(z.all_blocks)),
        segments(arena.take<Segment>(z.rows + 1)),
        runs(arena.take<Run>(z.all_blocks + 1)) {}

  // From `rows` and `who`, of which the first `count` are set. `extra` is null where the additional tokens are left out,
  // `table` without a bias.
  NOINLINE void set(const Sizes& z, int64_t count, const Row* extra, const float* table) {
    blocks = segment_count = run_count = 0;
    add_rows(z, count, kFirst, table);
    const int64_t own = blocks;
    add_rows(z, count, kBoth, table);
    const int64_t shared = blocks;
    if (extra && z.extra_blocks) {
      segments[segment_count++] = {extra->rows, {extra->d_rows[0], extra->d_rows[1]}, blocks * kLanes,
                                   band == kRows ? kBoth : kFirst, true};
      for (int64_t j = 0; j < z.extra_blocks; ++j) add_block(*extra, j, nullptr);
    }
    const int64_t extras = blocks;
    extra_first = shared, extra_last = extras;
    add_rows(z, count, kSecond, table);

    first[0] = 0, last[0] = extras, first[1] = own, last[1] = blocks;
    // A single block of one row of queries goes along with blocks that both see: alone it would wait for each product.
    // The second row's lies behind the additional tokens, and cannot go along where there are some.
    const bool with_first = own == 1 && shared > own;
    const bool with_second = blocks - extras == 1 && extras == shared && shared - own > with_first;
    if (!with_first) add_runs(0, 0, own, false);
    const int64_t shared_runs = most(ceil_div(shared - own, kMaxShared), with_first + with_second);
    for (int64_t i = 0, at = own; i < shared_runs; ++i) {
      const int64_t size = ceil_div(shared - at, shared_runs - i);
      const bool takes_first = with_first && i == 0, takes_second = with_second && i + 1 == shared_runs;
      runs[run_count++] = {takes_first, static_cast<int>(size), takes_second, at - takes_first, 0, false};
      at += size;
    }
    if (band == kRows) {
      for (int64_t at = shared; at < extras;) {
        const int64_t size = least(extras - at, kMaxShared);
        runs[run_count++] = {0, static_cast<int>(size), 0, at, 0, true};
        at += size;
      }
    } else {
      add_runs(0, shared, extras, true);
    }
    if (!with_second) add_runs(1, extras, blocks, false);
  }

  int64_t band;  // rows of queries
  Row* rows;
  Who* who;
  int64_t blocks, segment_count, run_count;
  int64_t first[kRows], last[kRows];  // the blocks of each row of queries
  int64_t extra_first, extra_last;
  const float** transposed;
  const float** values_transposed;
  const float** bias[kRows];
  int* column;  // of a block in its row
  Segment* segments;
  Run* runs;

 private:
  void add_rows(const Sizes& z, int64_t count, Who which, const float* table) {
    for (int64_t r = 0; r < count; ++r) {
      if (who[r] != which) continue;
      segments[segment_count++] = {rows[r].rows, {rows[r].d_rows[0], rows[r].d_rows[1]}, blocks * kLanes, which, false};
      for (int64_t j = 0; j < z.blocks; ++j) add_block(rows[r], j, table);
    }
  }
  void add_block(const Row& row, int64_t j, const float* table) {
    transposed[blocks] = row.keys_transposed + j * kLanes;
    if (row.values_transposed) values_transposed[blocks] = row.values_transposed + j * kLanes;
    for (int r = 0; table && r < kRows; ++r) bias[r][blocks] = table + row.bias[r] + j * kLanes;
    column[blocks++] = static_cast<int>(j);
  }
  // Runs of blocks that one row of queries sees.
  void add_runs(int row, int64_t at, int64_t end, bool extra) {
    for (int64_t left = ceil_div(end - at, kMaxOwn); left > 0; --left) {
      const int64_t size = ceil_div(end - at, left);
      runs[run_count++] = {static_cast<int>(size), 0, 0, at, row, extra};
      at += size;
    }
  }
};

// Neighboring columns of a band whose windows overlap.
struct Group {
  int64_t x, columns;
  Seen seen[2];   // of the rows, and of the additional tokens
  IntVec* masks;  // [column of blocks][column of queries]
};

// What is asked for ahead: the same `tokens` columns, from place x on, of rows of plane t.
template <class T>
struct Ahead {
  Prefetcher& to;
  const Problem& p;
  const Unit& u;
  int64_t t, x, tokens;

  void add(const View& view, int64_t row, int64_t head, int64_t channels) const {
    to.add(token_at<const T>(p, view, u, t, row, x, head), token_step(p, view) * sizeof(T), tokens,
           channels * sizeof(T));
  }
};

// Several groups, whose softmax is computed side by side: that hides the latency of each.
class Batch {
 public:
  static constexpr int kGroups = 8;
  static constexpr int kQueries = kGroups * kSlots;  // query `slot` of group g is number g * kSlots + slot

  Batch(const Problem& p, const Sizes& z, Arena& arena)
      : extra_masks_(arena.take<IntVec>(z.extra_blocks * kColumns)), ranges_(arena.take<Range>(z.tokens)) {
    for (Group& group : groups) group.masks = arena.take<IntVec>(z.blocks * kColumns);
    if (ranges_ == nullptr) return;
    Seen whole{};
    for (int64_t& high : whole.high) high = p.additional;
    for (Group& group : groups) group.seen[1] = whole;
    make_masks(whole, z.extra_blocks, extra_masks_);
  }

  void set_unit(const Problem& p, const Unit& u) {
    for (int64_t x = 0; x < u.length[2]; ++x) ranges_[x] = window(p, 2, x, u.length[2]);
  }

  // Takes the columns from place x on, as many as fit; the place that follows them.
  NOINLINE int64_t set(const Sizes& z, const Unit& u, int64_t x) {
    for (count = 0; count < kGroups && x < u.length[2]; ++count) {
      Group& g = groups[count];
      Seen& seen = g.seen[0];
      g.x = x;
      seen.from = ranges_[x].start;
      for (g.columns = 0; g.columns < kColumns && x < u.length[2]; ++g.columns, ++x) {
        if (g.columns && ranges_[x].end - seen.from > z.blocks * kLanes) break;
        seen.low[g.columns] = ranges_[x].start - seen.from;
        seen.high[g.columns] = ranges_[x].end - seen.from;
      }
      make_masks(seen, z.blocks, g.masks);
    }
    return x;
  }

  // The products of all groups with all blocks. queries[row] are packed rows of queries (or of their outputs'
  // gradients) from the row's first on, `step` apart; scores and gradients are (kQueries, all blocks), top and shift
  // (kQueries). Runs are the outer loop: the keys of one run stay in the first-level cache.
  template <Kind kKind>
  NOINLINE void products(const Sizes& z, const Keys& keys, const float* const* queries, int64_t step, int64_t channels,
                float* scores, float* gradients, const float* shift, Vec* top) {
    const float** blocks = kKind == Kind::gradients ? keys.values_transposed : keys.transposed;
    BlockProducts a{};
    a.query_step = step, a.channels = channels, a.score_step = z.all_blocks * kLanes;
    for (int64_t i = 0; i < keys.run_count; ++i) {
      const Run& run = keys.runs[i];
      a.keys = blocks + run.block, a.column = keys.column + run.block;
      for (int r = 0; r < kRows; ++r) a.bias[r] = keys.bias[run.row ? 1 : r] + run.block;
      a.key_step = run.extra ? z.extra_stride : z.row_stride;
      for (int64_t j = 0; j < count; ++j) {
        const Group& g = groups[j];
        const int64_t slot = j * kSlots + run.row * kColumns, at = slot * a.score_step + run.block * kLanes;
        for (int r = 0; r < kRows; ++r) a.query[r] = queries[run.row ? 1 : r] + g.x * step;
        a.key_offset = run.extra ? 0 : g.seen[0].from;
        a.bias_offset = g.seen[0].from - g.x;
        a.masks = run.extra ? extra_masks_ : g.masks;
        a.scores = scores + at, a.gradients = gradients + at, a.shift = shift + slot, a.top = top + slot;
        with_constant<kColumns>(g.columns, [&](auto n) __attribute__((always_inline)) {
          constexpr Kind unbiased = kKind == Kind::biased_scores ? Kind::scores : kKind;
          if (run.extra) {
            run_products<unbiased, n()>(run, a);
          } else {
            run_products<kKind, n()>(run, a);
          }
        });
        prefetcher.ask();
      }
    }
  }

  // body(number in the batch, row of the band, place x) for every query.
  template <class Body>
  ALWAYS_INLINE void for_queries(int64_t band, Body&& body) const {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t r = 0; r < band; ++r) {
        for (int64_t c = 0; c < groups[i].columns; ++c) body(i * kSlots + r * kColumns + c, r, groups[i].x + c);
      }
    }
  }

  int64_t count = 0;
  Group groups[kGroups];
  Prefetcher prefetcher;

 private:
  static void make_masks(const Seen& seen, int64_t blocks, IntVec* masks) {
    const IntVec lane = {0, 1, 2, 3, 4, 5, 6, 7};
    for (int64_t j = 0; j < blocks; ++j) {
      for (int64_t i = 0; i < kColumns; ++i) {
        const int32_t low = seen.low[i] - j * kLanes, high = seen.high[i] - j * kLanes;
        masks[j * kColumns + i] = (lane >= low) & (lane < high);
      }
    }
  }

  IntVec* extra_masks_;
  Range* ranges_;
};

// A head's bias table in base 2, each row between zeros that blocks may reach into.
static void pack_bias(const Problem& p, const Sizes& z, int64_t head, float* to) {
  const int64_t width = 2 * p.kernel[2] - 1;
  const float* from = p.bias + head * z.bias_rows * width;
  for (int64_t r = 0; r < z.bias_rows; ++r, to += z.bias_row, from += width) {
    for (int64_t i = 0; i < z.bias_row; ++i) to[i] = 0;
    for (int64_t i = 0; i < width; ++i) to[z.bias_pad + i] = from[i] * kLog2E;
  }
}

// The row of a padded bias table for keys at (t, y) and a query at (query_t, query_y), and the place of the query's own
// column in it.
static ALWAYS_INLINE int64_t bias_offset(const Problem& p, const Sizes& z, int64_t t, int64_t y, int64_t query_t,
                                         int64_t query_y) {
  const int64_t row = (t - query_t + p.kernel[0] - 1) * (2 * p.kernel[1] - 1) + (y - query_y + p.kernel[1] - 1);
  return row * z.bias_row + z.bias_pad + p.kernel[2] - 1;
}

// Fills keys.rows and keys.who with the rows of keys that the band of queries at (t, y) sees, keys.band of them, from
// `take(t, y, row)`, which may leave one out by returning false; how many there are.
template <class Take>
static int64_t for_window(const Problem& p, const Sizes& z, const Unit& u, int64_t t, int64_t y, Keys& keys,
                          Take&& take) {
  const Range ts = window(p, 0, t, u.length[0]);
  const Range top = window(p, 1, y, u.length[1]), bottom = window(p, 1, y + keys.band - 1, u.length[1]);
  int64_t count = 0;
  for (int64_t key_t = ts.start; key_t < ts.end; ++key_t) {
    for (int64_t key_y = top.start; key_y < bottom.end; ++key_y) {
      const bool seen_first = key_y < top.end, seen_second = keys.band == kRows && key_y >= bottom.start;
      if (!seen_first && !seen_second) continue;
      keys.who[count] = static_cast<Who>(seen_first * kFirst + seen_second * kSecond);
      Row& row = keys.rows[count];
      for (int r = 0; r < kRows; ++r) {
        row.bias[r] = bias_offset(p, z, key_t, key_y, t, r < keys.band ? y + r : y);
      }
      count += take(key_t, key_y, row);
    }
  }
  return count;
}

// The additional tokens of a unit's head, as rows, transposed, or both.
template <class T>
static void pack_extra(const Problem& p, const View& view, const Unit& u, int64_t channels, float* rows,
                       float* transposed, int64_t stride) {
  const T* from = static_cast<const T*>(view.data) + u.batch * view.batch + u.kv_head * view.head;
  if (rows) pack_rows(from, view.axis[2], p.additional, channels, 1.0f, rows);
  if (transposed) pack_transposed(from, view.axis[2], p.additional, channels, transposed, stride);
}

// The units of a part, and of a unit at the part's ends the rows: parts are cut to equal numbers of rows.
struct Share {
  int64_t first, last;  // units

  Share(const Problem& p, int64_t part, int64_t parts) {
    const int64_t units = units_of(p);
    first = part * units / parts;
    last = ceil_div((part + 1) * units, parts);
  }
  static Range rows(const Problem& p, int64_t unit, int64_t rows, int64_t part, int64_t parts) {
    const int64_t units = units_of(p);
    // Between bands, so that these are the same for any number of parts, and the gradients of keys with them.
    const auto cut = [&](int64_t at) {
      const int64_t row = (at * units - unit * parts) * rows / parts;
      return row >= rows ? rows : most(row, 0) / kRows * kRows;
    };
    return {cut(part), cut(part + 1)};
  }
};

// Threads pay only where each has some 20 microseconds of work.
static int64_t parts_for(const Problem& p, int64_t threads, int64_t products) {
  const int64_t queries = p.batch * p.heads * p.length[0] * p.length[1] * p.length[2];
  const int64_t keys = p.kernel[0] * p.kernel[1] * p.kernel[2] + p.additional;
  const int64_t work = products * queries * keys * (p.channels + p.value_channels);
  // Of all units: the groups of an axis have its tokens between them.
  const int64_t rows = p.batch * p.kv_heads * p.length[0] * p.length[1] * p.dilation[2];
  return most(least(least(threads, work / 500000), rows), 1);
}
