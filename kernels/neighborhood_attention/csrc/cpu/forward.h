// The forward pass: for each row of queries the window's rows of keys (transposed) and values lie in scratch memory; a
// row that comes into the window takes the place of one that has left it.
#pragma once
#include "group.h"

struct ForwardScratch {
  ForwardScratch(const Problem& p, const Sizes& z, Arena& arena)
      : key_rows(arena.take<float>(z.rows * p.channels * z.row_stride)),
        value_rows(arena.take<float>(z.rows * z.tokens * z.e)),
        held(arena.take<int64_t>(z.rows)),
        extra_keys(arena.take<float>(p.channels * z.extra_stride)),
        extra_values(arena.take<float>(p.additional * z.e)),
        bias(arena.take<float>(p.bias ? z.heads_each * z.bias_rows * z.bias_row : 0)),
        queries{arena.take<float>(z.tokens * z.d), arena.take<float>(z.tokens * z.d)},
        result(arena.take<float>(Batch::kQueries * z.e)),
        scores(arena.take<float>(Batch::kQueries * z.all_blocks * kLanes)),
        keys(z, arena),
        batch(p, z, arena) {}

  float* key_rows;
  float* value_rows;
  int64_t* held;  // which row a place holds, -1 for none
  float* extra_keys;
  float* extra_values;
  float* bias;
  float* queries[kRows];  // of a band and head
  float* result;          // (batch, channels)
  float* scores;          // (batch, blocks)
  Keys keys;
  Batch batch;
};

// Scores become weights 2^(score - largest); their sums, and the LSE.
static NOINLINE void softmax(const Sizes& z, ForwardScratch& w, Vec* top, float* total, float* lse) {
  const Batch& batch = w.batch;
  const int64_t step = z.all_blocks * kLanes;
  Vec part[Batch::kQueries];
  for (Vec& one : part) one = splat(1.0f);
  float peak[Batch::kQueries];
  for (int q = 0; q < Batch::kQueries; q += kLanes) store(peak + q, tops_of(top + q));
  for (int64_t i = 0; i < batch.count; ++i) {
    for (int64_t slot = 0; slot < kSlots; ++slot) {
      const int64_t row = slot / kColumns, q = i * kSlots + slot;
      if (row >= w.keys.band || slot % kColumns >= batch.groups[i].columns) continue;
      float* s = w.scores + q * step + w.keys.first[row] * kLanes;
      const int64_t blocks = w.keys.last[row] - w.keys.first[row];
      const Vec largest = splat(peak[q]);
      Vec sums = {};
      for_each_block(blocks, [&](int64_t b) __attribute__((always_inline)) {
        const Vec weight = exp2(load(s + b * kLanes) - largest);
        sums += weight;
        store(s + b * kLanes, weight);
      });
      part[q] = sums;
    }
  }
  for (int q = 0; q < Batch::kQueries; q += kLanes) {
    const Vec sums = sums_of(part + q);
    store(total + q, sums);
    store(lse + q, load(peak + q) * kLn2 + log(sums));
  }
}

// The outputs of the batch's queries before division by `total`, and their LSE.
static NOINLINE void attend(const Problem& p, const Sizes& z, bool biased, ForwardScratch& w, float* total, float* lse) {
  Batch& batch = w.batch;
  const int64_t step = z.all_blocks * kLanes;
  Vec top[Batch::kQueries];
  for (Vec& one : top) one = splat(-__builtin_inff());
  if (biased) {
    batch.products<Kind::biased_scores>(z, w.keys, w.queries, z.d, p.channels, w.scores, nullptr, nullptr, top);
  } else {
    batch.products<Kind::scores>(z, w.keys, w.queries, z.d, p.channels, w.scores, nullptr, nullptr, top);
  }
  softmax(z, w, top, total, lse);
  for (int64_t i = 0; i < batch.count; ++i) {
    const Group& g = batch.groups[i];
    for_channels(g.columns, z.e, [&](auto n, auto v, int64_t c) __attribute__((always_inline)) {
      weighted_sum<n(), v()>(w.keys.segments, w.keys.segment_count, g.seen, w.scores + i * kSlots * step, step, z.e, c,
                             w.result + i * kSlots * z.e);
    });
    batch.prefetcher.ask();
  }
}

