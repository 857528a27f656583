// The backward pass: weights are computed again from the saved LSE; a row of queries adds to the gradients of the rows of
// keys that it sees, which lie in scratch memory until no further row of queries sees them. Each part has rows of keys
// and the same rows of queries of its own. It visits the queries of other parts that see its keys, and so writes every
// gradient alone: nothing is added to by two threads, and the sums run in one order.
#pragma once
#include "group.h"

struct BackwardScratch {
  BackwardScratch(const Problem& p, const Sizes& z, Arena& arena)
      : key_columns(arena.take<float>(z.rows * p.channels * z.row_stride)),
        value_columns(arena.take<float>(z.rows * p.value_channels * z.row_stride)),
        key_rows(arena.take<float>(z.rows * z.tokens * z.d)),
        d_key_rows(arena.take<float>(z.rows * z.tokens * z.d)),
        d_value_rows(arena.take<float>(z.rows * z.tokens * z.e)),
        held(arena.take<int64_t>(z.rows)),
        extra_key_columns(arena.take<float>(p.channels * z.extra_stride)),
        extra_value_columns(arena.take<float>(p.value_channels * z.extra_stride)),
        extra_key_rows(arena.take<float>(p.additional * z.d)),
        bias(arena.take<float>(p.bias ? z.heads_each * z.bias_rows * z.bias_row : 0)),
        d_bias(arena.take<float>(p.bias ? z.heads_each * z.bias_rows * z.bias_row : 0)),
        queries{arena.take<float>(z.tokens * z.d), arena.take<float>(z.tokens * z.d)},
        d_outs{arena.take<float>(z.tokens * z.e), arena.take<float>(z.tokens * z.e)},
        outs(arena.take<float>(z.tokens * z.e)),
        result(arena.take<float>(Batch::kQueries * z.d)),
        weights(arena.take<float>(Batch::kQueries * z.all_blocks * kLanes)),
        d_scores(arena.take<float>(Batch::kQueries * z.all_blocks * kLanes)),
        lse{arena.take<float>(z.tokens), arena.take<float>(z.tokens)},
        shift{arena.take<float>(z.tokens), arena.take<float>(z.tokens)},
        keys(z, arena),
        batch(p, z, arena) {}

  float *key_columns, *value_columns;  // transposed
  float *key_rows, *d_key_rows, *d_value_rows;
  int64_t* held;  // which row a place holds, -1 for none
  float *extra_key_columns, *extra_value_columns, *extra_key_rows;
  float *bias, *d_bias;    // padded tables of the heads that share a key/value head
  float* queries[kRows];   // of a band and head, times scale in base 2
  float* d_outs[kRows];
  float* outs;     // of one row
  float* result;   // (batch, channels)
  float* weights;  // (batch, blocks)
  float* d_scores;
  float* lse[kRows];    // in base 2
  float* shift[kRows];  // the LSE's gradient - sum of d_out * out
  Keys keys;
  Batch batch;
};

// The steps that do not depend on the type of the caller's tensors, for the batch at hand.

// Weights, and the gradients of the scores.
static NOINLINE void weights_and_gradients(const Problem& p, const Sizes& z, BackwardScratch& w) {
  const int64_t step = z.all_blocks * kLanes;
  Vec top[Batch::kQueries];
  for (Vec& one : top) one = Vec{};
  if (p.bias) {
    w.batch.products<Kind::biased_scores>(z, w.keys, w.queries, z.d, p.channels, w.weights, nullptr,
                                                   nullptr, top);
  } else {
    w.batch.products<Kind::scores>(z, w.keys, w.queries, z.d, p.channels, w.weights, nullptr, nullptr,
                                            top);
  }
  float shift[Batch::kQueries] = {};
  w.batch.for_queries(w.keys.band, [&](int64_t q, int64_t r, int64_t x) {
    shift[q] = w.shift[r][x];
    const Vec lse = splat(w.lse[r][x]);
    float* s = w.weights + q * step + w.keys.first[r] * kLanes;
    for_each_block(w.keys.last[r] - w.keys.first[r], [&](int64_t b) __attribute__((always_inline)) {
      store(s + b * kLanes, exp2(load(s + b * kLanes) - lse));
    });
  });
  w.batch.products<Kind::gradients>(z, w.keys, w.d_outs, z.e, p.value_channels, w.weights, w.d_scores,
                                             shift, nullptr);
}

