// The fibers of emulator.h. Compiled into the library beside the kernels.

#include "ptx.cuh"

#include <ucontext.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulator {
namespace {

constexpr size_t kStack = 256 * 1024;

struct Context {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t state;
#endif
  const void* bottom = nullptr;  // of the stack, for the address sanitizer
  size_t size = 0;
};

#if defined(__x86_64__)
// Keeps what a call has to keep on the old stack, and goes on with the new one.
extern "C" void emulator_switch(void** from, void* to);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
.section .note.GNU-stack,"",@progbits
.text
)");
#endif

std::vector<Context> contexts;
Context scheduler;
std::vector<unsigned char*> stacks;

void switch_to(Context& from, Context& to, [[maybe_unused]] bool last = false) {
#if defined(__SANITIZE_ADDRESS__)
  void* fake = nullptr;
  __sanitizer_start_switch_fiber(last ? nullptr : &fake, to.bottom, to.size);
#endif
#if defined(__x86_64__)
  emulator_switch(&from.stack_pointer, to.stack_pointer);
#else
  swapcontext(&from.state, &to.state);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

Fiber* next_fiber() {
  Cta& c = cta();
  int n = (int)c.threads, i = (int)c.now->thread;
  for (int tried = 0; tried < n; ++tried) {
    i = (i + c.direction + n) % n;
    if (!c.fibers[i].done) return &c.fibers[i];
  }
  return nullptr;
}

void entry() {
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom;
  size_t size;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
  if (!scheduler.bottom) scheduler.bottom = bottom, scheduler.size = size;
#endif
  Cta& c = cta();
  (*c.body)();
  Fiber* self = c.now;
  self->done = true;
  c.waits = 0;
  Fiber* next = next_fiber();
  Context& mine = contexts[self->thread];
  if (next) {
    c.now = next;
    switch_to(mine, contexts[next->thread], true);
  } else {
    switch_to(mine, scheduler, true);
  }
  fail("a fiber ran on after its end");
}

void prepare(Context& context, unsigned char* stack) {
  context.bottom = stack, context.size = kStack;
#if defined(__x86_64__)
  auto** top = (void**)(stack + kStack);
  --top;  // `entry` finds the stack 8 off a multiple of 16, as after a call
  *--top = (void*)entry;
  top -= 6;
  context.stack_pointer = top;
#else
  getcontext(&context.state);
  context.state.uc_stack.ss_sp = stack;
  context.state.uc_stack.ss_size = kStack;
  context.state.uc_link = nullptr;
  makecontext(&context.state, entry, 0);
#endif
}

}  // namespace

void yield() {
  Cta& c = cta();
  if (++c.waits > 64LL * c.threads + 1024) fail("deadlock: threads wait for others that ended or wait elsewhere");
  Fiber* self = c.now;
  Fiber* next = next_fiber();
  if (!next || next == self) return;
  c.now = next;
  switch_to(contexts[self->thread], contexts[next->thread]);
}

void run(unsigned ctas, int threads, int shared_bytes, const std::function<void()>& body) {
  Cta& c = cta();
  if (threads % 32 || threads > 1024) fail("threads are no whole warps");
  while ((int)stacks.size() < threads) stacks.push_back((unsigned char*)std::aligned_alloc(64, kStack));
  c.grid = ctas, c.threads = threads, c.shared_bytes = shared_bytes, c.body = &body;
  c.direction = std::getenv("NA_EMULATED_REVERSE") ? -1 : 1;
  contexts.resize(threads);
  for (unsigned block = 0; block < ctas; ++block) {
    c.block = block;
    c.shared = (unsigned char*)std::aligned_alloc(128, (shared_bytes + 127) / 128 * 128 + 128);
    std::memset(c.shared, 0xff, shared_bytes);
    c.fibers.assign(threads, Fiber());
    c.warps.assign((threads + 31) / 32, Warp());
    c.barrier = Barrier();
    c.waits = 0;
    for (int i = 0; i < threads; ++i) {
      c.fibers[i].thread = i;
      prepare(contexts[i], stacks[i]);
    }
    c.now = &c.fibers[c.direction > 0 ? 0 : threads - 1];
    switch_to(scheduler, contexts[c.now->thread]);
    for (const Fiber& fiber : c.fibers) {
      if (!fiber.done) fail("a thread did not end");
      if (!fiber.copies.empty()) fail("copies were never committed");
    }
    std::free(c.shared);
  }
}

}  // namespace emulator
