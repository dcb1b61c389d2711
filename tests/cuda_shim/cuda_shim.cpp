// SPDX-License-Identifier: Apache-2.0
// The scheduler of the CUDA shim: fibers, warps, barriers, and the faults that it looks for.
//
// Block by block, a warp is run as far as it can get before the next one starts, so that a missing barrier shows as a
// wrong result; under ThreadSanitizer every fiber is a thread of its own, so that it shows as a race. A barrier that
// some threads do not reach, or reach elsewhere in the source, is an error, reported like a failed launch.
#include "cuda_runtime.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#if !defined(__x86_64__)
#error "the fibers' stack switch is written for x86-64 only"
#endif

#ifdef CUDA_SHIM_TSAN  // this file itself is compiled without the sanitizer: the scheduler is no part of the program
#include <sanitizer/tsan_interface.h>
#define TSAN(call) call
#else
#define TSAN(call) ((void)0)
#endif

#define EXPORT extern "C" __attribute__((visibility("default")))

// Saves the callee's registers and the stack pointer, and continues on another stack.
extern "C" void cuda_shim_switch(void** save_sp, void* load_sp);
asm(R"(
.text
.type cuda_shim_switch, @function
cuda_shim_switch:
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
.size cuda_shim_switch, .-cuda_shim_switch
)");

// By the linker: all shared memory of all kernels, if there is any.
extern __attribute__((weak)) char __start_cuda_shared[], __stop_cuda_shared[];

