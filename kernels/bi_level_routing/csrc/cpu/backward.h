// The backward pass: weights are computed again from the saved LSE.
//
// In one pass, region of queries by region of queries, a thread has whole heads and adds to the gradients of the keys as it
// meets them. Where there are more threads than heads, a first pass gives the gradients of the queries alone, and a second
// one those of the keys, region of keys by region of keys over the list of those that chose it. Both add up the same
// numbers in the same order, so that the bits do not hang on the number of threads.
#pragma once
#include "forward.h"

struct BackwardScratch {
  BackwardScratch(const Problem& p, const Sizes& z, Arena& arena)
      : key_columns(arena.take<float>(z.d * z.step)),
        value_columns(arena.take<float>(z.e * z.step)),
        queries(arena.take<float>(z.queries * z.d)),
        d_outs(arena.take<float>(z.queries * z.e)),
        weights(arena.take<float>(z.queries * z.step)),
        d_scores(arena.take<float>(z.queries * z.step)),
        results(arena.take<float>(z.queries * z.d)),
        lse(arena.take<float>(z.queries + kLanes)),
        shift(arena.take<float>(z.queries + kLanes)),
        d_key_rows(arena.take<float*>(z.all)),
        d_value_rows(arena.take<float*>(z.all)),
        added_keys(arena.take<float>(p.weights && z.pass != kQueriesAlone ? z.all * z.d : 0)),
        added_values(arena.take<float>(p.weights && z.pass != kQueriesAlone ? z.all * z.e : 0)),
        seen(arena.take<bool>(z.pass == kAll ? z.regions * p.heads : 0)),
        fresh(arena.take<bool>(p.topk)),
        d_keys(arena.take<float>(gradients(p, z) * z.d)),
        d_values(arena.take<float>(gradients(p, z) * z.e)),
        keys(p, z, arena) {}

  // Whether the gradients of keys are added up in the caller's tensors.
  static bool in_place(const Problem& p, const Sizes& z) {
    return z.pass == kAll && p.type == bestiary::routing::Type::float32 && !z.held && !p.mask && z.d == p.channels &&
           z.e == p.value_channels;
  }
  static int64_t gradients(const Problem& p, const Sizes& z) {
    return z.pass == kKeysAlone ? z.keys : z.pass == kQueriesAlone || in_place(p, z) ? 0 : z.regions * z.keys;
  }

  float *key_columns, *value_columns;
  float *queries, *d_outs;    // of the queries at hand; the queries times scale
  float *weights, *d_scores;  // (queries, step)
  float *results, *lse, *shift;
  float **d_key_rows, **d_value_rows;  // where the gradients of the keys at hand are added up
  float *added_keys, *added_values;    // with weights on regions: what one region of queries adds
  bool* seen;                          // regions of keys that have been added to, of some heads
  bool* fresh;                         // of each slot: what is added to it is the first
  float *d_keys, *d_values;            // of a head, or of the region at hand
  Keys keys;
  Ahead ahead;
};

// Scores become weights, the products of d_out and the values the gradients of the scores. With `given` the shift is;
// else it is found, the sum of P dP of each row.
static NOINLINE void score_gradients(float* weights, float* d_scores, int64_t step, int64_t rows, int64_t count,
                                     const float* lse, float* shift, bool given) {
  const int64_t whole = (count - 1) / kLanes * kLanes;
  const IntVec real = last_lanes(count);
  for (int64_t first = 0; first < rows; first += kLanes) {
    const int64_t some = least(rows - first, kLanes);
    Vec lanes[kLanes];
    for (int64_t i = 0; i < some; ++i) {
      float *s = weights + (first + i) * step, *d = d_scores + (first + i) * step;
      const Vec own = splat(lse[first + i] * kLog2E);
      Vec sums = {};
      for (int64_t x = 0; x < whole; x += kLanes) {
        const Vec weight = exp2(load(s + x) * kLog2E - own);
        store(s + x, weight);
        sums += weight * load(d + x);
      }
      const Vec weight = select(real, exp2(load(s + whole) * kLog2E - own), Vec{});
      store(s + whole, weight);
      lanes[i] = sums + weight * load(d + whole);
    }
    if (!given) {
      for (int64_t i = some; i < kLanes; ++i) lanes[i] = Vec{};
      store(shift + first, sums_of(lanes));
    }
    for (int64_t i = 0; i < some; ++i) {
      const float* s = weights + (first + i) * step;
      float* d = d_scores + (first + i) * step;
      const Vec own = splat(shift[first + i]);
      for (int64_t x = 0; x <= whole; x += kLanes) store(d + x, load(s + x) * (load(d + x) - own));
    }
  }
}

