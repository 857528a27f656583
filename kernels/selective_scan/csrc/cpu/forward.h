// The forward pass: chunk by chunk, and in a chunk a block of channels after the other with its states in registers.
#pragma once

constexpr double kLog2E = 1.4426950408889634;

template <class Real>
struct ForwardScratch {
  static constexpr int64_t W = kLanes<Real>;
  ForwardScratch(const Problem& p, const Cut<Real>& cut, Arena& arena)
      : at{arena.take<int64_t>(p.chunk), arena.take<int64_t>(p.chunk)},
        b(arena.take<Real>(p.chunk * p.states)),
        c(arena.take<Real>(p.chunk * p.states)),
        rates(arena.take<Real>(cut.most * p.states * W)),
        h(arena.take<Real>(cut.most * p.states * W)),
        u(arena.take<Real>(p.chunk * W)),
        dt(arena.take<Real>(p.chunk * W)),
        y(arena.take<Real>(p.chunk * W)) {}

  int64_t* at[2];  // the steps of this chunk and the next, in turn
  Real *b, *c;  // (steps, N)
  Real* rates;  // (blocks, N, W): A log2(e), so that a decay is 2^(dt * rate)
  Real* h;      // (blocks, N, W)
  Real *u, *dt, *y;  // (steps, W); u becomes u * dt
};

// NB states of a block of channels through all steps of a chunk; y += <C, h>.
template <int NB, class Real>
static NOINLINE void walk(int64_t steps, int64_t states, const Real* dt, const Real* dtu, const Real* b, const Real* c,
                          const Real* rates, Real* states_in, Real* y) {
  constexpr int64_t W = kLanes<Real>;
  Vec<Real> h[NB];
  unroll<NB>([&](auto n) __attribute__((always_inline)) { h[n()] = load(states_in + n() * W); });
  for (int64_t s = 0; s < steps; ++s, b += states, c += states) {
    const Vec<Real> step = load(dt + s * W), in = load(dtu + s * W);
    Vec<Real> sum[2] = {load(y + s * W), {}};
    unroll<NB>([&](auto n) __attribute__((always_inline)) {
      h[n()] = exp2(step * load(rates + n() * W)) * h[n()] + in * b[n()];
      sum[n() % 2] += h[n()] * c[n()];
    });
    store(y + s * W, NB > 1 ? sum[0] + sum[1] : sum[0]);
  }
  unroll<NB>([&](auto n) __attribute__((always_inline)) { store(states_in + n() * W, h[n()]); });
}

// Calls f(constant, n) for blocks of up to `Most` states, a power of two, that make up all of them.
template <int Most, class F>
static ALWAYS_INLINE void for_states(int64_t states, F&& f) {
  int64_t n = 0;
  for (; n + Most <= states; n += Most) f(std::integral_constant<int, Most>{}, n);
  if constexpr (Most > 1) {
    if (n < states) for_states<Most / 2>(states - n, [&](auto count, int64_t m) { f(count, n + m); });
  }
}

// Raw step sizes (steps, W) to step sizes, and the slope of what made them if it is wanted.
template <bool WithSlope, class Real>
static ALWAYS_INLINE void step_sizes(const Problem& p, int64_t steps, Vec<Real> bias, const Ahead& ahead, Real* dt,
                                     Real* slope) {
  constexpr int64_t W = kLanes<Real>;
  for (int64_t s = 0; s < steps; ++s) {
    ahead.ask(s);
    Vec<Real> x = load(dt + s * W) + bias, rise = Vec<Real>{} + Real(1);
    if (p.softplus) x = softplus<WithSlope>(x, &rise);
    store(dt + s * W, x);
    if constexpr (WithSlope) store(slope + s * W, rise);
  }
}

