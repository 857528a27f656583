// One call of routed attention in plain numbers: what the binding hands to the variant that the processor can run.
//
// Letters as in regions.py: N heads, R regions, T and U tokens of a region of queries and of keys, K regions chosen for
// each, D channels of queries and keys, E of values.
#pragma once
#include <cstdint>

namespace bestiary::routing {

enum class Type : int { float32, bfloat16, float16 };

// A tensor (B, H, W, N, channels), or (B, H, W, N) with the `head` stride of one number. Strides in elements.
struct View {
  void* data;
  int64_t batch, row, column, head;
};

struct Problem {
  Type type;
  int64_t batch, heads, channels, value_channels;  // B N D E
  int64_t grid[2];                                 // rows and columns of regions
  int64_t side[2], kv_side[2];                     // rows and columns of tokens of a region
  int64_t topk;
  float scale;
  View query, key, value, lepe;  // lepe.data is null without one
  const bool* mask;              // (B, H', W'), null without one
  const int64_t* index;          // (B, R, K)
  const float* weights;          // (B, R, K), null without them
  View out;
  float* lse;  // (B, H, W, N)
  // Backward only.
  View d_out, d_query, d_key, d_value;
  float* d_weights;  // (B, N, R, K), of each head
  float* shift;      // (B, N, R, T), the sums of P dP, where keys follow in a pass of their own
  // For each picture and region of keys the regions of queries that chose it: entries [starts[r], starts[r + 1]), each
  // a place in (R, K), rising.
  const int32_t *starts, *entries;

  int64_t regions() const { return grid[0] * grid[1]; }
  int64_t tokens() const { return side[0] * side[1]; }
  int64_t keys() const { return kv_side[0] * kv_side[1]; }
};

// The work is cut into `parts` of equal size; each is done by one thread with scratch memory of its own.
struct Variant {
  const char* name;
  bool (*forward)(const Problem&, int64_t part, int64_t parts);
  // All gradients in one pass: parts are cut between heads.
  bool (*backward)(const Problem&, int64_t part, int64_t parts);
  // The same bits in two passes, for more threads than heads: those of queries, then those of keys and values.
  bool (*backward_queries)(const Problem&, int64_t part, int64_t parts);
  bool (*backward_keys)(const Problem&, int64_t part, int64_t parts);
};

extern const Variant variant_avx512, variant_avx2, variant_portable;

}  // namespace bestiary::routing