template <class T>
class Backward {
 public:
  Backward(const Problem& p, Pass pass) : p_(p), z_(p, pass), allocated_(p, z_) {}
  explicit operator bool() const { return static_cast<bool>(allocated_); }

  // All gradients of whole heads, in order. Where gradients of keys are added up in place, the heads of a picture go
  // through its regions together: their tokens are neighbors in memory.
  void heads(int64_t first, int64_t last) {
    const bool in_place = BackwardScratch::in_place(p_, z_);
    while (first < last) {
      const int64_t batch = first / p_.heads, head = first % p_.heads;
      const int64_t together = in_place ? least(last - first, p_.heads - head) : 1;
      heads_of(batch, head, together);
      first += together;
    }
  }

  // The gradients of the queries of one region, or of its keys.
  void item(const Item& item) {
    if (item.batch != batch_ || item.head != head_) set_head(item.batch, item.head);
    return z_.pass == kKeysAlone ? keys_of(item.region) : queries_of(item.region);
  }

 private:
  // The gradients of the keys of one region.
  void keys_of(int64_t region) {
    BackwardScratch& w = *allocated_;
    const int32_t* starts = p_.starts + batch_ * (z_.regions + 1);
    if (starts[region] == starts[region + 1]) return zero_region(region);
    std::memset(w.d_keys, 0, sizeof(float) * z_.keys * z_.d);
    std::memset(w.d_values, 0, sizeof(float) * z_.keys * z_.e);
    const int32_t* entries = p_.entries + batch_ * z_.regions * p_.topk;
    float factor = 0.0f;
    for (int64_t i = starts[region]; i < starts[region + 1];) {
      const int64_t from = entries[i] / p_.topk;
      int64_t times = 1;  // a region may have been chosen more than once; with weights, these are told apart
      while (!p_.weights && i + times < starts[region + 1] && entries[i + times] / p_.topk == from) ++times;
      const float own = p_.weights ? p_.weights[batch_ * z_.regions * p_.topk + entries[i]] : 1.0f;
      if (i == starts[region] || own != factor) {
        factor = own;
        w.keys.gather_one<T>(p_, z_, region, factor);
        transpose_keys();
      }
      set_targets(0, region);
      if (w.keys.count) {
        for (int64_t first = 0; first < z_.tokens; first += z_.queries) {
          const int64_t last = least(first + z_.queries, z_.tokens);
          take_queries(from, first, last, true);
          for (int64_t time = 0; time < times; ++time) add_keys(0, last - first, first == 0);
        }
      }
      if (p_.weights) give_weighted(0, region, entries[i], factor);
      i += times;
    }
    give_region(region, w.d_keys, w.d_values);
  }

  void heads_of(int64_t batch, int64_t head, int64_t together) {
    BackwardScratch& w = *allocated_;
    std::memset(w.seen, 0, z_.regions * together);
    first_head_ = head;
    Item item = {batch, head, 0};
    for (int64_t number = 1; number <= z_.regions * together; ++number) {
      const Item next = {batch, head + number % together, number / together};
      w.ahead.prefetcher.clear();
      if (next.region < z_.regions) w.ahead.each = prefetch_gradients(next);
      if (batch != batch_ || item.head != head_) set_head(batch, item.head);
      queries_of(item.region);
      item = next;
    }
    const bool in_place = BackwardScratch::in_place(p_, z_);
    for (int64_t i = 0; i < together; ++i) {
      head_ = head + i;
      for (int64_t r = 0; r < z_.regions; ++r) {
        if (!seen(r)) {
          zero_region(r);
        } else if (!in_place) {
          give_region(r, w.d_keys + r * z_.keys * z_.d, w.d_values + r * z_.keys * z_.e);
        }
      }
    }
  }