// `offset`: from the table of the bias to that of its gradient.
static NOINLINE void add_bias(const Sizes& z, BackwardScratch& w, int64_t offset) {
  w.batch.for_queries(w.keys.band, [&](int64_t q, int64_t r, int64_t x) {
    const float* d = w.d_scores + q * z.all_blocks * kLanes;
    const int64_t from = w.batch.groups[q / kSlots].seen[0].from;
    for (int64_t b = w.keys.first[r]; b < w.keys.last[r]; ++b) {
      if (w.keys.extra_first <= b && b < w.keys.extra_last) continue;
      float* to = const_cast<float*>(w.keys.bias[r][b]) + offset + from - x;
      store(to, load(to) + load(d + b * kLanes));
    }
  });
}

// The gradients of the queries, before the scale.
static NOINLINE void sum_queries(const Sizes& z, BackwardScratch& w) {
  const int64_t step = z.all_blocks * kLanes;
  for (int64_t i = 0; i < w.batch.count; ++i) {
    const Group& g = w.batch.groups[i];
    for_channels(g.columns, z.d, [&](auto n, auto v, int64_t c) __attribute__((always_inline)) {
      weighted_sum<n(), v()>(w.keys.segments, w.keys.segment_count, g.seen, w.d_scores + i * kSlots * step, step,
                             z.d, c, w.result + i * kSlots * z.d);
    });
  }
}

// What the queries add to the gradients of the keys that they see (`which` 0) and of the values (1): `weights` times
// `queries`, the rows of a band with `step` channels.
static NOINLINE void add_keys(const Sizes& z, BackwardScratch& w, int which, const float* weights,
                              const float* const* queries, int64_t step) {
  const int64_t score_step = z.all_blocks * kLanes;
  for (int64_t i = 0; i < w.batch.count; ++i) {
    const Group& g = w.batch.groups[i];
    const float* const own[kRows] = {queries[0] + g.x * step, queries[1] + g.x * step};
    for_channels(g.columns, step, [&](auto n, auto v, int64_t c) __attribute__((always_inline)) {
      scatter<n(), v()>(w.keys.segments, w.keys.segment_count, g.seen, weights + i * kSlots * score_step, score_step,
                        which, step, c, own);
    });
  }
}

// What several parts may add to, a place for each that does: parts work through heads in order, so that head h and part i
// have place h + i to themselves.
struct Shared {
  int64_t bias_each, extra_each;  // floats of a place
  int64_t bias_places, extra_places;

  Shared(const Problem& p, const Sizes& z, int64_t parts)
      : bias_each(p.bias ? z.heads_each * z.bias_rows * (2 * p.kernel[2] - 1) : 0),
        extra_each(p.additional * (z.d + z.e)),
        bias_places(p.kv_heads + parts),
        extra_places(p.kv_heads * p.batch + parts) {}
  int64_t bytes() const { return (bias_each * bias_places + extra_each * extra_places) * sizeof(float); }
  float* bias(void* memory, int64_t kv_head, int64_t part) const {
    return static_cast<float*>(memory) + bias_each * (kv_head + part);
  }
  float* extra(void* memory, const Problem& p, int64_t kv_head, int64_t batch, int64_t part) const {
    return static_cast<float*>(memory) + bias_each * bias_places + extra_each * (kv_head * p.batch + batch + part);
  }
};

template <class T>
class BackwardPart {
 public:
  BackwardPart(const Problem& p, int64_t part, int64_t parts, void* shared)
      : p_(p), z_(p), allocated_(p, z_), layout_(p, z_, parts), shared_(shared), part_(part), parts_(parts) {}

