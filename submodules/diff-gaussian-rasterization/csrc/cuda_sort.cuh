// SPDX-License-Identifier: Apache-2.0
// One pass of a stable radix sort of 32-bit keys with 32-bit values, in three kernels: count the digits of each block's
// keys, scan the counts over the blocks, scatter.
//
// Why not cub: the number of pairs is known on the device only, and reading it there spares the host a wait; the whole
// library compiles in seconds; and the tests execute every kernel of it on a CPU.
#pragma once

#include "cuda_common.cuh"

namespace dgr {

constexpr int kDigitBits = 8, kDigits = 1 << kDigitBits;
constexpr int kSortItems = 4, kSortTile = kThreads * kSortItems;  // keys of a thread, of a block

// Segments of n keys each, one per blockIdx.y, sorted on their own.
struct SortPass {
    const uint32_t *keys, *values;  // values null: the index in the segment
    uint32_t *keys_out, *values_out;
    uint32_t* histogram;    // [segments,kDigits,n_blocks]
    uint32_t* totals;       // [segments,kDigits]
    const uint32_t* count;  // how many of the n keys there are; null: all
    int64_t n;
    int n_blocks, shift;
};

GM_DEVICE int64_t count_of(const SortPass& p) { return p.count ? (int64_t)*p.count : p.n; }
GM_DEVICE unsigned digit_of(const SortPass& p, uint32_t key) { return key >> p.shift & (kDigits - 1); }
GM_DEVICE uint32_t* histogram_row(const SortPass& p, int digit) {
    return p.histogram + ((int64_t)blockIdx.y * kDigits + digit) * p.n_blocks;
}

__global__ void __launch_bounds__(kThreads) sort_histogram(const SortPass p) {
    __shared__ uint32_t counts[kDigits];
    const int64_t first = (int64_t)blockIdx.x * kSortTile, n = count_of(p);
    if (first >= n) return;
    counts[threadIdx.x] = 0;
    __syncthreads();
    const uint32_t* keys = p.keys + (int64_t)blockIdx.y * p.n;
    for (int64_t i = first + threadIdx.x; i < first + kSortTile && i < n; i += kThreads)
        atomicAdd(&counts[digit_of(p, keys[i])], 1u);
    __syncthreads();
    histogram_row(p, threadIdx.x)[blockIdx.x] = counts[threadIdx.x];
}

// A warp for each digit.
__global__ void __launch_bounds__(kThreads) sort_scan(const SortPass p) {
    const int digit = blockIdx.x * kWarps + warp_of(), lane = lane_of();
    const int used = (int)((count_of(p) + kSortTile - 1) / kSortTile);
    uint32_t* row = histogram_row(p, digit);
    uint32_t sum = 0;
    for (int first = 0; first < used; first += kWarp) {
        const uint32_t own = first + lane < used ? row[first + lane] : 0;
        const uint32_t inclusive = warp_inclusive_scan(own);
        if (first + lane < used) row[first + lane] = sum + inclusive - own;
        sum += __shfl_sync(kAllLanes, inclusive, kWarp - 1);
    }
    if (lane == 0) p.totals[blockIdx.y * kDigits + digit] = sum;
}

// Lanes of the warp that are valid and have the same digit.
GM_DEVICE unsigned same_digit(unsigned digit, bool valid) {
    unsigned lanes = __ballot_sync(kAllLanes, valid);
    for (int b = 0; b < kDigitBits; ++b) {
        const unsigned ones = __ballot_sync(kAllLanes, digit >> b & 1);
        lanes &= digit >> b & 1 ? ones : ~ones;
    }
    return lanes;
}

// A warp takes its keys in order, 32 at a time; a key's rank among the equal digits of the warp is the number of those
// before it.
__global__ void __launch_bounds__(kThreads) sort_scatter(const SortPass p) {
    __shared__ uint32_t counts[kWarps][kDigits];  // later: where the warp's first key of that digit goes
    __shared__ uint32_t warp_sums[kWarps];
    const int64_t first = (int64_t)blockIdx.x * kSortTile, n = count_of(p), segment = (int64_t)blockIdx.y * p.n;
    if (first >= n) return;
    const int warp = warp_of(), lane = lane_of();
    for (int w = 0; w < kWarps; ++w) counts[w][threadIdx.x] = 0;
    __syncthreads();
    uint32_t key[kSortItems], rank[kSortItems];
    const int64_t begin = first + warp * kWarp * kSortItems + lane;
#pragma unroll
    for (int k = 0; k < kSortItems; ++k) {
        const int64_t i = begin + k * kWarp;
        const bool valid = i < n;
        key[k] = valid ? p.keys[segment + i] : 0;
        const unsigned digit = digit_of(p, key[k]), peers = same_digit(digit, valid);
        const uint32_t before = counts[warp][digit];
        rank[k] = before + __popc(peers & lanes_below(lane));
        __syncwarp();
        if (valid && (peers & lanes_below(lane)) == 0) counts[warp][digit] = before + __popc(peers);
        __syncwarp();  // orders memory only: the next round's ballots already keep the lanes in step
    }
    const int digit = threadIdx.x;
    uint32_t total;  // the scan also brings the block in step: all counts are there
    uint32_t at = block_exclusive_scan(p.totals[blockIdx.y * kDigits + digit], warp_sums, &total);
    at += histogram_row(p, digit)[blockIdx.x];
    for (int w = 0; w < kWarps; ++w) {
        const uint32_t own = counts[w][digit];
        counts[w][digit] = at;
        at += own;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kSortItems; ++k) {
        const int64_t i = begin + k * kWarp;
        if (i >= n) continue;
        const int64_t to = segment + counts[warp][digit_of(p, key[k])] + rank[k];
        p.keys_out[to] = key[k];
        p.values_out[to] = p.values ? p.values[segment + i] : (uint32_t)i;
    }
}

}  // namespace dgr