template <class T>
static bool forward_part(const Problem& p, int64_t part, int64_t parts) {
  const Sizes z(p);
  Allocated<ForwardScratch> allocated(p, z);
  if (!allocated) return false;
  ForwardScratch& w = *allocated;
  const Share share(p, part, parts);
  for (int64_t unit = share.first; unit < share.last; ++unit) {
    const Unit u = unit_at(p, unit);
    const Range own = Share::rows(p, unit, u.rows(), part, parts);
    if (own.start == own.end) continue;
    for (int64_t slot = 0; slot < z.rows; ++slot) w.held[slot] = -1;
    w.batch.set_unit(p, u);
    const Row extra = {w.extra_keys, nullptr, w.extra_values, {nullptr, nullptr}, {0, 0}};
    if (p.additional) {
      pack_extra<T>(p, p.extra_keys, u, p.channels, nullptr, w.extra_keys, z.extra_stride);
      pack_extra<T>(p, p.extra_values, u, p.value_channels, w.extra_values, nullptr, 0);
    }
    const int64_t first_head = u.kv_head * z.heads_each;
    for (int64_t h = 0; p.bias && h < z.heads_each; ++h) {
      pack_bias(p, z, first_head + h, w.bias + h * z.bias_rows * z.bias_row);
    }
    for (int64_t row = own.start; row < own.end; row += w.keys.band) {
      const int64_t t = row / u.length[1], y = row % u.length[1];
      w.keys.band = least(least(z.band, own.end - row), u.length[1] - y);
      const Range ys = window(p, 1, y + w.keys.band - 1, u.length[1]);
      const int64_t count = for_window(p, z, u, t, y, w.keys, [&](int64_t key_t, int64_t key_y, Row& to) {
        const int64_t slot = key_t % p.kernel[0] * z.ring + key_y % z.ring;
        float* keys = w.key_rows + slot * p.channels * z.row_stride;
        float* values = w.value_rows + slot * z.tokens * z.e;
        to.keys_transposed = keys, to.values_transposed = nullptr, to.rows = values;
        to.d_rows[0] = to.d_rows[1] = nullptr;
        const int64_t which = key_t * u.length[1] + key_y;
        if (w.held[slot] == which) return true;
        w.held[slot] = which;
        pack_transposed(token_at<const T>(p, p.key, u, key_t, key_y, 0, u.kv_head), token_step(p, p.key), u.length[2],
                        p.channels, keys, z.row_stride);
        pack_rows(token_at<const T>(p, p.value, u, key_t, key_y, 0, u.kv_head), token_step(p, p.value), u.length[2],
                  p.value_channels, 1.0f, values);
        return true;
      });
      // The next band's tokens, asked for as this band is worked on.
      const int64_t next_y = y + w.keys.band, next_rows = least(z.band, u.length[1] - next_y);
      const auto prefetch = [&](int64_t x, int64_t tokens, int64_t h) {
        w.batch.prefetcher.clear();
        const Ahead<T> ahead{w.batch.prefetcher, p, u, t, x, tokens};
        for (int64_t r = 0; r < next_rows; ++r) {
          ahead.add(p.query, next_y + r, first_head + h, p.channels);
          ahead.add(p.out, next_y + r, first_head + h, p.value_channels);
          if (h != 0 || ys.end + r >= u.length[1]) continue;
          ahead.add(p.key, ys.end + r, u.kv_head, p.channels);
          ahead.add(p.value, ys.end + r, u.kv_head, p.value_channels);
        }
      };
      for (int64_t h = 0; h < z.heads_each; ++h) {
        const float* table = p.bias ? w.bias + h * z.bias_rows * z.bias_row : nullptr;
        for (int64_t r = 0; r < w.keys.band; ++r) {
          pack_rows(token_at<const T>(p, p.query, u, t, y + r, 0, first_head + h), token_step(p, p.query),
                    u.length[2], p.channels, p.scale * kLog2E, w.queries[r]);
        }
        w.keys.set(z, count, &extra, table);
        for (int64_t x = 0; x < u.length[2];) {
          const int64_t first = x;
          x = w.batch.set(z, u, x);
          prefetch(first, x - first, h);
          float total[Batch::kQueries], lse[Batch::kQueries];
          attend(p, z, table != nullptr, w, total, lse);
          w.batch.for_queries(w.keys.band, [&](int64_t q, int64_t r, int64_t at) {
            unpack_rows(w.result + q * z.e, 1, p.value_channels, 1.0f / total[q],
                        token_at<T>(p, p.out, u, t, y + r, at, first_head + h), 0);
            *token_at<float>(p, p.lse, u, t, y + r, at, first_head + h) = lse[q];
          });
        }
      }
    }
  }
  return true;
}
