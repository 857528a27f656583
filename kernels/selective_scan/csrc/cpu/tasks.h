// How a call is cut: into tasks of one route and some blocks of kLanes channels each, and these into chunks of steps.
#pragma once

constexpr int64_t kGroup = 64;    // channels of a task, about: enough to share B and C, few enough to have many tasks

template <class Real>
struct Cut {
  static constexpr int64_t W = kLanes<Real>;
  explicit Cut(const Problem& p)
      : blocks(ceil_div(p.channels, W)),
        groups(ceil_div(p.channels, kGroup)),
        most(ceil_div(blocks, groups)),
        tasks(p.batch * p.routes * groups) {}
  int64_t blocks, groups, most, tasks;  // most: blocks in a task
};

// One task: a batch item, a route, and channels from `first` blocks on.
template <class Real>
struct Task {
  Task(const Problem& p, const Cut<Real>& cut, int64_t index)
      : group(index % cut.groups), route(index / cut.groups % p.routes), batch(index / cut.groups / p.routes) {
    first = group * cut.blocks / cut.groups;
    blocks = (group + 1) * cut.blocks / cut.groups - first;
    map = route / (p.routes / p.maps);
  }
  int64_t group, route, batch, first, blocks, map;
};

// The steps of chunk k of a route, none where there is no such chunk; `at` has room for them.
static inline Tile chunk_of(const Problem& p, int64_t route, int64_t chunk, int64_t* at) {
  const int64_t first = chunk * p.chunk, steps = first < 0 ? 0 : least(p.length - first, p.chunk);
  for (int64_t s = 0; s < steps; ++s) at[s] = p.order ? p.order[route * p.length + first + s] : first + s;
  return {at, steps, 0, p.order == nullptr};
}

template <class Real>
static ALWAYS_INLINE int64_t channels_from(const Problem& p, int64_t channel) {
  return p.channels - channel < kLanes<Real> ? p.channels - channel : kLanes<Real>;
}

// Numbers of `some` channels, N of each, from (channel, N) with these strides to (N, kLanes), times a factor.
template <class Real>
static inline void read_states(const Real* from, int64_t channel_step, int64_t state_step, int64_t states, int64_t some,
                               Real factor, Real* to) {
  constexpr int64_t W = kLanes<Real>;
  for (int64_t n = 0; n < states; ++n) {
    for (int64_t i = 0; i < W; ++i) {
      to[n * W + i] = from != nullptr && i < some ? from[i * channel_step + n * state_step] * factor : Real(0);
    }
  }
}
template <class Real>
static inline void write_states(const Real* from, int64_t states, int64_t some, Real* to) {
  constexpr int64_t W = kLanes<Real>;
  for (int64_t i = 0; i < some; ++i) {
    for (int64_t n = 0; n < states; ++n) to[i * states + n] = from[n * W + i];
  }
}

// Where the states before a chunk are kept: (K, B, R, N, D), a row of channels for each state.
template <class Real>
static ALWAYS_INLINE Real* kept_states(const Problem& p, int64_t chunk, int64_t batch, int64_t route, int64_t channel) {
  return static_cast<Real*>(p.kept) + ((chunk * p.batch + batch) * p.routes + route) * p.states * p.channels + channel;
}

// A number a channel, of (R, D); zeros where there are none.
template <class Real>
static ALWAYS_INLINE Vec<Real> of_channels(const void* numbers, const Problem& p, int64_t route, int64_t channel) {
  if (numbers == nullptr) return Vec<Real>{};
  return widen_some(static_cast<const Real*>(numbers) + route * p.channels + channel, channels_from<Real>(p, channel));
}
