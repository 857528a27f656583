// The backward pass: from the last chunk of steps to the first. Of each, a walk forward from the kept states makes its
// states and decays again, and a walk back takes the adjoints of the states through them.
#pragma once

constexpr double kLn2 = 0.6931471805599453;
constexpr int kBackStates = 8;  // at a time: their adjoints and sums fill the registers, a chunk's states a small cache

// What tasks share: the gradients that several of them add to. Each has a place of its own for each of them.
template <class Real>
struct Shared {
  Shared(const Problem& p, const Cut<Real>& cut, void* memory) {
    Arena arena(memory);
    ratio = p.routes / p.maps;
    coefficients = p.batch * p.routes * p.length * p.states;
    inputs = p.batch * p.maps * p.length * p.channels;
    const int64_t channels = p.batch * p.routes * p.channels;
    d_b = arena.take<Real>(cut.groups * coefficients);
    d_c = arena.take<Real>(cut.groups * coefficients);
    d_u = arena.take<Real>(ratio > 1 ? ratio * inputs : 0);
    d_a = arena.take<Real>(channels * p.states);
    d_d = arena.take<Real>(channels);
    d_bias = arena.take<Real>(channels);
    bytes = arena.used();
  }
  int64_t ratio, coefficients, inputs, bytes;
  Real *d_b, *d_c;  // (groups, B, R, L, N)
  Real* d_u;        // (ratio, as d_u is), without one where a map has one route
  Real* d_a;        // (B, R, D, N)
  Real *d_d, *d_bias;  // (B, R, D)
};

template <class Real>
struct BackwardScratch {
  static constexpr int64_t W = kLanes<Real>;
  BackwardScratch(const Problem& p, const Cut<Real>& cut, Arena& arena)
      : at{arena.take<int64_t>(p.chunk), arena.take<int64_t>(p.chunk)},
        b(arena.take<Real>(p.chunk * p.states)),
        c(arena.take<Real>(p.chunk * p.states)),
        d_b(arena.take<Real>(p.chunk * p.states)),
        d_c(arena.take<Real>(p.chunk * p.states)),
        rates(arena.take<Real>(cut.most * p.states * W)),
        g(arena.take<Real>(cut.most * p.states * W)),
        d_a(arena.take<Real>(cut.most * p.states * W)),
        d_d(arena.take<Real>(cut.most * W)),
        d_bias(arena.take<Real>(cut.most * W)),
        h(arena.take<Real>((p.chunk + 1) * kBackStates * W)),
        decays(arena.take<Real>(p.chunk * kBackStates * W)),
        products(arena.take<Real>(2 * p.chunk * kBackStates * W)) {
    for (Real** tile : {&u, &dt, &dtu, &slope, &d_y, &y, &through_u, &through_rate}) {
      *tile = arena.take<Real>(p.chunk * W);
    }
  }

  int64_t* at[2];  // the steps of this chunk and the one before, in turn
  Real *b, *c, *d_b, *d_c;  // (steps, N)
  Real *rates, *g, *d_a;    // (blocks, N, W)
  Real *d_d, *d_bias;       // (blocks, W)
  Real *h, *decays;         // (steps, states at a time, W); h[0] is the state before the chunk
  Real* products;
  Real *u, *dt, *dtu, *slope, *d_y, *y, *through_u, *through_rate;  // (steps, W)
};

// The states of a chunk, and <C, h> added to y where that is wanted.
template <int NB, bool WithOut, class Real>
static NOINLINE void walk_again(int64_t steps, int64_t states, const BackwardScratch<Real>& w, const Real* b,
                                const Real* c, const Real* rates) {
  constexpr int64_t W = kLanes<Real>;
  Vec<Real> h[NB];
  unroll<NB>([&](auto n) __attribute__((always_inline)) { h[n()] = load(w.h + n() * W); });
  Real *decays = w.decays, *after = w.h + NB * W;
  for (int64_t s = 0; s < steps; ++s, b += states, c += states, decays += NB * W, after += NB * W) {
    const Vec<Real> step = load(w.dt + s * W), in = load(w.dtu + s * W);
    Vec<Real> sum = {};
    unroll<NB>([&](auto n) __attribute__((always_inline)) {
      const Vec<Real> decay = exp2(step * load(rates + n() * W));
      h[n()] = decay * h[n()] + in * b[n()];
      store(decays + n() * W, decay);
      store(after + n() * W, h[n()]);
      if constexpr (WithOut) sum += h[n()] * c[n()];
    });
    if constexpr (WithOut) store(w.y + s * W, load(w.y + s * W) + sum);
  }
}

template <int N, class Real>
struct FirstOf {
  typedef Real Type __attribute__((vector_size(N * sizeof(Real)), aligned(sizeof(Real)), may_alias));
};

