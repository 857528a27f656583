// Registers the CPU kernels with PyTorch's dispatcher, through its stable C interface (no ATen headers).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "../../../csrc/cpu/variant.h"
#include "problem.h"

namespace {
using bestiary::routing::Problem;
using bestiary::routing::Type;
using bestiary::routing::Variant;
using bestiary::routing::View;
using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Optional = std::optional<Tensor>;
using Ints = std::vector<int64_t>;

const Variant& variant() {
  static const Variant& chosen =
      bestiary::best_variant<Variant>({&bestiary::routing::variant_avx512, &bestiary::routing::variant_avx2,
                                       &bestiary::routing::variant_portable});
  return chosen;
}

// (B, H, W, heads, channels).
View view(const Tensor& t) { return {t.data_ptr(), t.stride(0), t.stride(1), t.stride(2), t.stride(3)}; }

Ints shape_of(const Tensor& t) {
  Ints shape(t.dim());
  for (int64_t i = 0; i < t.dim(); ++i) shape[i] = t.size(i);
  return shape;
}

Tensor empty_like_shape(const Tensor& t) { return torch::stable::new_empty(t, shape_of(t)); }

// The last three contiguous, whatever the caller gave.
struct Routing {
  Routing(const Optional& given_mask, const Tensor& given_index, const Optional& given_weights)
      : mask(given_mask ? Optional(contiguous(*given_mask)) : std::nullopt),
        index(contiguous(given_index)),
        weights(given_weights ? Optional(contiguous(*given_weights)) : std::nullopt) {}

  static Tensor contiguous(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

  Optional mask;
  Tensor index;
  Optional weights;
};

Problem describe(const Tensor& q, const Tensor& k, const Tensor& v, const Routing& routing, const Ints& grid,
                 double scale) {
  Problem p{};
  switch (q.scalar_type()) {
    case ScalarType::Float:
      p.type = Type::float32;
      break;
    case ScalarType::BFloat16:
      p.type = Type::bfloat16;
      break;
    case ScalarType::Half:
      p.type = Type::float16;
      break;
    default:
      throw std::runtime_error("bestiary::bi_level_routing: the CPU kernels take float32, bfloat16 and float16");
  }
  p.batch = q.size(0);
  p.heads = q.size(3);
  p.channels = q.size(4);
  p.value_channels = v.size(4);
  for (int i = 0; i < 2; ++i) {
    p.grid[i] = grid[i];
    p.side[i] = q.size(1 + i) / grid[i];
    p.kv_side[i] = k.size(1 + i) / grid[i];
  }
  p.topk = routing.index.size(2);
  p.scale = static_cast<float>(scale);
  p.query = view(q);
  p.key = view(k);
  p.value = view(v);
  p.index = static_cast<const int64_t*>(routing.index.data_ptr());
  if (routing.mask) p.mask = static_cast<const bool*>(routing.mask->data_ptr());
  if (routing.weights) p.weights = static_cast<const float*>(routing.weights->data_ptr());
  // In a compiled graph nobody has looked at the numbers.
  const int64_t entries = p.batch * p.regions() * p.topk;
  for (int64_t i = 0; i < entries; ++i) {
    if (p.index[i] < 0 || p.index[i] >= p.regions()) {
      throw std::runtime_error("bestiary::bi_level_routing: routing must hold numbers of regions");
    }
  }
  return p;
}

bool is_empty(const Problem& p) { return p.batch == 0 || p.heads == 0; }

// Threads pay only where each has some 20 microseconds of work.
int64_t threads_for(const Problem& p, int64_t products) {
  const int64_t queries = p.batch * p.heads * p.regions() * p.tokens();
  const int64_t work = products * queries * p.topk * p.keys() * (p.channels + p.value_channels);
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), work / 500000);
  return std::max<int64_t>(std::min(threads, p.batch * p.heads * p.regions()), 1);
}

// Runs `work(part)` for all parts, on PyTorch's threads.
template <class Work>
void run(int64_t parts, const Work& work) {
  std::atomic<bool> failed{false};
  torch::stable::parallel_for(0, parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t part = begin; part < end; ++part) {
      if (!work(part)) failed = true;
    }
  });
  if (failed) throw std::runtime_error("bestiary::bi_level_routing: out of memory for scratch space");
}

