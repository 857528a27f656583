// The last part of the backward pass: what the tasks left of the shared gradients is added up, always in one order.
#pragma once

constexpr int64_t kPart = 4096;  // numbers, about, of one part of the work

// The parts: steps of B's and C's gradients, then inputs, then routes.
template <class Real>
struct SumParts {
  SumParts(const Problem& p, const Shared<Real>& shared)
      : steps(kPart / p.states > 0 ? kPart / p.states : 1),
        of_item(ceil_div(p.length, steps)),
        coefficients(p.batch * p.routes * of_item),
        inputs(shared.ratio > 1 ? ceil_div(shared.inputs, kPart) : 0),
        all(coefficients + inputs + p.routes) {}
  int64_t steps, of_item, coefficients, inputs, all;
};

template <class Real, class T>
static ALWAYS_INLINE void put(T* to, Real x) {
  if constexpr (std::is_same_v<T, Real>) {
    *to = x;
  } else {
    narrow_some(to, Vec<Real>{} + x, 1);
  }
}

// sum of `count` rows, `step` apart, of `size` numbers, in the order of the rows.
template <class Real>
static inline void add_rows(const Real* from, int64_t step, int64_t count, int64_t size, Real* to) {
  for (int64_t i = 0; i < size; ++i) to[i] = from[i];
  for (int64_t row = 1; row < count; ++row) {
    for (int64_t i = 0; i < size; ++i) to[i] += from[row * step + i];
  }
}

template <class Real, class T>
static void sum_coefficients(const Problem& p, const Cut<Real>& cut, const Shared<Real>& shared,
                             const SumParts<Real>& parts, int64_t part) {
  const int64_t item = part / parts.of_item, first = part % parts.of_item * parts.steps;
  const int64_t last = first + parts.steps < p.length ? first + parts.steps : p.length;
  const int64_t batch = item / p.routes, route = item % p.routes;
  for (auto [from, view] : {std::pair{shared.d_b, &p.d_b}, std::pair{shared.d_c, &p.d_c}}) {
    const Real* rows = from + item * p.length * p.states;
    for (int64_t s = first; s < last; ++s) {
      T* to = tile_start<T>(*view, batch, route, 0) + s * view->step;
      for (int64_t n = 0; n < p.states; ++n) {
        Real sum = rows[s * p.states + n];
        for (int64_t g = 1; g < cut.groups; ++g) sum += rows[g * shared.coefficients + s * p.states + n];
        put<Real>(to + n * view->channel, sum);
      }
    }
  }
}

template <class Real, class T>
static void sum_part(const Problem& p, const Cut<Real>& cut, const Shared<Real>& shared, const SumParts<Real>& parts,
                     int64_t part) {
  if (part < parts.coefficients) return sum_coefficients<Real, T>(p, cut, shared, parts, part);
  part -= parts.coefficients;
  if (part < parts.inputs) {
    const int64_t first = part * kPart, size = shared.inputs - first < kPart ? shared.inputs - first : kPart;
    Real sums[kPart];
    add_rows(shared.d_u + first, shared.inputs, shared.ratio, size, sums);
    T* to = static_cast<T*>(p.d_u.data) + first;
    for (int64_t i = 0; i < size; ++i) put<Real>(to + i, sums[i]);
    return;
  }
  const int64_t route = part - parts.inputs, channels = p.routes * p.channels, from = route * p.channels;
  const auto over_batch = [&](const Real* items, void* to, int64_t numbers) {
    if (to == nullptr) return;
    add_rows(items + from * numbers, channels * numbers, p.batch, p.channels * numbers,
             static_cast<Real*>(to) + from * numbers);
  };
  over_batch(shared.d_a, p.d_a, p.states);
  over_batch(shared.d_d, p.d_d, 1);
  over_batch(shared.d_bias, p.d_bias, 1);
}

template <class Real, class T>
static void sum_all(const Problem& p, int64_t begin, int64_t end, const void* memory) {
  const Cut<Real> cut(p);
  const Shared<Real> shared(p, cut, const_cast<void*>(memory));
  const SumParts<Real> parts(p, shared);
  for (int64_t part = begin; part < end; ++part) sum_part<Real, T>(p, cut, shared, parts, part);
}