  bool run() {
    if (!allocated_) return false;
    BackwardScratch& w = *allocated_;
    const Share share(p_, part_, parts_);
    int64_t head = -1;
    for (int64_t unit = share.first; unit < share.last; ++unit) {
      u_ = unit_at(p_, unit);
      const Range own = Share::rows(p_, unit, u_.rows(), part_, parts_);
      if (own.start == own.end) continue;
      if (p_.bias && u_.kv_head != head) {
        if (head >= 0) give_bias(head);
        head = u_.kv_head;
        for (int64_t h = 0; h < z_.heads_each; ++h) pack_bias(p_, z_, head * z_.heads_each + h, table(w.bias, h));
        std::memset(w.d_bias, 0, sizeof(float) * z_.heads_each * z_.bias_rows * z_.bias_row);
      }
      w.batch.set_unit(p_, u_);
      set_extra();
      if (u_.length[0] == 1) {
        keys_and_queries(0, own, true);
        continue;
      }
      // Three axes: keys would wait for several planes of queries. Queries first, then keys, plane by plane.
      queries(own);
      for (int64_t t = own.start / u_.length[1]; t * u_.length[1] < own.end; ++t) {
        const int64_t first = t * u_.length[1];
        keys_and_queries(t, {most(own.start - first, 0), least(own.end - first, u_.length[1])}, false);
      }
    }
    if (head >= 0) give_bias(head);
    return true;
  }

 private:
  float* table(float* tables, int64_t h) const { return tables + h * z_.bias_rows * z_.bias_row; }

  void set_extra() {
    BackwardScratch& w = *allocated_;
    extra_ = {w.extra_key_columns, w.extra_value_columns, w.extra_key_rows, {nullptr, nullptr}, {0, 0}};
    if (p_.additional == 0) return;
    pack_extra<T>(p_, p_.extra_keys, u_, p_.channels, w.extra_key_rows, w.extra_key_columns, z_.extra_stride);
    pack_extra<T>(p_, p_.extra_values, u_, p_.value_channels, nullptr, w.extra_value_columns, z_.extra_stride);
    extra_.d_rows[0] = layout_.extra(shared_, p_, u_.kv_head, u_.batch, part_);
    extra_.d_rows[1] = extra_.d_rows[0] + p_.additional * z_.d;
  }

  void give_bias(int64_t kv_head) {
    const float* from = (*allocated_).d_bias;
    float* to = layout_.bias(shared_, kv_head, part_);
    const int64_t width = 2 * p_.kernel[2] - 1;
    for (int64_t r = 0; r < z_.heads_each * z_.bias_rows; ++r, from += z_.bias_row, to += width) {
      for (int64_t i = 0; i < width; ++i) to[i] += from[z_.bias_pad + i];
    }
  }

  // The gradients of queries in the given rows (of the unit, planes in turn), and what they add to bias and additional
  // tokens.
  void queries(Range own) {
    BackwardScratch& w = *allocated_;
    forget();
    own_ = {0, 0};
    for (int64_t row = own.start; row < own.end; row += w.keys.band) {
      const int64_t t = row / u_.length[1], y = row % u_.length[1];
      w.keys.band = least(least(z_.band, own.end - row), u_.length[1] - y);
      const int64_t count = for_window(p_, z_, u_, t, y, w.keys, [&](int64_t key_t, int64_t key_y, Row& to) {
        hold(key_t, key_y, key_t % p_.kernel[0] * z_.ring + key_y % z_.ring, false, to);
        return true;
      });
      band(t, y, count, true);
    }
  }

