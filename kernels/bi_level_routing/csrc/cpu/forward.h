// The forward pass: for each region of queries and head the keys of the chosen regions are transposed; some queries at a
// time have all their scores in scratch memory.
#pragma once
#include "regions.h"

struct ForwardScratch {
  ForwardScratch(const Problem& p, const Sizes& z, Arena& arena)
      : key_columns(arena.take<float>(z.d * z.step)),
        queries(arena.take<float>(z.queries * z.d)),
        scores(arena.take<float>(z.queries * z.step)),
        results(arena.take<float>(z.queries * z.e)),
        totals(arena.take<float>(z.queries + kLanes)),
        lse(arena.take<float>(z.queries + kLanes)),
        keys(p, z, arena) {}

  float *key_columns, *queries, *scores, *results, *totals, *lse;
  Keys keys;
  Ahead ahead;
};

// The lanes of the last vector of a row of `count` numbers that are numbers.
static ALWAYS_INLINE IntVec last_lanes(int64_t count) {
  const IntVec lane = {0, 1, 2, 3, 4, 5, 6, 7};
  const int32_t some = static_cast<int32_t>(count - (count - 1) / kLanes * kLanes);
  return lane < some;
}

// Rows of scores become weights exp(score - largest); their sums, and the LSE.
static NOINLINE void softmax(float* scores, int64_t step, int64_t rows, int64_t count, float* totals, float* lse) {
  const int64_t whole = (count - 1) / kLanes * kLanes;
  const IntVec real = last_lanes(count);
  for (int64_t first = 0; first < rows; first += kLanes) {
    const int64_t some = least(rows - first, kLanes);
    Vec lanes[kLanes];
    for (int64_t i = some; i < kLanes; ++i) lanes[i] = Vec{};
    for (int64_t i = 0; i < some; ++i) {
      float* s = scores + (first + i) * step;
      Vec top = select(real, load(s + whole), splat(-__builtin_inff()));
      store(s + whole, top);
      for (int64_t x = 0; x < whole; x += kLanes) {
        const Vec here = load(s + x);
        top = here > top ? here : top;
      }
      lanes[i] = top;
    }
    const Vec tops = tops_of(lanes) * kLog2E;
    float peaks[kLanes];
    store(peaks, tops);
    for (int64_t i = 0; i < some; ++i) {
      float* s = scores + (first + i) * step;
      const Vec peak = splat(peaks[i]);
      Vec sums = {};
      for (int64_t x = 0; x <= whole; x += kLanes) {
        const Vec weight = exp2(load(s + x) * kLog2E - peak);
        sums += weight;
        store(s + x, weight);
      }
      lanes[i] = sums;
    }
    for (int64_t i = some; i < kLanes; ++i) lanes[i] = splat(1.0f);
    const Vec sums = sums_of(lanes);
    store(totals + first, sums);
    store(lse + first, tops * kLn2 + log(sums));
  }
}

// Some tokens of a region: their outputs, results / totals + lepe, and their LSE.
template <class T>
static void write_outputs(const Problem& p, const Sizes& z, int64_t batch, int64_t head, int64_t region, int64_t first,
                          int64_t last, const ForwardScratch& w) {
  const int64_t whole = p.value_channels / kLanes * kLanes, rest = p.value_channels - whole;
  const int64_t width = p.grid[1] * p.side[1], height = p.grid[0] * p.side[0];
  const View lse = {p.lse, height * width * p.heads, width * p.heads, p.heads, 1};
  for_runs(p.side, first, last, [&](int64_t y, int64_t x, int64_t at, int64_t count) {
    T* out = token_at<T>(p, p.out, p.side, batch, head, region, y, x);
    const T* lepe = p.lepe.data ? token_at<const T>(p, p.lepe, p.side, batch, head, region, y, x) : nullptr;
    float* to_lse = token_at<float>(p, lse, p.side, batch, head, region, y, x);
    for (int64_t i = at; i < at + count; ++i, out += p.out.column, to_lse += p.heads) {
      const float* from = w.results + i * z.e;
      const Vec factor = splat(1.0f / w.totals[i]);
      for (int64_t c = 0; c < whole; c += kLanes) {
        const Vec result = load(from + c) * factor;
        narrow(out + c, lepe ? result + widen(lepe + c) : result);
      }
      if (rest) {
        const Vec result = load(from + whole) * factor;
        narrow_some(out + whole, lepe ? result + widen_some(lepe + whole, rest) : result, rest);
      }
      if (lepe) lepe += p.lepe.column;
      *to_lse = w.lse[i];
    }
  });
}