// Adds the first N lanes to numbers.
template <int N, class Real>
static ALWAYS_INLINE void add_first(Real* to, Vec<Real> v) {
  typename FirstOf<N, Real>::Type first;
  std::memcpy(&first, &v, sizeof(first));
  *reinterpret_cast<typename FirstOf<N, Real>::Type*>(to) += first;
}

// Adds the sums of the lanes of `count` vectors to numbers.
template <class Real>
static ALWAYS_INLINE void add_sums(const Real* vectors, int64_t count, Real* to) {
  constexpr int W = kLanes<Real>;
  Vec<Real> v[W];
  for (; count >= W; count -= W, vectors += W * W, to += W) {
    unroll<W>([&](auto i) __attribute__((always_inline)) { v[i()] = load(vectors + i() * W); });
    store(to, load(to) + sums_of<W, Real>(v));
  }
  for (int64_t i = 0; i < count; ++i) {
    v[0] = load(vectors + i * W);
    to[i] += sums_of<1, Real>(v)[0];
  }
}

// Back through a chunk: the adjoints g, and from them the sums <B, g> and <rate, g a h> of each step and the gradients
// of A, B and C.
template <int NB, class Real>
static NOINLINE void walk_back(int64_t steps, int64_t states, const BackwardScratch<Real>& w, const Real* b,
                               const Real* c, const Real* rates, Real* adjoints, Real* d_rates, Real* d_b, Real* d_c) {
  constexpr int64_t W = kLanes<Real>;
  Vec<Real> g[NB], d_a[NB];
  unroll<NB>([&](auto n) __attribute__((always_inline)) {
    g[n()] = load(adjoints + n() * W);
    d_a[n()] = Vec<Real>{};
  });
  Real *of_b = w.products, *of_c = w.products + steps * NB * W;
  // The shares of B's or C's gradient are added over the channels: all at once where a step has enough of them, else
  // behind the walk, those of several steps together.
  constexpr bool kAtOnce = NB == kBackStates && NB <= W;
  const auto keep = [](Real* later, Vec<Real>* shares, Real* now) __attribute__((always_inline)) {
    if constexpr (kAtOnce) {
      add_first<NB, Real>(now, sums_of<NB, Real>(shares));
    } else {
      unroll<NB>([&](auto n) __attribute__((always_inline)) { store(later + n() * W, shares[n()]); });
    }
  };
  for (int64_t s = steps - 1; s >= 0; --s) {
    const Vec<Real> d_y = load(w.d_y + s * W), in = load(w.dtu + s * W), step = load(w.dt + s * W);
    const Real *decays = w.decays + s * NB * W, *before = w.h + s * NB * W, *after = before + NB * W;
    Vec<Real> through_u = {}, through_rate = {}, shares[NB];
    unroll<NB>([&](auto n) __attribute__((always_inline)) { shares[n()] = load(after + n() * W) * d_y; });
    keep(of_c + s * NB * W, shares, d_c + s * states);
    unroll<NB>([&](auto n) __attribute__((always_inline)) {
      g[n()] += d_y * c[s * states + n()];
      through_u += g[n()] * b[s * states + n()];
      shares[n()] = g[n()] * in;
      g[n()] *= load(decays + n() * W);
      const Vec<Real> change = g[n()] * load(before + n() * W);
      through_rate += change * load(rates + n() * W);
      d_a[n()] += change * step;
    });
    keep(of_b + s * NB * W, shares, d_b + s * states);
    store(w.through_u + s * W, load(w.through_u + s * W) + through_u);
    store(w.through_rate + s * W, load(w.through_rate + s * W) + through_rate);
  }
  unroll<NB>([&](auto n) __attribute__((always_inline)) {
    store(adjoints + n() * W, g[n()]);
    store(d_rates + n() * W, load(d_rates + n() * W) + d_a[n()]);
  });
  if constexpr (!kAtOnce) {
    Real sums[W * NB];
    for (int64_t s = 0; s < steps; s += W) {
      const int64_t some = steps - s < W ? steps - s : W;
      for (auto [from, to] : {std::pair{of_b, d_b}, std::pair{of_c, d_c}}) {
        for (Real& x : sums) x = 0;
        add_sums<Real>(from + s * NB * W, some * NB, sums);
        for (int64_t i = 0; i < some; ++i) {
          for (int n = 0; n < NB; ++n) to[(s + i) * states + n] += sums[i * NB + n];
        }
      }
    }
  }
}

template <class Real, class T>
class BackwardTask {
 public:
  static constexpr int64_t W = kLanes<Real>;
  BackwardTask(const Problem& p, const Task<Real>& task, const BackwardScratch<Real>& w, const Shared<Real>& shared)
      : p(p), task(task), w(w), shared(shared), states(p.states), item(task.batch * p.routes + task.route) {
    coefficients = task.group * shared.coefficients + item * p.length * states;
  }

