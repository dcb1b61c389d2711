// SPDX-License-Identifier: Apache-2.0
// Mean squared distance to the three nearest other points, exact, by a k-d tree with tight boxes.
//
// The tree splits the points in halves along the longest side of their box until at most kLeaf remain; the points of a
// leaf are stored together, padded to kLeaf with points at infinity. A query starts with the leaf of its own point and
// then walks the tree from the root. Box distances are computed by the same operations as point distances, each of
// which is monotone under rounding, so a box is never farther than a point in it and pruning loses nothing.
#include <stdint.h>
#include <stdlib.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <new>
#include <vector>

#include "helpers.h"

#ifdef KNN_X86_CLONES
#define KNN_CLONES __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define KNN_CLONES
#endif

// Into the clones: a function that is not inlined there is compiled for the base instruction set.
#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace {

constexpr int kLeaf = 16;
constexpr int64_t kTaskPoints = 8192;       // subtrees smaller than this are built by one thread
constexpr int64_t kLeavesPerChunk = 32;
constexpr int64_t kPointsPerThread = 1024;  // below this a second thread costs more than it saves
constexpr int kMaxDepth = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Point {
    float v[3];
    int32_t index;
};

// Inner nodes have children 2i+1 and 2i+2; leaf j of the 2^depth leaves is node (2^depth - 1) + j.
struct Node {
    float lo[3], hi[3];
};

struct Leaf {
    float x[kLeaf], y[kLeaf], z[kLeaf];
    int32_t index[kLeaf];
    int count;
};

struct Tree {
    int depth;
    std::vector<Node> nodes;
    std::vector<Leaf> leaves;
};

// The three smallest squared distances so far, ascending.
struct Best {
    float d[3] = {kInfinity, kInfinity, kInfinity};
    ALWAYS_INLINE void insert(float x) {
        if (x >= d[2]) return;
        d[2] = x;
        if (d[2] < d[1]) std::swap(d[2], d[1]);
        if (d[1] < d[0]) std::swap(d[1], d[0]);
    }
};

Node box_of(const Point* p, int64_t n) {
    Node b;
    for (int c = 0; c < 3; ++c) b.lo[c] = kInfinity, b.hi[c] = -kInfinity;
    for (int64_t i = 0; i < n; ++i) {
        for (int c = 0; c < 3; ++c) {
            b.lo[c] = std::min(b.lo[c], p[i].v[c]);
            b.hi[c] = std::max(b.hi[c], p[i].v[c]);
        }
    }
    return b;
}

void fill_leaf(Leaf& leaf, const Point* p, int64_t n) {
    leaf.count = (int)n;
    for (int i = 0; i < kLeaf; ++i) {
        const bool real = i < n;
        leaf.x[i] = real ? p[i].v[0] : kInfinity;
        leaf.y[i] = real ? p[i].v[1] : kInfinity;
        leaf.z[i] = real ? p[i].v[2] : kInfinity;
        leaf.index[i] = real ? p[i].index : -1;
    }
}

// The points of a node; [0, half) and the rest go to its children.
struct Range {
    Point* p;
    int64_t n;
    int64_t half() const { return (n + 1) / 2; }
    Range child(int side) const { return side ? Range{p + half(), n - half()} : Range{p, half()}; }
};

// Box of an inner node; its points put in order for its children.
void split(Tree& tree, const Range& r, int64_t node) {
    const Node box = tree.nodes[node] = box_of(r.p, r.n);
    int axis = 0;
    for (int c = 1; c < 3; ++c)
        if (box.hi[c] - box.lo[c] > box.hi[axis] - box.lo[axis]) axis = c;
    const auto before = [axis](const Point& a, const Point& b) { return a.v[axis] < b.v[axis]; };
    std::nth_element(r.p, r.p + r.half(), r.p + r.n, before);
}

void build(Tree& tree, const Range& r, int64_t node) {
    const int64_t first_leaf = ((int64_t)1 << tree.depth) - 1;
    if (node >= first_leaf) {
        tree.nodes[node] = box_of(r.p, r.n);
        fill_leaf(tree.leaves[node - first_leaf], r.p, r.n);
        return;
    }
    split(tree, r, node);
    for (int side = 0; side < 2; ++side) build(tree, r.child(side), 2 * node + 1 + side);
}