  bool& seen(int64_t region) { return (*allocated_).seen[(head_ - first_head_) * z_.regions + region]; }

  int64_t prefetch_gradients(const Item& next) {
    Prefetcher& ahead = (*allocated_).ahead.prefetcher;
    prefetch_tokens<T>(p_, p_.d_query, p_.side, next, p_.channels, ahead);
    if (BackwardScratch::in_place(p_, z_)) prefetch_keys<T>(p_, z_, p_.d_key, p_.d_value, next, ahead);
    prefetch_keys<T>(p_, z_, p_.key, p_.value, next, ahead);
    prefetch_tokens<T>(p_, p_.d_out, p_.side, next, p_.value_channels, ahead);
    prefetch_tokens<T>(p_, p_.query, p_.side, next, p_.channels, ahead);
    return ahead.share(ceil_div(z_.tokens, kRows) * 2 * ceil_div(z_.all, kVectors * kLanes));
  }

  void set_head(int64_t batch, int64_t head) {
    batch_ = batch, head_ = head;
    (*allocated_).keys.set_head(z_, batch, head);
  }

  void transpose_keys() {
    BackwardScratch& w = *allocated_;
    transpose_rows(w.keys.key_rows, w.keys.count, z_.d, w.key_columns, z_.step);
    transpose_rows(w.keys.value_rows, w.keys.count, z_.e, w.value_columns, z_.step);
  }

  void queries_of(int64_t region) {
    BackwardScratch& w = *allocated_;
    w.keys.gather<T>(p_, z_, region);
    transpose_keys();
    const int64_t count = w.keys.count, at = (batch_ * z_.regions + region) * p_.topk;
    for (int64_t slot = 0; z_.pass == kAll && slot < p_.topk; ++slot) set_targets(slot, p_.index[at + slot]);
    for (int64_t first = 0; first < z_.tokens; first += z_.queries) {
      const int64_t last = least(first + z_.queries, z_.tokens), rows = last - first;
      if (count == 0) {
        std::memset(w.results, 0, sizeof(float) * rows * z_.d);
      } else {
        take_queries(region, first, last, false);
        multiply<false>(rows, w.d_scores, z_.step, Listed{w.keys.key_rows, 0}, count, z_.d / kLanes,
                        Strided{w.results, z_.d}, false, w.ahead);
        for (int64_t slot = 0; z_.pass == kAll && slot < p_.topk; ++slot) add_keys(slot, rows, first == 0);
      }
      unpack_tokens<T>(p_, p_.d_query, p_.side, batch_, head_, region, first, last, p_.channels, p_.scale, w.results);
    }
    for (int64_t slot = 0; p_.weights && z_.pass == kAll && slot < p_.topk; ++slot) {
      give_weighted(slot, p_.index[at + slot], region * p_.topk + slot, p_.weights[at + slot]);
    }
  }

