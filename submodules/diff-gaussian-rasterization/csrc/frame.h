// SPDX-License-Identifier: Apache-2.0
// What one rendered view keeps between the stages of the CPU backend, and the table of its hot loops.
//
// The hot loops (kernels_*.cpp) are compiled once per instruction set, each time into a namespace of its own; the rest
// calls them through KernelTable.
#pragma once

#include <stdint.h>
#include <stdlib.h>

#include <new>

#include "abi.h"
#include "gaussian_project.h"

namespace dgr {

constexpr int kBlock_px = 4;                                  // pixels are blended in 4x4 blocks
constexpr int kBlocks = (gm::kTile_px / kBlock_px) * (gm::kTile_px / kBlock_px);  // 16 blocks in a tile
constexpr int kGroup = 16;                                    // Gaussians per vector step

// Aligned memory that grows and is never initialised.
template <class T>
class Buffer {
  public:
    Buffer() = default;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { free(data_); }
    void resize(size_t count) {
        if (count > capacity_) {
            free(data_);
            data_ = nullptr;
            capacity_ = 0;
            const size_t bytes = (count * sizeof(T) + 63) / 64 * 64;
            data_ = static_cast<T*>(aligned_alloc(64, bytes));
            if (!data_) throw std::bad_alloc();
            capacity_ = count;
        }
    }
    // Always inlined: an outlined copy from one instruction set's file could be linked into another's.
    __attribute__((always_inline)) T* data() { return data_; }
    __attribute__((always_inline)) const T* data() const { return data_; }
    __attribute__((always_inline)) T& operator[](size_t i) { return data_[i]; }
    __attribute__((always_inline)) const T& operator[](size_t i) const { return data_[i]; }
    int64_t bytes() const { return (int64_t)(capacity_ * sizeof(T)); }

  private:
    T* data_ = nullptr;
    size_t capacity_ = 0;
};

using gm::Splat;

// The tiles of a Gaussian: rectangle of the original's rule; bit c + 4r of mask says that the tile (x0+c, y0+r) is
// reached, valid where the rectangle is at most 4x4 tiles.
struct TileSpan {
    uint16_t x0, y0, x1, y1;
    uint32_t mask;
    uint32_t n_tiles;
};

// A span with its Gaussian and first slot, gathered front to back.
struct SortedSpan {
    TileSpan span;
    uint32_t gaussian, slot;
};

// One (Gaussian, tile) pair of a tile's list. slot numbers the pairs by Gaussian, for the backward pass's sums.
struct Entry {
    uint32_t gaussian, slot;
};

// What one tile contributes to the gradient of one Gaussian.
// One cache line, so that the scattered stores touch one line each.
struct alignas(64) Partial {
    gm::Moments<float> moments;
    float unused[6];
};

// The contributions by slot. Where `any` is 0 the partial was never written: in a solid scene that is most of them.
struct Partials {
    Partial* sums;
    uint8_t* any;
};

struct Frame {
    gm::Camera cam;
    int64_t n = 0;
    int tiles_x = 0, tiles_y = 0;
    uint32_t n_pairs = 0;
    float background[3];
    Buffer<Splat> splats;
    Buffer<TileSpan> spans;
    Buffer<uint32_t> slot_begin;   // [n+1]
    Buffer<uint32_t> tile_begin;   // [tiles+1]
    Buffer<Entry> entries;         // [pairs], by tile, then front to back
    Buffer<uint16_t> block_masks;  // [pairs], which 4x4 blocks of the tile the Gaussian reaches
    Buffer<float> final_t;         // [tiles,16,16] in block order
    Buffer<int32_t> stop;          // [tiles,16,16] list position at which the pixel stopped
    int64_t bytes() const {
        return splats.bytes() + spans.bytes() + slot_begin.bytes() + tile_begin.bytes() + entries.bytes() +
               block_masks.bytes() + final_t.bytes() + stop.bytes();
    }
};

// Memory that one call needs and no later one reads.
struct Scratch {
    Buffer<uint64_t> keys, keys_other;  // forward
    Buffer<SortedSpan> sorted_spans;
    Buffer<uint32_t> cursors;           // [chunks,tiles]
    Buffer<uint32_t> tile_lists;        // [chunks,tiles] tiles of one large Gaussian
    Buffer<Partial> partials;           // [pairs] by slot; backward
    Buffer<uint8_t> any_partial;
};

struct KernelTable {
    const char* isa;
    // Gaussians [begin, end): splats, spans, radii; returns how many were dropped as non-finite.
    int64_t (*project)(const DgrScene&, Frame&, int32_t* radii, int64_t begin, int64_t end);
    // Ids of the tiles that a Gaussian reaches, when its span is larger than 4x4; returns their number.
    uint32_t (*list_tiles)(const Frame&, const Splat&, const TileSpan&, uint32_t* tiles);
    void (*blend)(Frame&, int tile, float* color, float* depth_alpha);
    // Index 1 also sums the gradient of depth with respect to z.
    void (*blend_backward[2])(const Frame&, int tile, const float* grad_color, const float* grad_depth_alpha,
                              const Partials&);
    // Sums the partials of Gaussians [begin, end) and goes on to the gradients of the inputs.
    void (*project_backward)(const DgrScene&, const Frame&, const Partials&, const DgrGradients&, int64_t begin,
                             int64_t end);
};

void bin_gaussians(Frame& frame, Scratch& scratch, const KernelTable& kernels, int n_threads);

}  // namespace dgr
