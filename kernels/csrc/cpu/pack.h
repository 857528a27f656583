// Rows of tokens between the caller's tensors and scratch memory, where they are float32 and lie close together.
#pragma once

// Channels in scratch memory: up to a multiple of the vector, the rest zeros.
static ALWAYS_INLINE int64_t padded(int64_t channels) { return (channels + kLanes - 1) / kLanes * kLanes; }

// Distance of two channels in a transposed row of at least `tokens`: an odd number of vectors, so that the channels of one
// token spread over all sets of the cache.
static ALWAYS_INLINE int64_t transposed_stride(int64_t tokens) {
  return ((tokens + kLanes - 1) / kLanes | 1) * kLanes;
}

// `count` tokens, `step` elements apart, to (count, padded(channels)), each number times `factor`.
template <class T>
static NOINLINE void pack_rows(const T* from, int64_t step, int64_t count, int64_t channels, float factor, float* to) {
  const int64_t whole = channels / kLanes * kLanes;
  for (int64_t x = 0; x < count; ++x, from += step) {
    for (int64_t d = 0; d < whole; d += kLanes, to += kLanes) store(to, widen(from + d) * factor);
    if (whole < channels) {
      store(to, widen_some(from + whole, channels - whole) * factor);
      to += kLanes;
    }
  }
}

// `count` tokens, `step` elements apart, to (channels, stride): token x of channel d at d * stride + x. Zeros follow the
// last token up to the end of each channel's row.
template <class T>
static NOINLINE void pack_transposed(const T* from, int64_t step, int64_t count, int64_t channels, float* to, int64_t stride) {
  for (int64_t x = 0; x < stride; x += kLanes) {
    const int64_t tokens = count - x < kLanes ? count - x : kLanes;
    for (int64_t d = 0; d < channels; d += kLanes) {
      const int64_t some = channels - d < kLanes ? channels - d : kLanes;
      Vec v[8];
      for (int64_t i = 0; i < kLanes; ++i) {
        const T* token = from + (x + i) * step + d;
        v[i] = i >= tokens ? Vec{} : some == kLanes ? widen(token) : widen_some(token, some);
      }
      transpose(v);
      for (int64_t i = 0; i < some; ++i) store(to + (d + i) * stride + x, v[i]);
    }
  }
}

// (count, padded(channels)), each number times `factor`, to `count` tokens, `step` elements apart.
template <class T>
static NOINLINE void unpack_rows(const float* from, int64_t count, int64_t channels, float factor, T* to, int64_t step) {
  const int64_t whole = channels / kLanes * kLanes;
  for (int64_t x = 0; x < count; ++x, to += step) {
    for (int64_t d = 0; d < whole; d += kLanes, from += kLanes) narrow(to + d, load(from) * factor);
    if (whole < channels) {
      narrow_some(to + whole, load(from) * factor, channels - whole);
      from += kLanes;
    }
  }
}

// Tokens that a later row will need, asked for a few at a time while the present row is worked on: in heads-last tensors
// they lie too far apart for the processor to foresee, and more requests than it can hold would halt it.
class Prefetcher {
 public:
  void clear() { count_ = 0, tokens_ = 0; }
  // `count` tokens of `bytes`, `step` bytes apart.
  void add(const void* from, int64_t step, int64_t count, int64_t bytes) {
    if (count_ == kStreams) return;
    streams_[count_++] = {static_cast<const char*>(from), step, count, bytes};
    tokens_ += count;
  }
  // All tokens of one `add`, the last one first.
  void ask() {
    if (count_ == 0) return;
    --count_;
    ask(streams_[count_], streams_[count_].count);
  }
  // As many tokens that all are asked for in so many calls.
  int64_t share(int64_t calls) const { return tokens_ / calls + 1; }
  void ask(int64_t tokens) {
    while (count_ && tokens > 0) {
      Stream& s = streams_[count_ - 1];
      const int64_t some = s.count < tokens ? s.count : tokens;
      ask(s, some);
      tokens -= some;
      s.from += some * s.step, s.count -= some;
      if (s.count == 0) --count_;
    }
  }

 private:
  static constexpr int kStreams = 256;
  struct Stream {
    const char* from;
    int64_t step, count, bytes;
  };
  static void ask(const Stream& s, int64_t tokens) {
    const char* from = s.from;
    for (int64_t x = 0; x < tokens; ++x, from += s.step) {
      for (int64_t at = 0; at < s.bytes; at += 64) __builtin_prefetch(from + at, 0, 2);
    }
  }
  Stream streams_[kStreams];
  int count_ = 0;
  int64_t tokens_ = 0;
};