// What the next region needs of the caller's keys and values.
template <class T>
static void prefetch_keys(const Problem& p, const Sizes& z, const View& keys, const View& values, const Item& next,
                          Prefetcher& ahead) {
  if (z.held) {
    // Those of the next head, which are packed one after another.
    const Item other = {next.batch, next.head + 1, next.region};
    if (other.head == p.heads) return;
    prefetch_tokens<T>(p, values, p.kv_side, other, p.value_channels, ahead);
    prefetch_tokens<T>(p, keys, p.kv_side, other, p.channels, ahead);
    return;
  }
  for (int64_t slot = 0; slot < p.topk; ++slot) {
    const Item chosen = {next.batch, next.head, p.index[(next.batch * z.regions + next.region) * p.topk + slot]};
    prefetch_tokens<T>(p, values, p.kv_side, chosen, p.value_channels, ahead);
    prefetch_tokens<T>(p, keys, p.kv_side, chosen, p.channels, ahead);
  }
}

// What the next region needs, the last first; tokens that are to be asked for after each tile.
template <class T>
static int64_t prefetch(const Problem& p, const Sizes& z, const Item& next, Prefetcher& ahead) {
  prefetch_tokens<T>(p, p.out, p.side, next, p.value_channels, ahead);
  prefetch_tokens<T>(p, p.lepe, p.side, next, p.value_channels, ahead);
  prefetch_keys<T>(p, z, p.key, p.value, next, ahead);
  prefetch_tokens<T>(p, p.query, p.side, next, p.channels, ahead);
  return ahead.share(ceil_div(z.tokens, kRows) * (ceil_div(z.all, kVectors * kLanes) + ceil_div(z.all, kDepth)));
}

template <class T>
static void attend(const Problem& p, const Sizes& z, const Item& item, ForwardScratch& w) {
  const auto [batch, head, region] = item;
  w.keys.gather<T>(p, z, region);
  const int64_t count = w.keys.count, vectors = ceil_div(count, kLanes);
  transpose_rows(w.keys.key_rows, count, z.d, w.key_columns, z.step);
  for (int64_t first = 0; first < z.tokens; first += z.queries) {
    const int64_t last = least(first + z.queries, z.tokens), rows = last - first;
    if (count == 0) {
      std::memset(w.results, 0, sizeof(float) * rows * z.e);
      for (int64_t i = 0; i < rows; ++i) w.totals[i] = 1.0f, w.lse[i] = 0.0f;
    } else {
      pack_tokens<T>(p, p.query, p.side, batch, head, region, first, last, p.channels, p.scale, w.queries);
      multiply<false>(rows, w.queries, z.d, Strided{w.key_columns, z.step}, p.channels, vectors,
                      Strided{w.scores, z.step}, false, w.ahead);
      softmax(w.scores, z.step, rows, count, w.totals, w.lse);
      multiply<false>(rows, w.scores, z.step, Listed{w.keys.value_rows, 0}, count, z.e / kLanes,
                      Strided{w.results, z.e}, false, w.ahead);
    }
    write_outputs<T>(p, z, batch, head, region, first, last, w);
  }
}

template <class T>
static bool forward_part(const Problem& p, int64_t part, int64_t parts) {
  const Sizes z(p);
  Allocated<ForwardScratch> allocated(p, z);
  if (!allocated) return false;
  ForwardScratch& w = *allocated;
  const Share share(p, z, part, parts);
  Item item = Share::item(p, z, share.first);
  w.keys.set_head(z, item.batch, item.head);
  for (int64_t number = share.first; number < share.last; ++number) {
    w.ahead.prefetcher.clear();
    const Item next = Share::item(p, z, number + 1);
    if (number + 1 < share.last) w.ahead.each = prefetch<T>(p, z, next, w.ahead.prefetcher);
    attend<T>(p, z, item, w);
    if (next.head != item.head || next.batch != item.batch) w.keys.set_head(z, next.batch, next.head);
    item = next;
  }
  return true;
}
