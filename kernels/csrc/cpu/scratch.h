// Scratch memory of one thread, and arithmetic of sizes.
#pragma once

static ALWAYS_INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static ALWAYS_INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static ALWAYS_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Scratch memory of one part: counted first, then given out.
class Arena {
 public:
  explicit Arena(void* memory) : base_(static_cast<char*>(memory)) {}
  template <class T>
  T* take(int64_t count) {
    T* here = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
    used_ += ceil_div(count * static_cast<int64_t>(sizeof(T)), 64) * 64;
    return here;
  }
  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

// `Scratch(problem, sizes, arena)` in memory that lasts as long as this does.
template <class Scratch>
class Allocated {
 public:
  template <class Problem, class Sizes>
  Allocated(const Problem& p, const Sizes& z)
      : memory_(std::aligned_alloc(64, bytes(p, z))), scratch_(make(p, z, memory_)) {}
  ~Allocated() { std::free(memory_); }
  Allocated(const Allocated&) = delete;
  Allocated& operator=(const Allocated&) = delete;
  explicit operator bool() const { return memory_ != nullptr; }
  Scratch& operator*() { return scratch_; }

 private:
  template <class Problem, class Sizes>
  static int64_t bytes(const Problem& p, const Sizes& z) {
    Arena counted(nullptr);
    Scratch(p, z, counted);
    return counted.used();
  }
  template <class Problem, class Sizes>
  static Scratch make(const Problem& p, const Sizes& z, void* memory) {
    Arena arena(memory);
    return Scratch(p, z, arena);
  }
  void* memory_;
  Scratch scratch_;
};
