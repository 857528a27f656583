// One call of the selective scan in plain numbers: what the binding hands to the variant that the processor can run.
//
// Letters as in reference.py: B batch, L steps, R routes (or groups) of D channels, N states a channel, G maps.
#pragma once
#include <cstdint>

namespace bestiary::scan {

constexpr int64_t kChunk = 32;  // steps at a time where no states are kept

enum class Type : int { float32, bfloat16, float16, float64 };

// A tensor of steps: (B, L, R, X) in meaning, whatever lies where. Strides in elements.
struct View {
  void* data;
  int64_t batch, step, route, channel;
};

struct Problem {
  Type type;
  int64_t batch, length, routes, channels, states, maps;  // B L R D N G
  int64_t chunk;                                          // steps between two states that are kept
  bool softplus, steps_last;                              // steps_last: of the outputs' layout
  View u, delta, b, c, z, out;                            // z.data is null without gates
  // The numbers of a route, contiguous, in float (double for float64); null where they are not given, but `a`.
  const void *a, *d, *bias;  // (R, D, N), (R, D), (R, D)
  View initial;              // (B, R, D, N): `channel` is the stride of D, `step` that of N
  const int64_t* order;      // (R, L), null: as the steps stand
  void* last;                // (B, R, D, N)
  // (K, B, R, N, D), null where none are kept. K = ceil(L / chunk).
  void* kept;
  // Backward only. d_last.data is null where the last state was not used.
  View d_out, d_last, d_u, d_delta, d_b, d_c, d_z;
  void *d_a, *d_d, *d_bias, *d_initial;
};

// The work is cut into `tasks`, fixed parts of the batch, routes and channels whatever the number of threads.
struct Variant {
  const char* name;
  int64_t (*tasks)(const Problem&);
  bool (*forward)(const Problem&, int64_t begin, int64_t end);
  // Bytes that the tasks share, for the gradients that several of them add to.
  int64_t (*shared_bytes)(const Problem&);
  bool (*backward)(const Problem&, int64_t begin, int64_t end, void* shared);
  // After all tasks, in parts of their own: the shared gradients are added up in a fixed order.
  int64_t (*sums)(const Problem&);
  void (*sum)(const Problem&, int64_t begin, int64_t end, const void* shared);
};

extern const Variant variant_avx512, variant_avx2, variant_portable;

}  // namespace bestiary::scan
