// SPDX-License-Identifier: Apache-2.0
// The CUDA entry points of the C ABI: buffers laid out, kernels launched in order on the caller's stream, errors as
// codes.
//
// Nothing here allocates device memory or waits for the device.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cuda_bin.cuh"
#include "cuda_blend.cuh"
#include "cuda_project.cuh"
#include "cuda_sort.cuh"

#ifndef CUDA_LAUNCH  // tests/cuda_shim has its own, which runs the kernel on a CPU
#define CUDA_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#endif
#ifndef CUDA_ARCHS
#define CUDA_ARCHS "unknown"
#endif

#define LAUNCH(kernel, grid, ...)                                   \
    do {                                                            \
        CUDA_LAUNCH(kernel, grid, dim3(kThreads), s, __VA_ARGS__);  \
        check(cudaGetLastError(), #kernel);                         \
    } while (0)

namespace dgr {
namespace {

thread_local std::string last_error;

void check(cudaError_t code, const char* what) {
    if (code != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(code));
}

// The caller's device for the length of a call.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) {
        check(cudaGetDevice(&before_), "cudaGetDevice");
        if (before_ != device) check(cudaSetDevice(device), "cudaSetDevice");
    }
    ~DeviceGuard() { cudaSetDevice(before_); }

  private:
    int before_;
};

unsigned blocks_for(int64_t count, int64_t per_block) { return (unsigned)((count + per_block - 1) / per_block); }

// ---------------------------------------------------------------------------------------------- buffers

// Cuts one buffer into arrays; with a null buffer it only adds up their sizes.
class Carver {
  public:
    explicit Carver(void* buffer) : base_(static_cast<char*>(buffer)) {}
    template <class T>
    T* take(int64_t count) {
        T* array = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
        used_ += (count * (int64_t)sizeof(T) + 255) / 256 * 256;
        return array;
    }
    int64_t used() const { return used_; }

  private:
    char* base_;
    int64_t used_ = 0;
};

void check_limits(const DgrBatch& b, const Frame& f) {
    const int64_t n_keys = (int64_t)f.n_views * f.n_tiles, most = (1ll << 31) - 1;
    if (b.n_views < 1 || b.n_views > DGR_MAX_VIEWS)
        throw std::length_error("a batch of " + std::to_string(b.n_views) + " views, expected 1 to " +
                                std::to_string(DGR_MAX_VIEWS));
    if (f.tiles_x > 0xffff || f.tiles_y > 0xffff || n_keys > (1 << 24))
        throw std::length_error("images of more than 2^24 tiles in all: use smaller images or fewer views");
    if (f.n * f.n_views > most || f.capacity > most)
        throw std::length_error("more than 2^31 Gaussians or (Gaussian, tile) pairs: render fewer views at once");
    if (f.capacity < f.n * f.n_views) throw std::length_error("pair_capacity is below the number of Gaussians");
}

Frame make_frame(const DgrBatch& b, Carver& state) {
    Frame f;
    f.n = b.n_gaussians;
    f.capacity = b.pair_capacity;
    f.n_views = b.n_views;
    f.width_px = b.width_px;
    f.height_px = b.height_px;
    f.tiles_x = (b.width_px + gm::kTile_px - 1) / gm::kTile_px;
    f.tiles_y = (b.height_px + gm::kTile_px - 1) / gm::kTile_px;
    f.n_tiles = f.tiles_x * f.tiles_y;
    check_limits(b, f);
    const int64_t n = f.n * f.n_views, n_tiles = (int64_t)f.n_tiles * f.n_views;
    f.header = state.take<Header>(1);
    f.splats = state.take<gm::Splat>(n);
    f.rects = state.take<Rect>(n);
    f.tile_count = state.take<uint32_t>(n);
    f.slot_begin = state.take<uint32_t>(n);
    f.owner = state.take<uint32_t>(f.capacity);
    f.slots = state.take<uint32_t>(f.capacity);
    f.tile_begin = state.take<uint32_t>(n_tiles + 1);
    f.final_t = state.take<float>(n_tiles * kThreads);
    f.stop = state.take<uint32_t>(n_tiles * kThreads);
    return f;
}

// What the forward pass needs and no later call reads. The depth sort and the sort by tile use it in turn.
struct Scratch {
    uint32_t *keys[2], *values[2], *histogram, *totals;
    SlotCount* block_sums;
};

Scratch make_scratch(const Frame& f, Carver& scratch) {
    Scratch s;
    for (uint32_t*& keys : s.keys) keys = scratch.take<uint32_t>(f.capacity);
    for (uint32_t*& values : s.values) values = scratch.take<uint32_t>(f.capacity);
    const int64_t by_tile = blocks_for(f.capacity, kSortTile);
    const int64_t by_depth = f.n_views * (int64_t)blocks_for(f.n, kSortTile);
    s.histogram = scratch.take<uint32_t>(kDigits * (by_tile > by_depth ? by_tile : by_depth));
    s.totals = scratch.take<uint32_t>((int64_t)kDigits * f.n_views);
    s.block_sums = scratch.take<SlotCount>((int64_t)f.n_views * blocks_for(f.n, kThreads));
    return s;
}

// ---------------------------------------------------------------------------------------------- forward

// Sorts n_segments times n keys, which are in keys[0], by their lowest n_bits; values are the indices in the segment.
// The sorted keys end in keys[n_passes % 2], which is returned, the values in `sorted`.
const uint32_t* sort_by_key(const Scratch& sc, int n_segments, int64_t n, const uint32_t* count, int n_bits,
                            uint32_t* sorted, cudaStream_t s) {
    const int n_passes = n_bits > kDigitBits ? (n_bits + kDigitBits - 1) / kDigitBits : 1;
    SortPass p = {};
    p.histogram = sc.histogram;
    p.totals = sc.totals;
    p.count = count;
    p.n = n;
    p.n_blocks = (int)blocks_for(n, kSortTile);
    for (int pass = 0; pass < n_passes; ++pass) {
        p.keys = sc.keys[pass % 2];
        p.keys_out = sc.keys[(pass + 1) % 2];
        p.values = pass ? p.values_out : nullptr;
        p.values_out = pass == n_passes - 1 ? sorted : sc.values[pass % 2];
        p.shift = pass * kDigitBits;
        LAUNCH(sort_histogram, dim3(p.n_blocks, n_segments), p);
        LAUNCH(sort_scan, dim3(kDigits / kWarps, n_segments), p);
        LAUNCH(sort_scatter, dim3(p.n_blocks, n_segments), p);
    }
    return sc.keys[n_passes % 2];
}

int bits_for(int64_t n_values) {
    int bits = 0;
    while ((1ll << bits) < n_values) ++bits;
    return bits;
}

// Fills the tiles' lists. The depth order is in values[1], which the sort by tile may overwrite: emit_pairs is done then.
void make_lists(const Frame& f, const Scratch& sc, cudaStream_t s) {
    const unsigned n_blocks = blocks_for(f.n, kThreads);
    uint32_t* order = sc.values[1];
    sort_by_key(sc, f.n_views, f.n, nullptr, 32, order, s);
    LAUNCH(count_slots, dim3(n_blocks, f.n_views), f, order, sc.block_sums);
    LAUNCH(scan_slots, dim3(1), f, sc.block_sums, (int64_t)n_blocks * f.n_views);
    LAUNCH(emit_pairs, dim3(n_blocks, f.n_views), f, order, sc.block_sums, sc.keys[0]);
    const int64_t n_lists = (int64_t)f.n_views * f.n_tiles;
    const uint32_t* sorted = sort_by_key(sc, 1, f.capacity, &f.header->n_entries, bits_for(n_lists), f.slots, s);
    LAUNCH(find_lists, dim3(blocks_for(n_lists + 1, kThreads)), f, sorted);
}

void forward(const DgrBatch& b, const DgrBatchImages& out, void* state, void* scratch, cudaStream_t s) {
    Carver in_state(state), in_scratch(scratch);
    const Frame f = make_frame(b, in_state);
    check(cudaMemsetAsync(f.header, 0, sizeof(Header), s), "cudaMemsetAsync");
    if (f.n > 0) {
        const Scratch sc = make_scratch(f, in_scratch);
        LAUNCH(project, dim3(blocks_for(f.n, kThreads), f.n_views), b, f, out.radii, sc.keys[0]);
        make_lists(f, sc, s);
    } else {
        const size_t bytes = sizeof(uint32_t) * ((size_t)f.n_views * f.n_tiles + 1);
        check(cudaMemsetAsync(f.tile_begin, 0, bytes, s), "cudaMemsetAsync");
    }
    if (out.host_counts)
        check(cudaMemcpyAsync(out.host_counts, f.header, 2 * sizeof(int64_t), cudaMemcpyDeviceToHost, s), "counts");
    LAUNCH(blend, dim3(f.tiles_x, f.tiles_y, f.n_views), b, f, out);
}

void backward(const DgrBatch& b, const DgrGradients& g, void* state, void* scratch, cudaStream_t s) {
    Carver in_state(state), in_scratch(scratch);
    const Frame f = make_frame(b, in_state);
    if (f.n == 0) return;
    Partial* partials = in_scratch.take<Partial>(f.capacity);
    LAUNCH(clear_partials, dim3(kThreads), f, partials);
    LAUNCH(blend_backward, dim3(f.tiles_x, f.tiles_y, f.n_views), b, f, g, partials);
    LAUNCH(project_backward, dim3(blocks_for(f.n, kThreads), f.n_views), b, f, partials, g);
}

// Runs fn and turns what it throws into a code and a message.
template <class Fn>
int guarded(Fn fn) {
    try {
        fn();
        return DGR_OK;
    } catch (const std::length_error& e) {
        last_error = e.what();
        return DGR_TOO_LARGE;
    } catch (const std::runtime_error& e) {
        last_error = e.what();
        return DGR_CUDA_FAILED;
    }
}

}  // namespace
}  // namespace dgr

