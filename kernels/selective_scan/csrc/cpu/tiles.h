// Tiles of steps x channels between the caller's tensors and scratch memory, where a row of `kLanes` channels is a step.
#pragma once

// One tile's place in a tensor: `at[s]` is the step of the tensor at which step s of the tile lies, `some` of the
// tile's channels are there.
struct Tile {
  const int64_t* at;
  int64_t steps, some;
  bool in_row;  // at[s] = at[0] + s
};

// Asks for what will be read or written a tile later, a line of each tensor at a time while the present tile is worked on:
// the rows of a tile lie too far apart for the processor to foresee, and more requests than it can hold would halt it.
class Ahead {
 public:
  // The tile of `v` that starts with this batch item, route and channel.
  template <class T>
  void add(const View& v, int64_t batch, int64_t route, int64_t channel, const Tile& tile) {
    constexpr int64_t size = sizeof(T), line = 64;
    const int64_t step = v.step * size, first = (batch * v.batch + route * v.route + channel * v.channel) * size;
    const char* from = static_cast<const char*>(v.data) + first + (tile.in_row ? tile.at[0] * step : 0);
    if (!tile.in_row) {
      streams_[count_++] = {from, tile.at, step, 0, tile.steps, 0, 0};
    } else if (v.channel == 1) {
      streams_[count_++] = {from, nullptr, 0, step, tile.steps, 0, 0};
    } else {  // lines along the steps, of one channel after the other
      int shift = 0;
      while ((tile.steps * size >> (shift + 1)) >= line) ++shift;
      streams_[count_++] = {from, nullptr, line, v.channel * size, tile.steps, shift, (1 << shift) - 1};
    }
  }
  // `count` rows, `step` bytes apart.
  void add_rows(const void* from, int64_t step, int64_t count) {
    streams_[count_++] = {static_cast<const char*>(from), nullptr, 0, step, count, 0, 0};
  }
  ALWAYS_INLINE void ask(int64_t s) const {
    for (int i = 0; i < count_; ++i) {
      const Stream& t = streams_[i];
      if (s >= t.count) continue;
      const int64_t offset = t.at ? t.at[s] * t.step : (s >> t.shift) * t.row + (s & t.mask) * t.step;
      __builtin_prefetch(t.from + offset, 0, 2);
    }
  }

 private:
  struct Stream {
    const char* from;
    const int64_t* at;
    int64_t step, row, count;
    int shift, mask;
  };
  Stream streams_[10];
  int count_ = 0;
};

template <class T>
static ALWAYS_INLINE T* tile_start(const View& v, int64_t batch, int64_t route, int64_t channel) {
  return static_cast<T*>(v.data) + batch * v.batch + route * v.route + channel * v.channel;
}

// To (steps, kLanes), zeros in the place of channels that are not there.
template <class Real, class T>
static NOINLINE void read_tile(const View& v, int64_t batch, int64_t route, int64_t channel, const Tile& tile,
                               Real* to) {
  constexpr int64_t W = kLanes<Real>;
  const T* from = tile_start<const T>(v, batch, route, channel);
  if (v.channel == 1 && tile.some == W) {
    for (int64_t s = 0; s < tile.steps; ++s, to += W) store(to, widen(from + tile.at[s] * v.step));
  } else if (v.channel == 1) {
    for (int64_t s = 0; s < tile.steps; ++s, to += W) store(to, widen_some(from + tile.at[s] * v.step, tile.some));
  } else if (v.step == 1 && tile.in_row) {
    for (int64_t s = 0; s < tile.steps; s += W) {
      const int64_t steps = tile.steps - s < W ? tile.steps - s : W;
      const T* first = from + tile.at[0] + s;
      Vec<Real> rows[W] = {};
      for (int64_t i = 0; i < tile.some; ++i, first += v.channel) {
        rows[i] = steps == W ? widen(first) : widen_some(first, steps);
      }
      transpose<Real>(rows);
      for (int64_t i = 0; i < steps; ++i, to += W) store(to, rows[i]);
    }
  } else {
    for (int64_t s = 0; s < tile.steps; ++s, to += W) {
      T row[W] = {};
      for (int64_t i = 0; i < tile.some; ++i) row[i] = from[tile.at[s] * v.step + i * v.channel];
      store(to, widen(row));
    }
  }
}

// From (steps, kLanes).
template <class Real, class T>
static NOINLINE void write_tile(const Real* from, const View& v, int64_t batch, int64_t route, int64_t channel,
                                const Tile& tile) {
  constexpr int64_t W = kLanes<Real>;
  T* to = tile_start<T>(v, batch, route, channel);
  if (v.channel == 1 && tile.some == W) {
    for (int64_t s = 0; s < tile.steps; ++s, from += W) narrow(to + tile.at[s] * v.step, load(from));
  } else if (v.channel == 1) {
    for (int64_t s = 0; s < tile.steps; ++s, from += W) narrow_some(to + tile.at[s] * v.step, load(from), tile.some);
  } else if (v.step == 1 && tile.in_row) {
    for (int64_t s = 0; s < tile.steps; s += W) {
      const int64_t steps = tile.steps - s < W ? tile.steps - s : W;
      T* first = to + tile.at[0] + s;
      Vec<Real> rows[W] = {};
      for (int64_t i = 0; i < steps; ++i, from += W) rows[i] = load(from);
      transpose<Real>(rows);
      for (int64_t i = 0; i < tile.some; ++i, first += v.channel) {
        if (steps == W) {
          narrow(first, rows[i]);
        } else {
          narrow_some(first, rows[i], steps);
        }
      }
    }
  } else {
    for (int64_t s = 0; s < tile.steps; ++s, from += W) {
      T row[W];
      narrow(row, load(from));
      for (int64_t i = 0; i < tile.some; ++i) to[tile.at[s] * v.step + i * v.channel] = row[i];
    }
  }
}

// The coefficients of the tile's steps to (steps, states).
template <class Real, class T>
static NOINLINE void read_rows(const View& v, int64_t batch, int64_t route, const Tile& tile, int64_t states, Real* to) {
  constexpr int64_t W = kLanes<Real>;
  const T* from = tile_start<const T>(v, batch, route, 0);
  if (v.step == 1 && tile.in_row && (v.channel != 1 || states == 1)) {
    for (int64_t n = 0; n < states; n += W) {
      const int64_t some = least(states - n, W);
      for (int64_t s = 0; s < tile.steps; s += W) {
        const int64_t steps = least(tile.steps - s, W);
        const T* first = from + n * v.channel + tile.at[0] + s;
        Vec<Real> rows[W] = {};
        for (int64_t i = 0; i < some; ++i, first += v.channel) {
          rows[i] = steps == W ? widen(first) : widen_some(first, steps);
        }
        if (states == 1) {
          narrow_some(to + s, rows[0], steps);
          continue;
        }
        transpose<Real>(rows);
        for (int64_t i = 0; i < steps; ++i) {
          Real* row = to + (s + i) * states + n;
          if (some == W) {
            store(row, rows[i]);
          } else {
            std::memcpy(row, &rows[i], some * sizeof(Real));
          }
        }
      }
    }
    return;
  }
  for (int64_t s = 0; s < tile.steps; ++s, to += states) {
    const T* row = from + tile.at[s] * v.step;
    int64_t n = 0;
    if (v.channel == 1) {
      for (; n + W <= states; n += W) store(to + n, widen(row + n));
    }
    for (; n < states; ++n) to[n] = widened<Real>(row[n * v.channel]);
  }
}