namespace cuda_shim {

dim3 thread_index, block_index, block_size, grid_size;

namespace {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 256 << 10, kGuardBytes = 4096;
constexpr int kPoison = 0xff;  // NaN as a float, -1 as an int

enum State { kReady, kAtWarp, kAtBlock, kDone };

struct Fiber {
    State state;
    int number;
    dim3 index;
    Site site;
    bool predicate;
    uint64_t value;
    void *sp, *stack = nullptr, *tsan = nullptr;
};

// Two sets of values in turn: a lane can reach the next exchange before another has read this one.
struct Warp {
    uint64_t values[2][kWarp];
    unsigned phase;
    char sync[2];
};

[[maybe_unused]] char block_sync[2], block_begins, block_ended;  // for ThreadSanitizer
[[maybe_unused]] void* scheduler_tsan;
std::vector<Fiber> fibers;
std::vector<Warp> warps;
Fiber* running;
void* scheduler_sp;
const std::function<void()>* kernel;
unsigned block_phase;
int block_count;

int launches = 0;
uint64_t seed;
std::mt19937_64 random_bits;
std::string fault, skipped, site_list;
std::vector<Site> sites;  // of barriers passed

std::string text(const Site& s) {
    const std::string file = s.file;
    return file.substr(file.rfind('/') + 1) + ":" + std::to_string(s.line);
}

// Notes the barrier; whether threads are to pass it without waiting.
bool skips(const Site& site) {
    if (std::find(sites.begin(), sites.end(), site) == sites.end()) {
        sites.push_back(site);
        site_list += text(site) + "\n";
    }
    return !skipped.empty() && text(site) == skipped;
}

template <class T>
void shuffle(std::vector<T>& order) {
    if (seed) std::shuffle(order.begin(), order.end(), random_bits);
}

std::vector<int> counting(int n) {
    std::vector<int> order(n);
    std::iota(order.begin(), order.end(), 0);
    return order;
}

void switch_to_scheduler(State why) {
    Fiber* self = running;
    self->state = why;
    TSAN(__tsan_switch_to_fiber(scheduler_tsan, __tsan_switch_to_fiber_no_sync));
    cuda_shim_switch(&self->sp, scheduler_sp);
}

void fiber_main() {
    TSAN(__tsan_acquire(&block_begins));
    (*kernel)();
    TSAN(__tsan_release(&block_ended));
    switch_to_scheduler(kDone);
}

void prepare(Fiber& f, int number) {
    if (!f.stack) {
        const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        f.stack = mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        mprotect(f.stack, kGuardBytes, PROT_NONE);
    }
    f.state = kReady;
    f.number = number;
    f.index = dim3(number % block_size.x, number / block_size.x % block_size.y, number / block_size.x / block_size.y);
    void** top = reinterpret_cast<void**>(static_cast<char*>(f.stack) + kStackBytes);
    *--top = nullptr;  // the return address of fiber_main, which does not return
    *--top = reinterpret_cast<void*>(&fiber_main);
    for (int k = 0; k < 6; ++k) *--top = nullptr;
    f.sp = top;
    TSAN(if (!f.tsan) f.tsan = __tsan_create_fiber(0));
}

void resume(Fiber& f) {
    running = &f;
    thread_index = f.index;
    TSAN(__tsan_switch_to_fiber(f.tsan, __tsan_switch_to_fiber_no_sync));
    cuda_shim_switch(&scheduler_sp, f.sp);
}

// All lanes wait for each other at one place: lets them go on.
bool release_warp(int w) {
    Fiber* lane = &fibers[w * kWarp];
    for (int l = 0; l < kWarp; ++l)
        if (lane[l].state != kAtWarp || lane[l].site != lane[0].site) return false;
    Warp& warp = warps[w];
    ++warp.phase;
    for (int l = 0; l < kWarp; ++l) {
        warp.values[warp.phase % 2][l] = lane[l].value;
        lane[l].state = kReady;
    }
    return true;
}

void run_warp(int w, const std::vector<int>& lanes) {
    do {
        for (int l : lanes)
            if (fibers[w * kWarp + l].state == kReady) resume(fibers[w * kWarp + l]);
    } while (release_warp(w));
}

std::string describe(const Fiber& f) {
    if (f.state == kDone) return "thread " + std::to_string(f.number) + " has ended";
    return "thread " + std::to_string(f.number) + " waits for its " + (f.state == kAtWarp ? "warp at " : "block at ") +
           text(f.site);
}

// Lets the block go on when all its threads wait at one barrier; otherwise says which two do not match.
bool release_block() {
    block_count = 0;
    for (const Fiber& f : fibers) {
        if (f.state != kAtBlock || f.site != fibers[0].site) {
            fault = "divergent barrier: " + describe(fibers[0]) + ", " + describe(f);
            return false;
        }
        block_count += f.predicate;
    }
    ++block_phase;
    for (Fiber& f : fibers) f.state = kReady;
    return true;
}

void run_block() {
    if (__start_cuda_shared) memset(__start_cuda_shared, kPoison, __stop_cuda_shared - __start_cuda_shared);
    const int n = (int)(block_size.x * block_size.y * block_size.z);
    fibers.resize(n);
    warps.assign(n / kWarp, {});
    for (int i = 0; i < n; ++i) prepare(fibers[i], i);
    std::vector<int> order = counting(n / kWarp), lanes = counting(kWarp);
    TSAN(__tsan_release(&block_begins));
    do {
        shuffle(order);
        for (int w : order) {
            shuffle(lanes);
            run_warp(w, lanes);
        }
    } while (!std::all_of(fibers.begin(), fibers.end(), [](const Fiber& f) { return f.state == kDone; }) &&
             release_block());
    TSAN(__tsan_acquire(&block_ended));
}

std::mutex one_at_a_time;

}  // namespace

int lane() { return running->number % kWarp; }

void launch(dim3 grid, dim3 block, const std::function<void()>& body) {
    const std::lock_guard<std::mutex> guard(one_at_a_time);
    ++launches;
    grid_size = grid;
    block_size = block;
    kernel = &body;
    TSAN(scheduler_tsan = __tsan_get_current_fiber());
    std::vector<int> order = counting((int)(grid.x * grid.y * grid.z));
    shuffle(order);
    for (int b : order) {
        block_index = dim3(b % grid.x, b / grid.x % grid.y, b / grid.x / grid.y);
        run_block();
        if (!fault.empty()) return;
    }
}

int wait_for_block(bool predicate, bool counts, Site site) {
    if (!counts && skips(site)) return 0;
    Fiber* self = running;
    self->site = site;
    self->predicate = predicate;
    TSAN(char* sync = &block_sync[block_phase % 2]; __tsan_release(sync));
    switch_to_scheduler(kAtBlock);
    TSAN(__tsan_acquire(sync));
    return block_count;
}

const uint64_t* wait_for_warp(unsigned mask, uint64_t value, bool orders_memory, Site site) {
    Fiber* self = running;
    Warp& warp = warps[self->number / kWarp];
    if (mask != ~0u) fault = "a warp collective without all lanes at " + text(site);
    if (orders_memory && skips(site)) return nullptr;
    self->site = site;
    self->value = value;
    TSAN(char* sync = &warp.sync[warp.phase % 2]; if (orders_memory) __tsan_release(sync));
    switch_to_scheduler(kAtWarp);
    TSAN(if (orders_memory) __tsan_acquire(sync));
    return warp.values[warp.phase % 2];
}

}  // namespace cuda_shim

using namespace cuda_shim;

cudaError_t cudaGetLastError() { return fault.empty() ? cudaSuccess : cudaErrorLaunchFailure; }

const char* cudaGetErrorString(cudaError_t) {
    static std::string message;
    message = fault;
    fault.clear();
    return message.c_str();
}

// The order of blocks, warps and lanes from here on; 0 is the natural one.
EXPORT void cuda_shim_shuffle(uint64_t new_seed) {
    seed = new_seed;
    random_bits.seed(new_seed);
}

// Plants a fault: threads pass this barrier ("file:line", or "" for none) without waiting.
EXPORT void cuda_shim_skip(const char* site) { skipped = site; }

// The barriers passed so far that can be skipped, one a line.
EXPORT const char* cuda_shim_barriers() { return site_list.c_str(); }

// Kernels launched so far.
EXPORT int cuda_shim_launches() { return launches; }
