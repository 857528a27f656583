// Tiles of steps x channels between the caller's tensors and scratch memory, where a row of `kLanes` channels is a step.
#pragma once

// One tile's place in a tensor: `at[s]` is the step of the tensor at which step s of the tile lies, `some` of the
// tile's channels are there.
struct Tile {
  const int64_t* at;
  int64_t steps, some;
  bool in_row;  // at[s] = at[0] + s
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
  const T* from = tile_start<const T>(v, batch, route, 0);
  if (v.channel != 1 && tile.in_row) {  // along the steps
    for (int64_t n = 0; n < states; ++n) {
      const T* row = from + n * v.channel + tile.at[0] * v.step;
      for (int64_t s = 0; s < tile.steps; ++s) to[s * states + n] = widened<Real>(row[s * v.step]);
    }
  } else {
    for (int64_t s = 0; s < tile.steps; ++s) {
      const T* row = from + tile.at[s] * v.step;
      for (int64_t n = 0; n < states; ++n) to[s * states + n] = widened<Real>(row[n * v.channel]);
    }
  }
}
