// SPDX-License-Identifier: Apache-2.0
// The CUDA entry points of the C ABI: buffers laid out, kernels launched in order on the caller's stream, errors as
// codes.
//
// Nothing here allocates device memory or waits for the device.
#include <cuda_runtime.h>

#include <algorithm>
#include <cub/device/device_radix_sort.cuh>
#include <stdexcept>
#include <string>

#include "cuda_bin.cuh"
#include "cuda_blend.cuh"
#include "cuda_project.cuh"

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
    const DgrScene& in = b.views[0];
    Frame f;
    f.n = in.n_gaussians;
    f.capacity = b.pair_capacity;
    f.n_views = b.n_views;
    f.width_px = in.width_px;
    f.height_px = in.height_px;
    f.tiles_x = (in.width_px + gm::kTile_px - 1) / gm::kTile_px;
    f.tiles_y = (in.height_px + gm::kTile_px - 1) / gm::kTile_px;
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

int bits_for(int64_t n_values) {
    int bits = 0;
    while ((1ll << bits) < n_values) ++bits;
    return bits;
}

constexpr int kDepthBits = 32;
// Of a tile's number, counted through all views; one number more, all ones, is that of the unused keys.
int tile_bits(const Frame& f) { return bits_for((int64_t)f.n_views * f.n_tiles + 1); }

// Bytes that cub wants for sorting n keys by n_bits.
size_t sort_bytes(int64_t n, int n_bits) {
    size_t bytes = 0;
    const uint32_t* in = nullptr;
    uint32_t* out = nullptr;
    check(cub::DeviceRadixSort::SortPairs(nullptr, bytes, in, out, in, out, (int)n, 0, n_bits), "cub");
    return bytes;
}

// What the forward pass needs and no later call reads. The sort by depth and the sort by tile use it in turn.
struct Scratch {
    uint32_t *keys, *values, *sorted_keys;  // [C]
    SlotCount* block_sums;
    char* sort;
    size_t sort_bytes;
};

Scratch make_scratch(const Frame& f, Carver& scratch) {
    Scratch s;
    s.keys = scratch.take<uint32_t>(f.capacity);
    s.values = scratch.take<uint32_t>(f.capacity);
    s.sorted_keys = scratch.take<uint32_t>(f.capacity);
    s.block_sums = scratch.take<SlotCount>(blocks_for(f.n * f.n_views, kThreads));
    s.sort_bytes = std::max(sort_bytes(f.n * f.n_views, kDepthBits), sort_bytes(f.capacity, tile_bits(f)));
    s.sort = scratch.take<char>((int64_t)s.sort_bytes);
    return s;
}

// Stable, by the lowest n_bits of the first n keys.
void sort_pairs(Scratch& sc, uint32_t* sorted_values, int64_t n, int n_bits, cudaStream_t s) {
    const uint32_t *keys = sc.keys, *values = sc.values;
    check(cub::DeviceRadixSort::SortPairs(sc.sort, sc.sort_bytes, keys, sc.sorted_keys, values, sorted_values, (int)n, 0,
                                          n_bits, s),
          "cub");
}

template <class T>
PerView<T> per_view(const T* views, int n_views) {
    PerView<T> all = {};
    std::copy(views, views + n_views, all.at);
    return all;
}

// ---------------------------------------------------------------------------------------------- forward

// Fills the tiles' lists from depth keys and indices, which are in sc.keys and sc.values.
void make_lists(const Frame& f, Scratch& sc, cudaStream_t s) {
    const int64_t n = f.n * f.n_views;
    uint32_t* order = f.slots;  // has room for it until the second sort
    sort_pairs(sc, order, n, kDepthBits, s);
    const unsigned n_blocks = blocks_for(n, kThreads);
    LAUNCH(count_slots, dim3(n_blocks), f, order, sc.block_sums);
    LAUNCH(scan_slots, dim3(1), f, sc.block_sums, n_blocks);
    check(cudaMemsetAsync(sc.keys, 0xff, sizeof(uint32_t) * (size_t)f.capacity, s), "cudaMemsetAsync");
    LAUNCH(emit_pairs, dim3(n_blocks), f, order, sc.block_sums, sc.keys, sc.values);
    sort_pairs(sc, f.slots, f.capacity, tile_bits(f), s);
    LAUNCH(find_lists, dim3(blocks_for((int64_t)f.n_views * f.n_tiles + 1, kThreads)), f, sc.sorted_keys);
}