  // The gradients of the keys in rows `own` of plane `t`, and, where all queries that see them are in that plane, of the
  // same rows of queries.
  void keys_and_queries(int64_t t, Range own, bool with_queries) {
    BackwardScratch& w = *allocated_;
    forget();
    t_ = t, own_ = own, next_ = own.start;
    for (int64_t y = 0; y < u_.length[1]; y += w.keys.band) {
      const bool inside = y >= own.start && y < own.end;
      const int64_t end = inside ? own.end : y < own.start ? own.start : u_.length[1];
      w.keys.band = least(z_.band, end - y);
      const bool whole = inside && with_queries;
      if (!whole) {  // only what these queries add to the keys
        const Range first = window(p_, 1, y, u_.length[1]), last = window(p_, 1, y + w.keys.band - 1, u_.length[1]);
        if (last.end <= own.start) continue;
        if (first.start >= own.end) break;
      }
      for (int64_t query_t = 0; query_t < u_.length[0]; ++query_t) {
        const Range ts = window(p_, 0, query_t, u_.length[0]);
        if (t < ts.start || t >= ts.end) continue;
        const int64_t count = for_window(p_, z_, u_, query_t, y, w.keys, [&](int64_t key_t, int64_t key_y, Row& to) {
          const bool mine = key_t == t && key_y >= own.start && key_y < own.end;
          if (!mine && !whole) return false;
          hold(key_t, key_y, key_y % z_.ring, mine, to);
          return true;
        });
        if (count) band(query_t, y, count, whole);
      }
    }
    forget();
    zero_rows(own.end);
  }

  // Empties all places, giving what they hold to the caller's tensors.
  void forget() {
    BackwardScratch& w = *allocated_;
    for (int64_t slot = 0; slot < z_.rows; ++slot) {
      if (fresh_) w.held[slot] = -1;
      give(slot);
    }
    fresh_ = false;
  }

  void give(int64_t slot) {
    BackwardScratch& w = *allocated_;
    const int64_t y = w.held[slot] % u_.length[1];
    if (w.held[slot] >= 0 && w.held[slot] / u_.length[1] == t_ && y >= own_.start && y < own_.end) {
      unpack_rows(w.d_key_rows + slot * z_.tokens * z_.d, u_.length[2], p_.channels, kLn2,
                  token_at<T>(p_, p_.d_key, u_, t_, y, 0, u_.kv_head), token_step(p_, p_.d_key));
      unpack_rows(w.d_value_rows + slot * z_.tokens * z_.e, u_.length[2], p_.value_channels, 1.0f,
                  token_at<T>(p_, p_.d_value, u_, t_, y, 0, u_.kv_head), token_step(p_, p_.d_value));
    }
    w.held[slot] = -1;
  }

  // Rows of keys that no query sees (with strides there may be some) have gradients too: zeros.
  void zero_rows(int64_t end) {
    for (; next_ < end; ++next_) {
      for (int64_t x = 0; x < u_.length[2]; ++x) {
        std::memset(token_at<T>(p_, p_.d_key, u_, t_, next_, x, u_.kv_head), 0, sizeof(T) * p_.channels);
        std::memset(token_at<T>(p_, p_.d_value, u_, t_, next_, x, u_.kv_head), 0, sizeof(T) * p_.value_channels);
      }
    }
  }

  // Puts a row of keys into its place, unless it is there.
  void hold(int64_t t, int64_t y, int64_t slot, bool mine, Row& to) {
    BackwardScratch& w = *allocated_;
    float* key_columns = w.key_columns + slot * p_.channels * z_.row_stride;
    float* value_columns = w.value_columns + slot * p_.value_channels * z_.row_stride;
    float* key_rows = w.key_rows + slot * z_.tokens * z_.d;
    to.keys_transposed = key_columns, to.values_transposed = value_columns, to.rows = key_rows;
    to.d_rows[0] = mine ? w.d_key_rows + slot * z_.tokens * z_.d : nullptr;
    to.d_rows[1] = mine ? w.d_value_rows + slot * z_.tokens * z_.e : nullptr;
    const int64_t which = t * u_.length[1] + y;
    if (w.held[slot] == which) return;
    give(slot);
    w.held[slot] = which;
    const T* key = token_at<const T>(p_, p_.key, u_, t, y, 0, u_.kv_head);
    pack_transposed(key, token_step(p_, p_.key), u_.length[2], p_.channels, key_columns, z_.row_stride);
    pack_rows(key, token_step(p_, p_.key), u_.length[2], p_.channels, 1.0f, key_rows);
    pack_transposed(token_at<const T>(p_, p_.value, u_, t, y, 0, u_.kv_head), token_step(p_, p_.value), u_.length[2],
                    p_.value_channels, value_columns, z_.row_stride);
    if (!mine) return;
    zero_rows(y);
    next_ = y + 1;
    std::memset(to.d_rows[0], 0, sizeof(float) * u_.length[2] * z_.d);
    std::memset(to.d_rows[1], 0, sizeof(float) * u_.length[2] * z_.e);
  }