Tree build_tree(const float* points, int64_t n, int n_threads) {
    std::vector<Point> p((size_t)n);
    for (int64_t i = 0; i < n; ++i) p[i] = {{points[3 * i], points[3 * i + 1], points[3 * i + 2]}, (int32_t)i};
    Tree tree;
    tree.depth = 0;
    while ((n + ((int64_t)1 << tree.depth) - 1) >> tree.depth > kLeaf) ++tree.depth;
    tree.nodes.resize(((size_t)2 << tree.depth) - 1);
    tree.leaves.resize((size_t)1 << tree.depth);
    std::vector<Range> level = {{p.data(), n}};  // nodes level.size() - 1 and following; the top, level by level
    while (level[0].n > kTaskPoints && (int)level.size() < 4 * n_threads) {
        const int64_t first = (int64_t)level.size() - 1;
        run_chunks(first + 1, n_threads, [&](int64_t i) { split(tree, level[i], first + i); });
        std::vector<Range> next;
        for (const Range& r : level) next.insert(next.end(), {r.child(0), r.child(1)});
        level = std::move(next);
    }
    const int64_t first = (int64_t)level.size() - 1;
    run_chunks(first + 1, n_threads, [&](int64_t i) { build(tree, level[i], first + i); });
    return tree;
}

ALWAYS_INLINE float box_distance(const Node& b, const float* q) {
    const float dx = std::max(std::max(b.lo[0] - q[0], q[0] - b.hi[0]), 0.0f);
    const float dy = std::max(std::max(b.lo[1] - q[1], q[1] - b.hi[1]), 0.0f);
    const float dz = std::max(std::max(b.lo[2] - q[2], q[2] - b.hi[2]), 0.0f);
    return dx * dx + dy * dy + dz * dz;
}

// `skip` is the place of the query itself in the leaf, or -1.
ALWAYS_INLINE void scan_leaf(const Leaf& leaf, const float* q, int skip, Best& best) {
    float d[kLeaf];
    for (int i = 0; i < kLeaf; ++i) {
        const float dx = leaf.x[i] - q[0], dy = leaf.y[i] - q[1], dz = leaf.z[i] - q[2];
        d[i] = dx * dx + dy * dy + dz * dz;
    }
    for (int i = 0; i < leaf.count; ++i)
        if (i != skip) best.insert(d[i]);
}

ALWAYS_INLINE float query(const Tree& tree, int64_t own_leaf, int place, int64_t n) {
    const Leaf& own = tree.leaves[own_leaf];
    const float q[3] = {own.x[place], own.y[place], own.z[place]};
    const int64_t first_leaf = ((int64_t)1 << tree.depth) - 1;
    Best best;
    scan_leaf(own, q, place, best);
    struct Pending {
        int64_t node;
        float distance;
    } stack[kMaxDepth];
    int top = 0;
    stack[top++] = {0, 0.0f};
    while (top) {
        const Pending at = stack[--top];
        if (at.distance >= best.d[2]) continue;
        if (at.node >= first_leaf) {
            if (at.node - first_leaf != own_leaf) scan_leaf(tree.leaves[at.node - first_leaf], q, -1, best);
            continue;
        }
        Pending near = {2 * at.node + 1, box_distance(tree.nodes[2 * at.node + 1], q)};
        Pending far = {2 * at.node + 2, box_distance(tree.nodes[2 * at.node + 2], q)};
        if (far.distance < near.distance) std::swap(near, far);
        stack[top++] = far;
        stack[top++] = near;
    }
    const int k = (int)std::min<int64_t>(3, n - 1);
    float sum = 0.0f;
    for (int i = 0; i < k; ++i) sum += best.d[i];
    return k ? sum / (float)k : 0.0f;
}

KNN_CLONES void query_leaf(const Tree& tree, int64_t leaf, int64_t n, float* out) {
    for (int i = 0; i < tree.leaves[leaf].count; ++i) out[tree.leaves[leaf].index[i]] = query(tree, leaf, i, n);
}

void run(int64_t n, const float* points, float* out, int n_threads) {
    n_threads = (int)std::max<int64_t>(1, std::min<int64_t>(n_threads, n / kPointsPerThread));
    const Tree tree = build_tree(points, n, n_threads);
    const int64_t n_leaves = (int64_t)tree.leaves.size();
    run_chunks((n_leaves + kLeavesPerChunk - 1) / kLeavesPerChunk, n_threads, [&](int64_t chunk) {
        const int64_t begin = chunk * kLeavesPerChunk, end = std::min(begin + kLeavesPerChunk, n_leaves);
        for (int64_t leaf = begin; leaf < end; ++leaf) query_leaf(tree, leaf, n, out);
    });
}

}  // namespace

extern "C" {

// points [n,3], out [n]. Returns 0, or 1 when memory ran out.
__attribute__((visibility("default"))) int knn_mean_squared_distances(int64_t n, const float* points, float* out,
                                                                      int32_t n_threads) {
    if (n <= 0) return 0;
    try {
        run(n, points, out, n_threads);
    } catch (const std::bad_alloc&) {
        return 1;
    }
    return 0;
}
}