  // Queries and upstream gradients of some tokens, their weights and the gradients of their scores for the keys at hand.
  void take_queries(int64_t region, int64_t first, int64_t last, bool given) {
    BackwardScratch& w = *allocated_;
    const int64_t rows = last - first, vectors = ceil_div(w.keys.count, kLanes);
    pack_tokens<T>(p_, p_.query, p_.side, batch_, head_, region, first, last, p_.channels, p_.scale, w.queries);
    pack_tokens<T>(p_, p_.d_out, p_.side, batch_, head_, region, first, last, p_.value_channels, 1.0f, w.d_outs);
    const int64_t width = p_.grid[1] * p_.side[1], height = p_.grid[0] * p_.side[0];
    const View lse = {p_.lse, height * width * p_.heads, width * p_.heads, p_.heads, 1};
    for_runs(p_.side, first, last, [&](int64_t y, int64_t x, int64_t at, int64_t count) {
      const float* from = token_at<const float>(p_, lse, p_.side, batch_, head_, region, y, x);
      for (int64_t i = 0; i < count; ++i) w.lse[at + i] = from[i * p_.heads];
    });
    float* shift = p_.shift ? p_.shift + ((batch_ * p_.heads + head_) * z_.regions + region) * z_.tokens + first : nullptr;
    if (given) std::memcpy(w.shift, shift, sizeof(float) * rows);
    multiply<false>(rows, w.queries, z_.d, Strided{w.key_columns, z_.step}, p_.channels, vectors,
                    Strided{w.weights, z_.step}, false, w.ahead);
    multiply<false>(rows, w.d_outs, z_.e, Strided{w.value_columns, z_.step}, p_.value_channels, vectors,
                    Strided{w.d_scores, z_.step}, false, w.ahead);
    score_gradients(w.weights, w.d_scores, z_.step, rows, w.keys.count, w.lse, w.shift, given);
    if (shift && !given) std::memcpy(shift, w.shift, sizeof(float) * rows);
  }

  // Where what the keys of a slot get is added up.
  void set_targets(int64_t slot, int64_t region) {
    BackwardScratch& w = *allocated_;
    const int64_t start = w.keys.starts[slot], end = w.keys.starts[slot + 1];
    if (p_.weights) {
      for (int64_t i = start; i < end; ++i) {
        w.d_key_rows[i] = w.added_keys + i * z_.d, w.d_value_rows[i] = w.added_values + i * z_.e;
      }
    }
    w.fresh[slot] = p_.weights != nullptr;
    if (z_.pass == kAll && !seen(region)) {
      seen(region) = true;
      w.fresh[slot] = true;
      // With weights all is added to this, and not written.
      if (p_.weights) for_targets(region, [&](int64_t, float* d_key, float* d_value) {
        std::memset(d_key, 0, sizeof(float) * z_.d);
        std::memset(d_value, 0, sizeof(float) * z_.e);
      });
    }
    if (p_.weights) return;
    for_targets(region, [&](int64_t i, float* d_key, float* d_value) {
      w.d_key_rows[start + i] = d_key, w.d_value_rows[start + i] = d_value;
    });
  }

  // body(number, gradient of the key, of the value) for the keys of a region that count, as many as are at hand.
  template <class Body>
  void for_targets(int64_t region, Body&& body) {
    BackwardScratch& w = *allocated_;
    if (BackwardScratch::in_place(p_, z_)) {
      for_runs(p_.kv_side, 0, z_.keys, [&](int64_t y, int64_t x, int64_t at, int64_t count) {
        float* d_key = token_at<float>(p_, p_.d_key, p_.kv_side, batch_, head_, region, y, x);
        float* d_value = token_at<float>(p_, p_.d_value, p_.kv_side, batch_, head_, region, y, x);
        for (int64_t i = 0; i < count; ++i) body(at + i, d_key + i * p_.d_key.column, d_value + i * p_.d_value.column);
      });
      return;
    }
    const int64_t first = z_.pass == kAll ? region * z_.keys : 0;
    int64_t count = 0;
    for_keys(p_, batch_, region, [&](int64_t, bool counts) { count += counts; });
    for (int64_t i = 0; i < count; ++i) body(i, w.d_keys + (first + i) * z_.d, w.d_values + (first + i) * z_.e);
  }

  // Adds what the queries at hand give to the keys of a slot; never over two slots at once, whose keys may be the same.
  void add_keys(int64_t slot, int64_t rows, bool first) {
    BackwardScratch& w = *allocated_;
    const int64_t start = w.keys.starts[slot], count = w.keys.starts[slot + 1] - start;
    const bool add = !(first && w.fresh[slot]);
    multiply<true>(count, w.weights + start, z_.step, Strided{w.d_outs, z_.e}, rows, z_.e / kLanes,
                   Listed{w.d_value_rows + start, 0}, add, w.ahead);
    multiply<true>(count, w.d_scores + start, z_.step, Strided{w.queries, z_.d}, rows, z_.d / kLanes,
                   Listed{w.d_key_rows + start, 0}, add, w.ahead);
  }