void forward(const DgrBatch& b, const DgrImages* out, int64_t* host_counts, void* state, void* scratch,
             cudaStream_t s) {
    Carver in_state(state), in_scratch(scratch);
    const Frame f = make_frame(b, in_state);
    const Scenes scenes = per_view(b.views, f.n_views);
    const PerView<DgrImages> images = per_view(out, f.n_views);
    check(cudaMemsetAsync(f.header, 0, sizeof(Header), s), "cudaMemsetAsync");
    if (f.n > 0) {
        Scratch sc = make_scratch(f, in_scratch);
        LAUNCH(project, dim3(blocks_for(f.n, kThreads), f.n_views), scenes, f, images, sc.keys, sc.values);
        make_lists(f, sc, s);
    } else {
        const size_t bytes = sizeof(uint32_t) * ((size_t)f.n_views * f.n_tiles + 1);
        check(cudaMemsetAsync(f.tile_begin, 0, bytes, s), "cudaMemsetAsync");
    }
    if (host_counts)
        check(cudaMemcpyAsync(host_counts, f.header, 2 * sizeof(int64_t), cudaMemcpyDeviceToHost, s), "counts");
    LAUNCH(blend, dim3(f.tiles_x, f.tiles_y, f.n_views), scenes, f, images);
}

// ---------------------------------------------------------------------------------------------- backward

Partials make_partials(const Frame& f, Carver& scratch) {
    Partial* sums = scratch.take<Partial>(f.capacity);
    return {sums, scratch.take<uint8_t>(f.capacity)};
}

void backward(const DgrBatch& b, const DgrGradients* g, void* state, void* scratch, cudaStream_t s) {
    Carver in_state(state), in_scratch(scratch);
    const Frame f = make_frame(b, in_state);
    if (f.n == 0) return;
    const Scenes scenes = per_view(b.views, f.n_views);
    const PerView<DgrGradients> gradients = per_view(g, f.n_views);
    const Partials partials = make_partials(f, in_scratch);
    LAUNCH(clear_partials, dim3(kThreads), f, partials);
    LAUNCH(blend_backward, dim3(f.tiles_x, f.tiles_y, f.n_views), scenes, f, gradients, partials);
    for (int64_t stride = 1; f.n_tiles > stride * kSerialSlots; stride *= kSerialSlots)
        LAUNCH(sum_wide, dim3(kThreads), f, partials, (uint32_t)stride);
    LAUNCH(project_backward, dim3(blocks_for(f.n, kThreads), f.n_views), scenes, f, partials, gradients);
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
        const DeviceGuard guard(batch->device);  // cub's part depends on it
        Carver state(nullptr), scratch(nullptr), partials(nullptr);
        const Frame f = make_frame(*batch, state);
        make_scratch(f, scratch);
        make_partials(f, partials);
        *bytes = {state.used(), scratch.used(), partials.used()};
    });
}

int dgr_cuda_forward(const DgrBatch* batch, const DgrImages* images, int64_t* host_counts, void* state, void* scratch,
                     void* stream) {
    return guarded([&] {
        const DeviceGuard guard(batch->device);
        forward(*batch, images, host_counts, state, scratch, static_cast<cudaStream_t>(stream));
    });
}

int dgr_cuda_backward(const DgrBatch* batch, const DgrGradients* gradients, void* state, void* scratch, void* stream) {
    return guarded([&] {
        const DeviceGuard guard(batch->device);
        backward(*batch, gradients, state, scratch, static_cast<cudaStream_t>(stream));
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