template <class Real, class T>
static void forward_task(const Problem& p, const Task<Real>& task, const ForwardScratch<Real>& w) {
  constexpr int64_t W = kLanes<Real>;
  const int64_t states = p.states;
  for (int64_t i = 0; i < task.blocks; ++i) {
    const int64_t channel = (task.first + i) * W, some = channels_from<Real>(p, channel);
    const Real* a = static_cast<const Real*>(p.a) + (task.route * p.channels + channel) * states;
    read_states<Real>(a, states, 1, states, some, Real(kLog2E), w.rates + i * states * W);
    const Real* start = p.initial.data ? tile_start<const Real>(p.initial, task.batch, task.route, channel) : nullptr;
    // The strides of `initial`: `channel` of D, `step` of N.
    read_states<Real>(start, p.initial.channel, p.initial.step, states, some, Real(1), w.h + i * states * W);
  }
  for (int64_t k = 0; k * p.chunk < p.length; ++k) {
    Tile tile = chunk_of(p, task.route, k, w.at[k % 2]);
    const Tile later = chunk_of(p, task.route, k + 1, w.at[(k + 1) % 2]);
    read_rows<Real, T>(p.b, task.batch, task.route, tile, states, w.b);
    read_rows<Real, T>(p.c, task.batch, task.route, tile, states, w.c);
    for (int64_t i = 0; i < task.blocks; ++i) {
      const int64_t channel = (task.first + i) * W;
      Real *h = w.h + i * states * W, *rates = w.rates + i * states * W;
      tile.some = channels_from<Real>(p, channel);
      if (p.kept) {
        Real* kept = kept_states<Real>(p, k, task.batch, task.route, channel);
        for (int64_t n = 0; n < states; ++n, kept += p.channels) narrow_some(kept, load(h + n * W), tile.some);
      }
      read_tile<Real, T>(p.delta, task.batch, task.route, channel, tile, w.dt);
      read_tile<Real, T>(p.u, task.batch, task.map, channel, tile, w.u);
      Ahead ahead;
      ahead.add<T>(p.out, task.batch, task.route, channel, tile);
      const bool here = i + 1 < task.blocks;
      if (const Tile& next = here ? tile : later; next.steps > 0) {
        const int64_t from = here ? channel + W : task.first * W;
        ahead.add<T>(p.delta, task.batch, task.route, from, next);
        ahead.add<T>(p.u, task.batch, task.map, from, next);
        if (p.z.data) ahead.add<T>(p.z, task.batch, task.route, from, next);
      }
      const Vec<Real> bias = of_channels<Real>(p.bias, p, task.route, channel);
      step_sizes<false, Real>(p, tile.steps, bias, ahead, w.dt, nullptr);
      const Vec<Real> skip = of_channels<Real>(p.d, p, task.route, channel);
      for (int64_t s = 0; s < tile.steps; ++s) {
        const Vec<Real> u = load(w.u + s * W);
        store(w.y + s * W, p.d ? skip * u : Vec<Real>{});
        store(w.u + s * W, u * load(w.dt + s * W));
      }
      for_states<16>(states, [&](auto count, int64_t n) {
        walk<count(), Real>(tile.steps, states, w.dt, w.u, w.b + n, w.c + n, rates + n * W, h + n * W, w.y);
      });
      if (p.z.data) {
        read_tile<Real, T>(p.z, task.batch, task.route, channel, tile, w.u);
        for (int64_t s = 0; s < tile.steps; ++s) {
          const Vec<Real> z = load(w.u + s * W);
          store(w.y + s * W, load(w.y + s * W) * z * sigmoid(z));
        }
      }
      write_tile<Real, T>(w.y, p.out, task.batch, task.route, channel, tile);
    }
  }
  for (int64_t i = 0; i < task.blocks; ++i) {
    const int64_t channel = (task.first + i) * W;
    Real* last = static_cast<Real*>(p.last);
    last += ((task.batch * p.routes + task.route) * p.channels + channel) * states;
    write_states<Real>(w.h + i * states * W, states, channels_from<Real>(p, channel), last);
  }
}

template <class Real, class T>
static bool forward_tasks(const Problem& p, int64_t begin, int64_t end) {
  const Cut<Real> cut(p);
  Allocated<ForwardScratch<Real>> scratch(p, cut);
  if (!scratch) return false;
  for (int64_t index = begin; index < end; ++index) forward_task<Real, T>(p, Task<Real>(p, cut, index), *scratch);
  return true;
}
