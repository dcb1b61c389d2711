// SPDX-License-Identifier: Apache-2.0
// From Gaussians in depth order to the tiles' lists: number the slots, write the pairs front to back, and, after the
// stable sort by tile, find where each tile's list begins. The host never learns the number of pairs, so the sort goes
// through the whole buffer, whose unused keys are all ones. The views are sorted by depth together: the sort by tile, whose
// tiles are numbered through all views, separates them again.
//
// When the pairs do not fit into the buffers, each view gets one list of all its Gaussians instead, which always fits;
// blending then tests every Gaussian against every tile. The image is the same, only slower, and the count that reaches
// the host some time later lets the next call have larger buffers.
#pragma once

#include "cuda_common.cuh"

namespace dgr {

// Slots of the Gaussians before a block's: with a list for each tile, and with one list for each view.
struct SlotCount {
    unsigned long long by_tile, by_view;
};

// Block sums [gridDim.x]. order [B,N]: indices into [B,N], the Gaussians of all views front to back.
__global__ void __launch_bounds__(kThreads) count_slots(const Frame f, const uint32_t* order, SlotCount* block_sums) {
    __shared__ unsigned long long warp_sums[kWarps];
    const int64_t rank = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    const uint32_t n = rank < f.n * f.n_views ? f.tile_count[order[rank]] : 0;
    SlotCount sum;
    block_exclusive_scan<unsigned long long>(n, warp_sums, &sum.by_tile);
    sum.by_view = (unsigned long long)__syncthreads_count(n > 0);
    if (threadIdx.x == 0) block_sums[blockIdx.x] = sum;
}

// One block: from block sums to the slots before each block, and the choice between the two kinds of lists.
__global__ void __launch_bounds__(kThreads) scan_slots(const Frame f, SlotCount* block_sums, int64_t n_blocks) {
    __shared__ unsigned long long warp_sums[kWarps];
    SlotCount before = {0, 0};
    for (int64_t first = 0; first < n_blocks; first += kThreads) {
        const int64_t b = first + threadIdx.x;
        const SlotCount own = b < n_blocks ? block_sums[b] : SlotCount{0, 0};
        SlotCount total;
        const unsigned long long by_tile = block_exclusive_scan(own.by_tile, warp_sums, &total.by_tile);
        const unsigned long long by_view = block_exclusive_scan(own.by_view, warp_sums, &total.by_view);
        if (b < n_blocks) block_sums[b] = {before.by_tile + by_tile, before.by_view + by_view};
        before.by_tile += total.by_tile;
        before.by_view += total.by_view;
    }
    if (threadIdx.x != 0) return;
    const bool one_list = before.by_tile > (unsigned long long)f.capacity;
    f.header->n_pairs = before.by_tile;
    f.header->one_list = one_list;
    f.header->n_entries = (uint32_t)(one_list ? before.by_view : before.by_tile);
}

// keys [C]: the tile of each pair, counted through all views; values [C]: its slot; pairs in depth order. Keys without a
// pair keep what the host filled them with, and end behind all others.
__global__ void __launch_bounds__(kThreads) emit_pairs(const Frame f, const uint32_t* order,
                                                       const SlotCount* block_sums, uint32_t* keys, uint32_t* values) {
    __shared__ uint32_t warp_sums[kWarps];
    const int64_t rank = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    const uint32_t at = rank < f.n * f.n_views ? order[rank] : 0;
    const bool one_list = f.header->one_list, exists = rank < f.n * f.n_views && f.tile_count[at] > 0;
    const uint32_t n = !exists ? 0 : one_list ? 1 : f.tile_count[at];
    const uint32_t first_tile = at / (uint32_t)f.n * (uint32_t)f.n_tiles;
    const SlotCount before = block_sums[blockIdx.x];
    uint32_t total;
    const uint32_t begin = (uint32_t)(one_list ? before.by_view : before.by_tile) +
                           block_exclusive_scan(n, warp_sums, &total);
    if (exists) f.slot_begin[at] = begin;
    if (one_list && exists) {
        keys[begin] = first_tile;
        values[begin] = begin;
        f.owner[begin] = at;
    }
    for (unsigned left = one_list ? 0 : __ballot_sync(kAllLanes, exists); left; left &= left - 1) {
        const int from = __ffs(left) - 1;
        const uint32_t who = __shfl_sync(kAllLanes, at, from), to = __shfl_sync(kAllLanes, begin, from);
        const uint32_t tile = __shfl_sync(kAllLanes, first_tile, from);
        walk_tiles(f.splats[who].form, f.rects[who], [&](int x, int y, uint32_t k) {
            keys[to + k] = tile + (uint32_t)(y * f.tiles_x + x);
            values[to + k] = to + k;
            f.owner[to + k] = who;
        });
    }
}

// tile_begin[t]: the first sorted key that is not below t.
__global__ void __launch_bounds__(kThreads) find_lists(const Frame f, const uint32_t* sorted_keys) {
    const int64_t t = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    if (t > (int64_t)f.n_views * f.n_tiles) return;
    uint32_t low = 0, high = f.header->n_entries;
    while (low < high) {
        const uint32_t middle = low + (high - low) / 2;
        if (sorted_keys[middle] < t)
            low = middle + 1;
        else
            high = middle;
    }
    f.tile_begin[t] = low;
}

}  // namespace dgr
