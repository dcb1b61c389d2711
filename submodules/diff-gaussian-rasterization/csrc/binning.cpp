// SPDX-License-Identifier: Apache-2.0
// From Gaussians with tile spans to one front-to-back list per tile: sort the N depth keys once, then scatter stably.
#include <string.h>

#include <stdexcept>
#include <utility>

#include "frame.h"
#include "workers.h"

namespace dgr {
namespace {

constexpr int kDigitBits = 11, kDigits = 1 << kDigitBits;
constexpr int64_t kPairsPerThread = 20000;  // below this a second thread costs more than it saves

// slot_begin and the number of pairs.
void number_slots(Frame& f) {
    f.slot_begin.resize((size_t)f.n + 1);
    uint64_t total = 0;
    for (int64_t i = 0; i < f.n; ++i) {
        f.slot_begin[i] = (uint32_t)total;
        total += f.spans[i].n_tiles;
    }
    if (total > 0x7fffffffu)
        throw std::length_error("more than 2^31 (Gaussian, tile) pairs: use a smaller image or smaller Gaussians");
    f.slot_begin[f.n] = f.n_pairs = (uint32_t)total;
}

// Gaussians with at least one tile as (depth bits << 32 | index); depths are positive, so their bits sort as numbers.
size_t collect_keys(const Frame& f, Scratch& scratch) {
    scratch.keys.resize((size_t)f.n);
    scratch.keys_other.resize((size_t)f.n);
    size_t count = 0;
    for (int64_t i = 0; i < f.n; ++i) {
        if (!f.spans[i].n_tiles) continue;
        uint32_t bits;
        memcpy(&bits, &f.splats[i].z, sizeof bits);
        scratch.keys[count++] = (uint64_t)bits << 32 | (uint32_t)i;
    }
    return count;
}

// Stable radix sort by the upper 32 bits, digit by digit; a digit that is the same everywhere is skipped.
const uint64_t* sort_keys(Scratch& scratch, size_t count) {
    static_assert(3 * kDigitBits >= 32, "three digits cover a key");
    uint32_t histogram[3][kDigits] = {};
    uint64_t *from = scratch.keys.data(), *to = scratch.keys_other.data();
    for (size_t i = 0; i < count; ++i)
        for (int d = 0; d < 3; ++d) ++histogram[d][from[i] >> (32 + kDigitBits * d) & (kDigits - 1)];
    for (int d = 0; d < 3; ++d) {
        const int shift = 32 + kDigitBits * d;
        uint32_t* h = histogram[d];
        if (count && h[from[0] >> shift & (kDigits - 1)] == count) continue;
        uint32_t sum = 0;
        for (int i = 0; i < kDigits; ++i) sum += std::exchange(h[i], sum);
        for (size_t i = 0; i < count; ++i) to[h[from[i] >> shift & (kDigits - 1)]++] = from[i];
        std::swap(from, to);
    }
    return from;
}

// Calls fn(tile, running number) for each tile of a Gaussian, in the order in which its slots are numbered.
template <class Fn>
void for_each_tile(const Frame& f, const KernelTable& kernels, const SortedSpan& s, uint32_t* tiles, Fn fn) {
    const TileSpan& span = s.span;
    if (span.x1 - span.x0 <= 4 && span.y1 - span.y0 <= 4) {
        uint32_t j = 0;
        for (unsigned m = span.mask; m; m &= m - 1, ++j) {
            const int bit = __builtin_ctz(m);
            fn((uint32_t)((span.y0 + (bit >> 2)) * f.tiles_x + span.x0 + (bit & 3)), j);
        }
        return;
    }
    const uint32_t n = kernels.list_tiles(f, f.splats[s.gaussian], span, tiles);
    for (uint32_t j = 0; j < n; ++j) fn(tiles[j], j);
}

// cursors[chunk][tile]: from counts to the place of the chunk's first pair in the tile's list.
void place_chunks(Frame& f, Scratch& scratch, int n_chunks, int n_tiles) {
    uint32_t sum = 0;
    for (int t = 0; t < n_tiles; ++t) {
        f.tile_begin[t] = sum;
        for (int c = 0; c < n_chunks; ++c) sum += std::exchange(scratch.cursors[(size_t)c * n_tiles + t], sum);
    }
    f.tile_begin[n_tiles] = sum;
}

void scatter(Frame& f, Scratch& scratch, const KernelTable& kernels, const uint64_t* order, size_t count,
             int n_chunks) {
    const int n_tiles = f.tiles_x * f.tiles_y;
    f.tile_begin.resize((size_t)n_tiles + 1);
    scratch.cursors.resize((size_t)n_chunks * n_tiles);
    scratch.tile_lists.resize((size_t)n_chunks * n_tiles);
    scratch.sorted_spans.resize(count);
    f.entries.resize(f.n_pairs);
    f.block_masks.resize(f.n_pairs);
    auto run = [&](int64_t chunk, bool place) {
        uint32_t* cursor = &scratch.cursors[(size_t)chunk * n_tiles];
        uint32_t* tiles = &scratch.tile_lists[(size_t)chunk * n_tiles];
        if (!place) memset(cursor, 0, sizeof(uint32_t) * (size_t)n_tiles);
        const size_t begin = count * chunk / n_chunks, end = count * (chunk + 1) / n_chunks;
        for (size_t k = begin; k < end; ++k) {
            SortedSpan& s = scratch.sorted_spans[k];
            if (!place) {
                const uint32_t i = (uint32_t)order[k], ahead = (uint32_t)order[k + 16 < end ? k + 16 : k];
                __builtin_prefetch(&f.spans[ahead]);
                __builtin_prefetch(&f.slot_begin[ahead]);
                s = {f.spans[i], i, f.slot_begin[i]};
            }
            for_each_tile(f, kernels, s, tiles, [&](uint32_t tile, uint32_t j) {
                const uint32_t at = cursor[tile]++;
                if (place) f.entries[at] = {s.gaussian, s.slot + j};
            });
        }
    };
    run_chunks(n_chunks, n_chunks, [&](int64_t c) { run(c, false); });
    place_chunks(f, scratch, n_chunks, n_tiles);
    run_chunks(n_chunks, n_chunks, [&](int64_t c) { run(c, true); });
}

}  // namespace

void bin_gaussians(Frame& f, Scratch& scratch, const KernelTable& kernels, int n_threads) {
    number_slots(f);
    const size_t count = collect_keys(f, scratch);
    const uint64_t* order = sort_keys(scratch, count);
    int64_t n_chunks = f.n_pairs / kPairsPerThread;
    n_chunks = n_chunks < 1 ? 1 : n_chunks > n_threads ? n_threads : n_chunks;
    scatter(f, scratch, kernels, order, count, (int)n_chunks);
}

}  // namespace dgr
