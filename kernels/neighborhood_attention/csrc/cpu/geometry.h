// Where things are: windows, dilation groups, the sizes of scratch memory, and how the work is cut.
#pragma once
#include "problem.h"

using bestiary::na::Problem;
using bestiary::na::View;

// Places of a dilation group that the query at one place sees; windows.py states the rule.
struct Range {
  int64_t start, end;
};
static ALWAYS_INLINE Range window(const Problem& p, int axis, int64_t place, int64_t length) {
  const int64_t k = p.kernel[axis], s = p.stride[axis], first = place / s * s;
  if (p.causal[axis]) return {most(least(first + s - 1, length - 1) - k + 1, 0), place + 1};
  const int64_t start = least(most(least(first + s / 2, length - 1) - k / 2, 0), length - k);
  return {start, start + k};
}

// One dilation group of one key/value head of one batch entry.
struct Unit {
  int64_t batch, kv_head, origin[3], length[3];

  int64_t rows() const { return length[0] * length[1]; }
};

static int64_t groups_of(const Problem& p) { return p.dilation[0] * p.dilation[1] * p.dilation[2]; }
static int64_t units_of(const Problem& p) { return p.kv_heads * p.batch * groups_of(p); }

// Units are counted with the head outermost, then batch: gradients shared by batch entries or groups of a head meet in few
// parts.
static Unit unit_at(const Problem& p, int64_t index) {
  Unit u;
  for (int axis = 2; axis >= 0; --axis) {
    u.origin[axis] = index % p.dilation[axis];
    index /= p.dilation[axis];
    u.length[axis] = ceil_div(p.length[axis] - u.origin[axis], p.dilation[axis]);
  }
  u.batch = index % p.batch;
  u.kv_head = index / p.batch;
  return u;
}

// The first element of the token at `place` of a unit, for a tensor's head.
template <class T>
static ALWAYS_INLINE T* token_at(const Problem& p, const View& view, const Unit& u, int64_t t, int64_t y, int64_t x,
                                 int64_t head) {
  const int64_t place[3] = {t, y, x};
  int64_t offset = u.batch * view.batch + head * view.head;
  for (int axis = 0; axis < 3; ++axis) offset += (u.origin[axis] + place[axis] * p.dilation[axis]) * view.axis[axis];
  return static_cast<T*>(view.data) + offset;
}
static ALWAYS_INLINE int64_t token_step(const Problem& p, const View& view) { return view.axis[2] * p.dilation[2]; }

// Sizes that depend on the problem alone.
struct Sizes {
  int64_t heads_each;        // query heads that share a key/value head
  int64_t d, e;              // channels, padded to whole vectors
  int64_t tokens;            // of the longest row of a unit
  int64_t row_stride;        // of a transposed row of keys
  int64_t band;              // rows of queries worked on together
  int64_t ring;              // rows of keys along the second axis that are kept in scratch memory
  int64_t rows;              // of keys that a band sees, at most, and that are kept
  int64_t blocks;            // of a row of keys
  int64_t extra_blocks, extra_stride;
  int64_t all_blocks;        // of a group of queries, at most
  int64_t bias_pad, bias_row, bias_rows;  // the padded bias table of one head

  explicit Sizes(const Problem& p) {
    heads_each = p.kv_heads ? p.heads / p.kv_heads : 0;
    d = padded(p.channels);
    e = padded(p.value_channels);
    tokens = ceil_div(p.length[2], p.dilation[2]);
    band = p.length[1] > p.dilation[1] ? kRows : 1;
    // Windows of neighboring rows begin at most a stride apart.
    ring = least(p.kernel[1] + (band - 1) * p.stride[1], ceil_div(p.length[1], p.dilation[1]));
    rows = p.kernel[0] * ring;
    blocks = ceil_div(least(p.kernel[2] + kColumns - 1, tokens), kLanes);
    // Windows begin at most a kernel before the end, and are read in whole blocks.
    row_stride = transposed_stride(tokens - p.kernel[2] + blocks * kLanes);
    extra_blocks = ceil_div(p.additional, kLanes);
    extra_stride = p.additional ? transposed_stride(p.additional) : 0;
    all_blocks = rows * blocks + extra_blocks;
    bias_pad = blocks * kLanes + kColumns;
    bias_row = 2 * p.kernel[2] - 1 + 2 * bias_pad;
    bias_rows = (2 * p.kernel[0] - 1) * (2 * p.kernel[1] - 1);
  }
};