  // What one region of queries gave to weighted keys and values of a slot goes on to keys, values and weight.
  void give_weighted(int64_t slot, int64_t region, int64_t place, float factor) {
    BackwardScratch& w = *allocated_;
    const int64_t start = w.keys.starts[slot];
    Vec sums = {};
    for_targets(region, [&](int64_t i, float* d_key, float* d_value) {
      const float *key = w.keys.raw_key_rows[start + i], *value = w.keys.raw_value_rows[start + i];
      const float *added_key = w.added_keys + (start + i) * z_.d, *added_value = w.added_values + (start + i) * z_.e;
      for (int64_t c = 0; c < z_.d; c += kLanes) {
        const Vec added = load(added_key + c);
        sums += added * load(key + c);
        store(d_key + c, load(d_key + c) + added * factor);
      }
      for (int64_t c = 0; c < z_.e; c += kLanes) {
        const Vec added = load(added_value + c);
        sums += added * load(value + c);
        store(d_value + c, load(d_value + c) + added * factor);
      }
    });
    p_.d_weights[(batch_ * p_.heads + head_) * z_.regions * p_.topk + place] = sum(sums);
  }

  void zero_region(int64_t region) {
    for_runs(p_.kv_side, 0, z_.keys, [&](int64_t y, int64_t x, int64_t, int64_t count) {
      for (int64_t i = x; i < x + count; ++i) zero_token(region, y, i);
    });
  }

  void zero_token(int64_t region, int64_t y, int64_t x) {
    std::memset(token_at<T>(p_, p_.d_key, p_.kv_side, batch_, head_, region, y, x), 0, sizeof(T) * p_.channels);
    std::memset(token_at<T>(p_, p_.d_value, p_.kv_side, batch_, head_, region, y, x), 0, sizeof(T) * p_.value_channels);
  }

  // Gradients of the keys of a region that count to the caller's tensors, zeros for the others.
  void give_region(int64_t region, const float* d_keys, const float* d_values) {
    if (p_.mask == nullptr) {
      unpack_tokens<T>(p_, p_.d_key, p_.kv_side, batch_, head_, region, 0, z_.keys, p_.channels, 1.0f, d_keys);
      unpack_tokens<T>(p_, p_.d_value, p_.kv_side, batch_, head_, region, 0, z_.keys, p_.value_channels, 1.0f, d_values);
      return;
    }
    int64_t at = 0;
    for_keys(p_, batch_, region, [&](int64_t u, bool counts) {
      if (!counts) return zero_token(region, u / p_.kv_side[1], u % p_.kv_side[1]);
      unpack_tokens<T>(p_, p_.d_key, p_.kv_side, batch_, head_, region, u, u + 1, p_.channels, 1.0f, d_keys + at * z_.d);
      unpack_tokens<T>(p_, p_.d_value, p_.kv_side, batch_, head_, region, u, u + 1, p_.value_channels, 1.0f,
                       d_values + at * z_.e);
      ++at;
    });
  }

  const Problem& p_;
  const Sizes z_;
  Allocated<BackwardScratch> allocated_;
  int64_t batch_ = -1, head_ = -1, first_head_ = 0;
};

template <class T>
static bool backward_heads(const Problem& p, int64_t part, int64_t parts) {
  Backward<T> work(p, kAll);
  if (!work) return false;
  const int64_t all = p.batch * p.heads;
  work.heads(part * all / parts, (part + 1) * all / parts);
  return true;
}

// The passes over regions of queries alone, and of keys.
template <class T>
static bool backward_items(const Problem& p, Pass pass, int64_t part, int64_t parts) {
  Backward<T> work(p, pass);
  if (!work) return false;
  const Sizes z(p, pass);
  const Share share(p, z, part, parts);
  for (int64_t number = share.first; number < share.last; ++number) work.item(Share::item(p, z, number));
  return true;
}