std::tuple<Tensor, Tensor> forward(const Tensor q, const Tensor k, const Tensor v, const Optional lepe,
                                   const Optional mask, const Tensor index, const Optional weights, const Ints grid,
                                   double scale) {
  const Routing routing(mask, index, weights);
  Problem p = describe(q, k, v, routing, grid, scale);
  Ints shape = shape_of(q);
  shape.pop_back();
  Tensor lse = torch::stable::new_empty(q, shape, ScalarType::Float);
  shape.push_back(p.value_channels);
  Tensor out = torch::stable::new_empty(q, shape);
  p.out = view(out);
  p.lse = static_cast<float*>(lse.data_ptr());
  if (lepe) p.lepe = view(*lepe);
  if (!is_empty(p)) {
    const int64_t parts = threads_for(p, 1);
    run(parts, [&](int64_t part) { return variant().forward(p, part, parts); });
  }
  return {out, lse};
}

// For each picture and region of keys the places in (R, K) of the routing that name it, rising.
void invert(const Problem& p, std::vector<int32_t>& starts, std::vector<int32_t>& entries) {
  const int64_t regions = p.regions(), each = regions * p.topk;
  starts.assign(p.batch * (regions + 1), 0);
  entries.resize(p.batch * each);
  for (int64_t b = 0; b < p.batch; ++b) {
    const int64_t* index = p.index + b * each;
    int32_t* own = starts.data() + b * (regions + 1);
    for (int64_t i = 0; i < each; ++i) ++own[index[i] + 1];
    for (int64_t r = 0; r < regions; ++r) own[r + 1] += own[r];
    std::vector<int32_t> next(own, own + regions);
    for (int64_t i = 0; i < each; ++i) entries[b * each + next[index[i]]++] = static_cast<int32_t>(i);
  }
}

// The weights' gradients, of all heads together.
void sum_heads(const Problem& p, float* sums) {
  const int64_t each = p.regions() * p.topk;
  for (int64_t b = 0; b < p.batch; ++b, sums += each) {
    for (int64_t i = 0; i < each; ++i) sums[i] = 0;
    for (int64_t h = 0; h < p.heads; ++h) {
      const float* from = p.d_weights + (b * p.heads + h) * each;
      for (int64_t i = 0; i < each; ++i) sums[i] += from[i];
    }
  }
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const Tensor d_out, const Tensor q, const Tensor k, const Tensor v,
                                                    const Tensor lse, const Optional mask, const Tensor index,
                                                    const Optional weights, const Ints grid, double scale) {
  const Routing routing(mask, index, weights);
  Problem p = describe(q, k, v, routing, grid, scale);
  const Tensor own_lse = Routing::contiguous(lse);
  Tensor d_q = empty_like_shape(q), d_k = empty_like_shape(k), d_v = empty_like_shape(v);
  Tensor d_weights = torch::stable::new_empty(q, weights ? shape_of(*weights) : Ints{0}, ScalarType::Float);
  if (is_empty(p)) {
    for (Tensor* t : {&d_q, &d_k, &d_v, &d_weights}) torch::stable::zero_(*t);
    return {d_q, d_k, d_v, d_weights};
  }
  p.d_out = view(d_out);
  p.lse = static_cast<float*>(own_lse.data_ptr());
  p.d_query = view(d_q);
  p.d_key = view(d_k);
  p.d_value = view(d_v);
  const int64_t heads = p.batch * p.heads, threads = threads_for(p, 3);
  std::vector<float> of_heads(weights ? heads * p.regions() * p.topk : 0), shift;
  p.d_weights = of_heads.data();
  const Variant& best = variant();
  if (threads <= heads) {
    run(threads, [&](int64_t part) { return best.backward(p, part, threads); });
  } else {
    std::vector<int32_t> starts, entries;
    invert(p, starts, entries);
    shift.resize(heads * p.regions() * p.tokens());
    p.starts = starts.data(), p.entries = entries.data(), p.shift = shift.data();
    run(threads, [&](int64_t part) { return best.backward_queries(p, part, threads); });
    run(threads, [&](int64_t part) { return best.backward_keys(p, part, threads); });
  }
  if (weights) sum_heads(p, static_cast<float*>(d_weights.data_ptr()));
  return {d_q, d_k, d_v, d_weights};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(bestiary, CPU, m) {
  m.impl("bi_level_routing_forward", TORCH_BOX(&forward));
  m.impl("bi_level_routing_backward", TORCH_BOX(&backward));
}
