// The index rule of windows.py for one axis inside a dilation group, and coordinates packed into one word.
#pragma once
#include "problem.h"
#include "ptx.cuh"

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kLowest = -1e30f;  // below every score; finite, so that differences of two are never NaN

struct Axis {
  int n, kernel, stride, causal;  // n: tokens of the dilation group on this axis

  // First key of the query at place p; never decreases with p.
  NA_DEVICE int first_key(int p) const {
    int leader = p;
    if (stride > 1) leader = min(p / stride * stride + (causal ? stride - 1 : stride / 2), n - 1);
    if (causal) return max(leader - kernel + 1, 0);
    return min(max(leader - kernel / 2, 0), n - kernel);
  }
  NA_DEVICE int end_key(int p) const { return causal ? p + 1 : first_key(p) + kernel; }

  // The queries that see key j are one interval, since both ends of a window never decrease.
  NA_DEVICE int first_query(int j) const {
    int low = 0, high = n;  // the first p with end_key(p) > j
    while (low < high) {
      int middle = (low + high) >> 1;
      if (end_key(middle) > j) high = middle;
      else low = middle + 1;
    }
    return low;
  }
  NA_DEVICE int end_query(int j) const {
    int low = 0, high = n;  // the first p with first_key(p) > j
    while (low < high) {
      int middle = (low + high) >> 1;
      if (first_key(middle) > j) high = middle;
      else low = middle + 1;
    }
    return low;
  }
};

NA_DEVICE Axis axis_of(const NaProblem& p, int i, int group) {
  return {(p.length[i] - group + p.dilation[i] - 1) / p.dilation[i], p.kernel[i], p.stride[i], p.causal[i]};
}

// Coordinates on three axes share a 32-bit word, each field with one spare bit above it (NaPlan::guard has those bits).
// A key is seen if low <= key <= high in every field; `key` comes with the spare bits set, `high` with twice them added
// (modulo 2^32), so that each difference keeps its spare bit exactly where it is not negative.
NA_DEVICE bool is_seen(unsigned key, unsigned low, unsigned high, unsigned guard) {
  return (((key - low) & (high - key)) & guard) == guard;
}

// The bounds that no key meets: `low` has every field at its largest, `high` at 0.
NA_DEVICE unsigned unseen_low(unsigned guard, const int (&shift)[3]) {
  unsigned fields = 0;
  for (int i = 0; i < 3; ++i) fields |= 1u << shift[i];
  return guard - fields;  // a spare bit less one at the field's lowest bit: the field full of ones
}

// Batch, dilation group and tile of one item of work.
struct Place {
  int batch, group[3], tile[3];
};

NA_DEVICE Place place_of(const NaProblem& p, const int (&tiles)[3], unsigned item) {
  Place place;
  for (int i = 2; i >= 0; --i) {
    place.tile[i] = (int)(item % (unsigned)tiles[i]);
    item /= (unsigned)tiles[i];
  }
  for (int i = 2; i >= 0; --i) {
    place.group[i] = (int)(item % (unsigned)p.dilation[i]);
    item /= (unsigned)p.dilation[i];
  }
  place.batch = (int)item;
  return place;
}