  void run() {
    for (int64_t i = 0; i < task.blocks; ++i) begin(i);
    for (int64_t k = ceil_div(p.length, p.chunk) - 1; k >= 0; --k) {
      const Tile tile = chunk_of(p, task.route, k, w.at[k % 2]);
      const Tile later = chunk_of(p, task.route, k - 1, w.at[(k + 1) % 2]);
      read_rows<Real, T>(p.b, task.batch, task.route, tile, states, w.b);
      read_rows<Real, T>(p.c, task.batch, task.route, tile, states, w.c);
      std::memset(w.d_b, 0, tile.steps * states * sizeof(Real));
      std::memset(w.d_c, 0, tile.steps * states * sizeof(Real));
      for (int64_t i = 0; i < task.blocks; ++i) block(k, i, tile, later);
      for (int64_t s = 0; s < tile.steps; ++s) {
        const int64_t to = coefficients + tile.at[s] * states, bytes = states * sizeof(Real);
        std::memcpy(shared.d_b + to, w.d_b + s * states, bytes);
        std::memcpy(shared.d_c + to, w.d_c + s * states, bytes);
      }
    }
    for (int64_t i = 0; i < task.blocks; ++i) end(i);
  }

 private:
  int64_t channel_of(int64_t i) const { return (task.first + i) * W; }

  void begin(int64_t i) const {
    const int64_t channel = channel_of(i), some = channels_from<Real>(p, channel);
    const Real* a = static_cast<const Real*>(p.a) + (task.route * p.channels + channel) * states;
    read_states<Real>(a, states, 1, states, some, Real(kLog2E), w.rates + i * states * W);
    const Real* d_last = p.d_last.data ? tile_start<const Real>(p.d_last, task.batch, task.route, channel) : nullptr;
    // The strides of `d_last`: `channel` of D, `step` of N.
    read_states<Real>(d_last, p.d_last.channel, p.d_last.step, states, some, Real(1), w.g + i * states * W);
    std::memset(w.d_a + i * states * W, 0, states * W * sizeof(Real));
    store(w.d_d + i * W, Vec<Real>{});
    store(w.d_bias + i * W, Vec<Real>{});
  }

  void block(int64_t k, int64_t i, Tile tile, const Tile& later) const {
    const int64_t channel = channel_of(i), steps = tile.steps;
    tile.some = channels_from<Real>(p, channel);
    read_tile<Real, T>(p.delta, task.batch, task.route, channel, tile, w.dt);
    read_tile<Real, T>(p.u, task.batch, task.map, channel, tile, w.u);
    read_tile<Real, T>(p.d_out, task.batch, task.route, channel, tile, w.d_y);
    const Vec<Real> bias = of_channels<Real>(p.bias, p, task.route, channel);
    step_sizes<true, Real>(p, steps, bias, ahead_of(k, i, tile, later), w.dt, w.slope);
    const Vec<Real> skip = of_channels<Real>(p.d, p, task.route, channel);
    for (int64_t s = 0; s < steps; ++s) {
      const Vec<Real> u = load(w.u + s * W);
      store(w.dtu + s * W, load(w.dt + s * W) * u);
      store(w.through_u + s * W, Vec<Real>{});
      store(w.through_rate + s * W, Vec<Real>{});
    }
    if (p.z.data) ungate(channel, tile, skip);
    const Real *b = w.b, *c = w.c;
    for_states<kBackStates>(states, [&](auto count, int64_t n) {
      const int64_t at = (i * states + n) * W;
      restore(k, channel, n, count, tile.some);
      if (p.z.data) {
        walk_again<count(), true, Real>(steps, states, w, b + n, c + n, w.rates + at);
      } else {
        walk_again<count(), false, Real>(steps, states, w, b + n, c + n, w.rates + at);
      }
      walk_back<count(), Real>(steps, states, w, b + n, c + n, w.rates + at, w.g + at, w.d_a + at, w.d_b + n, w.d_c + n);
    });
    Vec<Real> d_d = {}, d_bias = {};
    for (int64_t s = 0; s < steps; ++s) {
      const Vec<Real> u = load(w.u + s * W), d_y = load(w.d_y + s * W), through_u = load(w.through_u + s * W);
      const Vec<Real> d_dt = load(w.through_rate + s * W) * Real(kLn2) + through_u * u;
      const Vec<Real> d_delta = d_dt * load(w.slope + s * W);
      d_bias += d_delta;
      d_d += d_y * u;
      store(w.slope + s * W, d_delta);
      store(w.u + s * W, through_u * load(w.dt + s * W) + skip * d_y);
    }
    store(w.d_d + i * W, load(w.d_d + i * W) + d_d);
    store(w.d_bias + i * W, load(w.d_bias + i * W) + d_bias);
    write_tile<Real, T>(w.slope, p.d_delta, task.batch, task.route, channel, tile);
    if (shared.ratio > 1) {
      View own = p.d_u;
      own.data = shared.d_u + task.route % shared.ratio * shared.inputs;
      write_tile<Real, Real>(w.u, own, task.batch, task.map, channel, tile);
    } else {
      write_tile<Real, T>(w.u, p.d_u, task.batch, task.map, channel, tile);
    }
    if (p.z.data) gates(channel, tile);
  }

