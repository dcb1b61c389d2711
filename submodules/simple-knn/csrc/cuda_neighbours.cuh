// SPDX-License-Identifier: Apache-2.0
// Mean squared distance to the three nearest other points on a GPU, exact: points sorted along a space-filling curve,
// boxes around every 32 and every 1024 of them, and a search that passes over boxes farther than the third neighbour.
//
// As in neighbours.cpp, box distances come from the same operations as point distances, so that pruning loses nothing;
// the build forbids contraction (-fmad=false), so that both give the same bits.
#pragma once

#include <math.h>
#include <stdint.h>

namespace knn {

constexpr int kThreads = 256, kWarp = 32;
constexpr int kFan = 32;                  // points in a leaf, leaves in a group; one warp builds either
constexpr float kCells = (1 << 21) - 1;   // of the curve along the longest side: 3 times 21 bits
constexpr unsigned kAllLanes = 0xffffffffu;

struct Point {
    float x, y, z;
    int32_t index;
};

struct Box {
    float lo[3], hi[3];
};

struct Tree {
    int64_t n, n_leaves, n_groups;
    Point* points;  // [n] along the curve
    Box* leaves;
    Box* groups;
};

// The three smallest squared distances so far, ascending.
struct Best {
    float d[3];
    __device__ void insert(float x) {
        if (x >= d[2]) return;
        d[2] = x < d[1] ? d[1] : x;
        const float y = x < d[1] ? x : d[1];
        d[1] = y < d[0] ? d[0] : y;
        d[0] = y < d[0] ? y : d[0];
    }
};

// Bit k of a 21-bit number to bit 3k.
__device__ uint64_t spread(uint64_t x) {
    x = (x | x << 32) & 0x001f00000000ffffull;
    x = (x | x << 16) & 0x001f0000ff0000ffull;
    x = (x | x << 8) & 0x100f00f00f00f00full;
    x = (x | x << 4) & 0x10c30c30c30c30c3ull;
    return (x | x << 2) & 0x1249249249249249ull;
}

// The place of a point on the curve; it only decides about speed. bounds [2,3]: smallest and largest coordinates.
__global__ void __launch_bounds__(kThreads) curve_codes(int64_t n, const float* points, const float* bounds,
                                                        int64_t* codes) {
    const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    if (i >= n) return;
    float side = 0.0f;
    for (int c = 0; c < 3; ++c) side = fmaxf(side, bounds[3 + c] - bounds[c]);
    uint64_t code = 0;
    for (int c = 0; c < 3; ++c) {
        const float cell = side > 0.0f ? (points[3 * i + c] - bounds[c]) / side * kCells : 0.0f;
        code |= spread((uint64_t)fminf(fmaxf(cell, 0.0f), kCells)) << c;
    }
    codes[i] = (int64_t)code;
}

// The smallest box around the boxes of a warp's lanes, stored by the first lane.
__device__ void store_union(Box box, Box* to) {
    for (int d = kWarp / 2; d; d /= 2) {
        for (int c = 0; c < 3; ++c) {
            box.lo[c] = fminf(box.lo[c], __shfl_xor_sync(kAllLanes, box.lo[c], d));
            box.hi[c] = fmaxf(box.hi[c], __shfl_xor_sync(kAllLanes, box.hi[c], d));
        }
    }
    if (threadIdx.x % kWarp == 0) *to = box;
}

__device__ Box no_box() { return {{INFINITY, INFINITY, INFINITY}, {-INFINITY, -INFINITY, -INFINITY}}; }

// A warp for each leaf: its points in order, and the box around them.
__global__ void __launch_bounds__(kThreads) build_leaves(const Tree t, const float* points, const int64_t* order) {
    const int64_t k = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    Box box = no_box();
    if (k < t.n) {
        const int64_t i = order[k];
        const float* p = points + 3 * i;
        t.points[k] = {p[0], p[1], p[2], (int32_t)i};
        box = {{p[0], p[1], p[2]}, {p[0], p[1], p[2]}};
    }
    if (k / kFan < t.n_leaves) store_union(box, &t.leaves[k / kFan]);
}

__global__ void __launch_bounds__(kThreads) build_groups(const Tree t) {
    const int64_t leaf = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    const Box box = leaf < t.n_leaves ? t.leaves[leaf] : no_box();
    if (leaf / kFan < t.n_groups) store_union(box, &t.groups[leaf / kFan]);
}

__device__ float box_distance(const Box& b, const Point& q) {
    const float dx = fmaxf(fmaxf(b.lo[0] - q.x, q.x - b.hi[0]), 0.0f);
    const float dy = fmaxf(fmaxf(b.lo[1] - q.y, q.y - b.hi[1]), 0.0f);
    const float dz = fmaxf(fmaxf(b.lo[2] - q.z, q.z - b.hi[2]), 0.0f);
    return dx * dx + dy * dy + dz * dz;
}

__device__ void search_leaf(const Tree& t, int64_t leaf, const Point& q, Best& best) {
    const int64_t end = (leaf + 1) * kFan < t.n ? (leaf + 1) * kFan : t.n;
    for (int64_t k = leaf * kFan; k < end; ++k) {
        const Point p = t.points[k];
        const float dx = p.x - q.x, dy = p.y - q.y, dz = p.z - q.z;
        if (p.index != q.index) best.insert(dx * dx + dy * dy + dz * dz);
    }
}

__device__ void search_group(const Tree& t, int64_t group, int64_t own_leaf, const Point& q, Best& best) {
    if (box_distance(t.groups[group], q) >= best.d[2]) return;
    const int64_t end = (group + 1) * kFan < t.n_leaves ? (group + 1) * kFan : t.n_leaves;
    for (int64_t leaf = group * kFan; leaf < end; ++leaf)
        if (leaf != own_leaf && box_distance(t.leaves[leaf], q) < best.d[2]) search_leaf(t, leaf, q, best);
}

// Own leaf, own group, the others.
__global__ void __launch_bounds__(kThreads) search(const Tree t, float* out) {
    const int64_t k = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    if (k >= t.n) return;
    const Point q = t.points[k];
    const int64_t own_leaf = k / kFan, own_group = own_leaf / kFan;
    Best best = {{INFINITY, INFINITY, INFINITY}};
    search_leaf(t, own_leaf, q, best);
    search_group(t, own_group, own_leaf, q, best);
    for (int64_t group = 0; group < t.n_groups; ++group)
        if (group != own_group) search_group(t, group, own_leaf, q, best);
    const int n_found = t.n - 1 < 3 ? (int)(t.n - 1) : 3;
    float sum = 0.0f;
    for (int c = 0; c < 3; ++c)
        if (c < n_found) sum += best.d[c];
    out[q.index] = n_found ? sum / (float)n_found : 0.0f;
}

}  // namespace knn