  // The band of queries at (t, y) with the `count` rows of keys that are set. `whole`: with all their keys, so that their
  // own gradients are complete; else only what they add to the keys.
  void band(int64_t t, int64_t y, int64_t count, bool whole) {
    BackwardScratch& w = *allocated_;
    for (int64_t h = 0; h < z_.heads_each; ++h) {
      const int64_t head = u_.kv_head * z_.heads_each + h;
      for (int64_t r = 0; r < w.keys.band; ++r) pack_queries(t, y + r, head, r);
      w.keys.set(z_, count, whole ? &extra_ : nullptr, p_.bias ? table(w.bias, h) : nullptr);
      for (int64_t x = 0; x < u_.length[2];) {
        const int64_t first = x;
        x = w.batch.set(z_, u_, x);
        ask_ahead(t, y, head, first, x - first, h == 0);
        weights_and_gradients(p_, z_, w);
        if (whole) {
          if (p_.bias) add_bias(z_, w, table(w.d_bias, h) - table(w.bias, h));
          sum_queries(z_, w);
          give_queries(t, y, head);
        }
        add_keys(z_, w, 0, w.d_scores, w.queries, z_.d);
        add_keys(z_, w, 1, w.weights, w.d_outs, z_.e);
      }
    }
  }

  // Asks for the same columns of the next band, and of the rows of keys that come and go with it.
  void ask_ahead(int64_t t, int64_t y, int64_t head, int64_t x, int64_t tokens, bool with_keys) {
    BackwardScratch& w = *allocated_;
    w.batch.prefetcher.clear();
    const Ahead<T> ahead{w.batch.prefetcher, p_, u_, t, x, tokens};
    const int64_t next = y + w.keys.band, after = least(next + z_.band, u_.length[1]);
    for (int64_t row = next; row < after; ++row) {
      ahead.add(p_.query, row, head, p_.channels);
      ahead.add(p_.d_out, row, head, p_.value_channels);
      ahead.add(p_.out, row, head, p_.value_channels);
      ahead.add(p_.d_query, row, head, p_.channels);
    }
    if (!with_keys || next >= u_.length[1]) return;
    const Range now = window(p_, 1, next - 1, u_.length[1]), then = window(p_, 1, after - 1, u_.length[1]);
    for (int64_t row = now.end; row < then.end; ++row) {
      ahead.add(p_.key, row, u_.kv_head, p_.channels);
      ahead.add(p_.value, row, u_.kv_head, p_.value_channels);
    }
    for (int64_t row = then.start - z_.band; row < then.start; ++row) {  // leave with the next band, or just have
      if (row < own_.start || row >= own_.end) continue;
      ahead.add(p_.d_key, row, u_.kv_head, p_.channels);
      ahead.add(p_.d_value, row, u_.kv_head, p_.value_channels);
    }
  }

