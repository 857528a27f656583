// One call of neighborhood attention in plain numbers: what the binding hands to the variant that the processor can run.
//
// Letters as in reference.py: H heads, G key/value heads, D channels of queries and keys, E of values, M additional
// tokens. One and two spatial axes are brought to three by leading axes of length 1.
#pragma once
#include <cstdint>

namespace bestiary::na {

enum class Type : int { float32, bfloat16, float16 };

// A tensor (B, T, Y, X, heads, channels), or (B, M, heads, channels) with only `axis[2]` in use. Strides in elements.
struct View {
  void* data;
  int64_t batch, axis[3], head;
};

struct Problem {
  Type type;
  int64_t batch, heads, kv_heads, channels, value_channels, additional;  // B H G D E M
  int64_t length[3], kernel[3], stride[3], dilation[3];
  bool causal[3];
  float scale;
  View query, key, value, extra_keys, extra_values;
  const float* bias;  // (H, 2k-1, 2k-1, 2k-1), null without one
  View out, lse;      // lse is float32, its `head` stride is that of one number
  // Backward only; d_lse.data is null where the LSE was not used.
  View d_out, d_lse, d_query, d_key, d_value, d_extra_keys, d_extra_values;
  float* d_bias;
};

// The work is cut into `parts` of equal size; each is done by one thread with scratch memory of its own.
struct Variant {
  const char* name;
  int64_t (*forward_parts)(const Problem&, int64_t threads);
  bool (*forward)(const Problem&, int64_t part, int64_t parts);
  int64_t (*backward_parts)(const Problem&, int64_t threads);
  // Bytes that the parts share, for the gradients that several of them add to; zeroed by the caller.
  int64_t (*shared_bytes)(const Problem&, int64_t parts);
  bool (*backward)(const Problem&, int64_t part, int64_t parts, void* shared);
  void (*reduce)(const Problem&, int64_t parts, void* shared);  // after all parts, by one thread
};

extern const Variant variant_avx512, variant_avx2, variant_portable;

}  // namespace bestiary::na