using namespace dgr;

extern "C" {

int dgr_cuda_abi(void) { return DGR_CUDA_ABI; }
const char* dgr_cuda_archs(void) { return CUDA_ARCHS; }
const char* dgr_cuda_last_error(void) { return last_error.c_str(); }

int dgr_cuda_probe(int device) {
    return guarded([&] {
        const DeviceGuard guard(device);
        cudaFuncAttributes attributes;
        const cudaError_t code = cudaFuncGetAttributes(&attributes, (const void*)blend);
        cudaGetLastError();  // an architecture without code must not be reported to a later caller
        check(code, "no kernel image");
    });
}

int dgr_cuda_buffer_bytes(const DgrBatch* batch, DgrBufferBytes* bytes) {
    return guarded([&] {
        Carver state(nullptr), scratch(nullptr), partials(nullptr);
        const Frame f = make_frame(*batch, state);
        make_scratch(f, scratch);
        partials.take<Partial>(f.capacity);
        *bytes = {state.used(), scratch.used(), partials.used()};
    });
}

int dgr_cuda_forward(const DgrBatch* batch, const DgrBatchImages* images, void* state, void* scratch, int device,
                     void* stream) {
    return guarded([&] {
        const DeviceGuard guard(device);
        forward(*batch, *images, state, scratch, static_cast<cudaStream_t>(stream));
    });
}

int dgr_cuda_backward(const DgrBatch* batch, const DgrGradients* gradients, void* state, void* scratch, int device,
                      void* stream) {
    return guarded([&] {
        const DeviceGuard guard(device);
        backward(*batch, *gradients, state, scratch, static_cast<cudaStream_t>(stream));
    });
}

int dgr_cuda_mark_visible(int64_t n, const float* means, const float* viewmatrix, uint8_t* visible, int device,
                          void* stream) {
    return guarded([&] {
        const DeviceGuard guard(device);
        const cudaStream_t s = static_cast<cudaStream_t>(stream);
        if (n > 0) LAUNCH(mark_visible, dim3(blocks_for(n, kThreads)), n, means, viewmatrix, visible);
    });
}
}