  // What block i of chunk k will write, and what the one that follows it will read.
  Ahead ahead_of(int64_t k, int64_t i, const Tile& tile, const Tile& later) const {
    Ahead ahead;
    const int64_t channel = channel_of(i);
    ahead.add<T>(p.d_delta, task.batch, task.route, channel, tile);
    if (shared.ratio == 1) ahead.add<T>(p.d_u, task.batch, task.map, channel, tile);
    if (p.z.data) ahead.add<T>(p.d_z, task.batch, task.route, channel, tile);
    const bool here = i + 1 < task.blocks;
    const Tile& next = here ? tile : later;
    if (next.steps <= 0) return ahead;
    const int64_t from = here ? channel + W : channel_of(0);
    ahead.add<T>(p.delta, task.batch, task.route, from, next);
    ahead.add<T>(p.u, task.batch, task.map, from, next);
    ahead.add<T>(p.d_out, task.batch, task.route, from, next);
    if (p.z.data) ahead.add<T>(p.z, task.batch, task.route, from, next);
    const Real* kept = kept_states<Real>(p, here ? k : k - 1, task.batch, task.route, from);
    ahead.add_rows(kept, p.channels * sizeof(Real), states);
    return ahead;
  }

  // The gradient of what the gates were multiplied with, and the share of the inputs in it.
  void ungate(int64_t channel, const Tile& tile, Vec<Real> skip) const {
    Real* z = w.y;
    read_tile<Real, T>(p.z, task.batch, task.route, channel, tile, z);
    for (int64_t s = 0; s < tile.steps; ++s) {
      const Vec<Real> x = load(z + s * W);
      store(w.d_y + s * W, load(w.d_y + s * W) * x * sigmoid(x));
      store(w.y + s * W, p.d ? skip * load(w.u + s * W) : Vec<Real>{});
    }
  }

  // The gradient of the gates, when y is complete and the other tiles are no longer needed.
  void gates(int64_t channel, const Tile& tile) const {
    Real *z = w.u, *d_out = w.dt;
    read_tile<Real, T>(p.z, task.batch, task.route, channel, tile, z);
    read_tile<Real, T>(p.d_out, task.batch, task.route, channel, tile, d_out);
    for (int64_t s = 0; s < tile.steps; ++s) {
      const Vec<Real> x = load(z + s * W), share = sigmoid(x);
      store(z + s * W, load(d_out + s * W) * load(w.y + s * W) * share * (1 + x * (1 - share)));
    }
    write_tile<Real, T>(z, p.d_z, task.batch, task.route, channel, tile);
  }

  // The states before the chunk.
  void restore(int64_t k, int64_t channel, int64_t n, int count, int64_t some) const {
    const Real* kept = kept_states<Real>(p, k, task.batch, task.route, channel) + n * p.channels;
    for (int j = 0; j < count; ++j, kept += p.channels) store(w.h + j * W, widen_some(kept, some));
  }

  void end(int64_t i) const {
    const int64_t channel = channel_of(i), some = channels_from<Real>(p, channel), at = item * p.channels + channel;
    write_states<Real>(w.g + i * states * W, states, some, static_cast<Real*>(p.d_initial) + at * states);
    write_states<Real>(w.d_a + i * states * W, states, some, shared.d_a + at * states);
    narrow_some(shared.d_d + at, load(w.d_d + i * W), some);
    narrow_some(shared.d_bias + at, load(w.d_bias + i * W), some);
  }

  const Problem& p;
  const Task<Real>& task;
  const BackwardScratch<Real>& w;
  const Shared<Real>& shared;
  int64_t states, item, coefficients;
};

template <class Real, class T>
static bool backward_tasks(const Problem& p, int64_t begin, int64_t end, void* memory) {
  const Cut<Real> cut(p);
  const Shared<Real> shared(p, cut, memory);
  Allocated<BackwardScratch<Real>> scratch(p, cut);
  if (!scratch) return false;
  for (int64_t index = begin; index < end; ++index) {
    BackwardTask<Real, T>(p, Task<Real>(p, cut, index), *scratch, shared).run();
  }
  return true;
}
