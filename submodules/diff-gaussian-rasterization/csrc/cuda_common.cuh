// SPDX-License-Identifier: Apache-2.0
// What the CUDA kernels share: one batch in device memory, and helpers for a warp and a block.
//
// Blocks have 256 threads and every warp collective names all 32 lanes. Arithmetic is compiled without contraction
// (-fmad=false), so that two kernels that compute the same thing get the same bits; fmaf is written where it matters.
#pragma once

#include <stdint.h>

#include "cuda_abi.h"
#include "gaussian_project.h"

#define GM_DEVICE static __device__ __forceinline__
#define GM_FUNC_MEMBER __host__ __device__ __forceinline__

namespace dgr {

constexpr int kThreads = 256, kWarp = 32, kWarps = kThreads / kWarp;
constexpr unsigned kAllLanes = 0xffffffffu;

struct Rect {
    uint16_t x0, y0, x1, y1;  // tiles [x0, x1) x [y0, y1)
};

constexpr uint32_t kSerialSlots = 64;  // how many slots, at most, one thread adds up

// Views by blockIdx: what the kernels get of the caller's arrays.
template <class T>
struct PerView {
    T at[DGR_MAX_VIEWS];
};
typedef PerView<DgrScene> Scenes;

struct Header {
    unsigned long long n_pairs, n_dropped;
    uint32_t n_entries;  // pairs in the lists
    uint32_t one_list;   // 1: the pairs did not fit, so each view has one list for all of its tiles
    uint32_t n_wide;     // Gaussians of more than kSerialSlots tiles
};

struct alignas(8) Partial {
    gm::Moments<float> moments;
};

// What the tiles contribute to the Gaussians' gradients, by slot. Where `any` is 0 no pixel contributed and the sum was
// never written: behind a solid surface that is most of them, and a byte is all that they cost.
struct Partials {
    Partial* sums;  // [C]
    uint8_t* any;   // [C]
};

// What the forward pass leaves for the backward one. Letters: B views, N Gaussians, T tiles of a view, C capacity.
// An "entry" is a place in the tiles' lists, front to back; a "slot" numbers the same pairs by Gaussian, so that the
// backward pass can store one sum per pair and add them up in a fixed order, without atomics.
struct Frame {
    int64_t n, capacity;
    int n_views, width_px, height_px, tiles_x, tiles_y, n_tiles;
    Header* header;
    gm::Splat* splats;     // [B,N]
    Rect* rects;           // [B,N]
    uint32_t* tile_count;  // [B,N] tiles reached
    uint32_t* slot_begin;  // [B,N]
    uint32_t* owner;       // [C] of a slot: index into [B,N]
    uint32_t* slots;       // [C] of an entry
    uint32_t* tile_begin;  // [B*T+1] first entry
    float* final_t;        // [B,T,256]
    uint32_t* stop;        // [B,T,256] position in the list at which the pixel stopped
};

GM_DEVICE int lane_of() { return (int)(threadIdx.x % kWarp); }
GM_DEVICE int warp_of() { return (int)(threadIdx.x / kWarp); }
GM_DEVICE unsigned lanes_below(int lane) { return (1u << lane) - 1u; }

template <class T>
GM_DEVICE T warp_inclusive_scan(T value) {
    const int lane = lane_of();
    for (int d = 1; d < kWarp; d *= 2) {
        const T below = __shfl_up_sync(kAllLanes, value, d);
        if (lane >= d) value += below;
    }
    return value;
}

// Exclusive scan over the block; warp_sums is shared. Begins and ends with the block in step.
template <class T>
GM_DEVICE T block_exclusive_scan(T value, T (&warp_sums)[kWarps], T* total) {
    const T inclusive = warp_inclusive_scan(value);
    if (lane_of() == kWarp - 1) warp_sums[warp_of()] = inclusive;
    __syncthreads();
    T before = 0, sum = 0;
    for (int w = 0; w < kWarps; ++w) {
        if (w == warp_of()) before = sum;
        sum += warp_sums[w];
    }
    __syncthreads();
    *total = sum;
    return before + inclusive - value;
}

GM_DEVICE gm::Vec3<float> load3(const float* p) { return {p[0], p[1], p[2]}; }
GM_DEVICE void store3(float* p, const gm::Vec3<float>& v) { p[0] = v.x, p[1] = v.y, p[2] = v.z; }

// Whether alpha < 1/255 for certain on all pixels [x0, x0 + w) x [y0, y0 + h).
GM_DEVICE bool misses_pixels(const gm::Form<float>& f, int x0_px, int y0_px, int w_px, int h_px) {
    const float dx_hi = f.x - (float)x0_px, dy_hi = f.y - (float)y0_px;
    return gm::misses_box<float>(f, dx_hi - (float)(w_px - 1), dx_hi, dy_hi - (float)(h_px - 1), dy_hi);
}

// The whole warp goes through the tiles of one Gaussian's rectangle and calls visit(x, y, how many were before) on the
// lanes whose tile is reached; returns how many are. All lanes pass the same arguments.
template <class Visit>
GM_DEVICE uint32_t walk_tiles(const gm::Form<float>& f, Rect r, const Visit& visit) {
    const int width = r.x1 - r.x0, n = width * (r.y1 - r.y0), lane = lane_of();
    uint32_t count = 0;
    for (int first = 0; first < n; first += kWarp) {
        const int k = first + lane, x = r.x0 + k % width, y = r.y0 + k / width;
        const bool reached = k < n && !misses_pixels(f, x * gm::kTile_px, y * gm::kTile_px, gm::kTile_px, gm::kTile_px);
        const unsigned lanes = __ballot_sync(kAllLanes, reached);
        if (reached) visit(x, y, count + __popc(lanes & lanes_below(lane)));
        count += __popc(lanes);
    }
    return count;
}

}  // namespace dgr