  void pack_queries(int64_t t, int64_t y, int64_t head, int64_t r) {
    BackwardScratch& w = *allocated_;
    pack_rows(token_at<const T>(p_, p_.query, u_, t, y, 0, head), token_step(p_, p_.query), u_.length[2], p_.channels,
              p_.scale * kLog2E, w.queries[r]);
    pack_rows(token_at<const T>(p_, p_.d_out, u_, t, y, 0, head), token_step(p_, p_.d_out), u_.length[2],
              p_.value_channels, 1.0f, w.d_outs[r]);
    pack_rows(token_at<const T>(p_, p_.out, u_, t, y, 0, head), token_step(p_, p_.out), u_.length[2],
              p_.value_channels, 1.0f, w.outs);
    for (int64_t x = 0; x < u_.length[2]; ++x) {
      Vec delta = {};
      for (int64_t e = x * z_.e; e < (x + 1) * z_.e; e += kLanes) delta += load(w.outs + e) * load(w.d_outs[r] + e);
      const float d_lse = p_.d_lse.data ? *token_at<const float>(p_, p_.d_lse, u_, t, y, x, head) : 0.0f;
      w.shift[r][x] = d_lse - sum(delta);
      w.lse[r][x] = *token_at<const float>(p_, p_.lse, u_, t, y, x, head) * kLog2E;
    }
  }

  void give_queries(int64_t t, int64_t y, int64_t head) {
    BackwardScratch& w = *allocated_;
    w.batch.for_queries(w.keys.band, [&](int64_t q, int64_t r, int64_t x) {
      unpack_rows(w.result + q * z_.d, 1, p_.channels, p_.scale,
                  token_at<T>(p_, p_.d_query, u_, t, y + r, x, head), 0);
    });
  }

  const Problem& p_;
  const Sizes z_;
  Allocated<BackwardScratch> allocated_;
  const Shared layout_;
  void* const shared_;
  const int64_t part_, parts_;
  Unit u_;
  Row extra_;
  // The rows of keys whose gradients are being summed: those of plane t_ in own_; next_ is the first not yet begun.
  int64_t t_ = -1, next_ = 0;
  Range own_ = {0, 0};
  bool fresh_ = true;  // nothing was ever held
};

// What the parts have added to the gradients of the bias and of the additional tokens, summed in the parts' order.
template <class T>
static void reduce_parts(const Problem& p, int64_t parts, void* memory) {
  const Sizes z(p);
  const Shared layout(p, z, parts);
  if (layout.bias_each) std::memset(p.d_bias, 0, sizeof(float) * layout.bias_each * p.kv_heads);
  for (int64_t part = 0; part < parts; ++part) {
    const Share share(p, part, parts);
    if (share.first == share.last) continue;
    const int64_t per_batch = groups_of(p), per_head = per_batch * p.batch;
    for (int64_t g = share.first / per_head; layout.bias_each && g <= (share.last - 1) / per_head; ++g) {
      const float* from = layout.bias(memory, g, part);
      float* to = p.d_bias + g * layout.bias_each;
      for (int64_t i = 0; i < layout.bias_each; ++i) to[i] += from[i];
    }
    if (layout.extra_each == 0) continue;
    for (int64_t i = share.first / per_batch, last = (share.last - 1) / per_batch; i <= last; ++i) {
      float* from = layout.extra(memory, p, i / p.batch, i % p.batch, part);
      // Added up in the last part that has a share, then given out.
      const Share following(p, part + 1 < parts ? part + 1 : part, parts);
      if (part + 1 < parts && following.first < following.last && following.first / per_batch == i) {
        float* next = layout.extra(memory, p, i / p.batch, i % p.batch, part + 1);
        for (int64_t j = 0; j < layout.extra_each; ++j) next[j] += from[j];
        continue;
      }
      T* d_keys = static_cast<T*>(p.d_extra_keys.data) + i % p.batch * p.d_extra_keys.batch +
                  i / p.batch * p.d_extra_keys.head;
      T* d_values = static_cast<T*>(p.d_extra_values.data) + i % p.batch * p.d_extra_values.batch +
                    i / p.batch * p.d_extra_values.head;
      unpack_rows(from, p.additional, p.channels, kLn2, d_keys, p.d_extra_keys.axis[2]);
      unpack_rows(from + p.additional * z.d, p.additional, p.value_channels, 1.0f, d_values,
                  p.d_extra_values.axis[2]);
    }
  }
}
