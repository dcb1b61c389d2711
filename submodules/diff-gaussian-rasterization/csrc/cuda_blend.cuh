// SPDX-License-Identifier: Apache-2.0
// Blending of one 16x16 tile by one block, forward and backward; blockIdx = (tile x, tile y, view).
//
// A warp has a patch of 8x4 pixels. Threads fetch the Gaussians of the list into shared memory together and note for
// each which of the eight patches its alpha >= 1/255 ellipse reaches; a warp then goes only through its own.
#pragma once

#include "cuda_common.cuh"

namespace dgr {

constexpr int kPatchWidth_px = 8, kPatchHeight_px = 4, kPatchesAcross = gm::kTile_px / kPatchWidth_px;
constexpr int kBackwardBatch = 64;  // Gaussians whose sums of eight warps are held in shared memory at once
static_assert(kPatchWidth_px * kPatchHeight_px == kWarp && kPatchesAcross * kPatchHeight_px * 2 == gm::kTile_px,
              "eight patches of a warp's size make a tile");

struct Tile {
    int v, x, y;
    int64_t index;         // among the tiles of all views
    uint32_t begin, size;  // its list
};

GM_DEVICE Tile tile_of_block(const Frame& f) {
    Tile t;
    t.v = blockIdx.z, t.x = blockIdx.x, t.y = blockIdx.y;
    t.index = (int64_t)t.v * f.n_tiles + t.y * f.tiles_x + t.x;
    const int64_t list = f.header->one_list ? (int64_t)t.v * f.n_tiles : t.index;
    t.begin = f.tile_begin[list];
    t.size = f.tile_begin[list + 1] - t.begin;
    return t;
}

struct Pixel {
    int x, y;
    bool inside;
    int64_t index;  // in an image plane
};

GM_DEVICE Pixel pixel_of_thread(const Frame& f, const Tile& t) {
    const int lane = lane_of(), patch = warp_of();
    Pixel p;
    p.x = t.x * gm::kTile_px + patch % kPatchesAcross * kPatchWidth_px + lane % kPatchWidth_px;
    p.y = t.y * gm::kTile_px + patch / kPatchesAcross * kPatchHeight_px + lane / kPatchWidth_px;
    p.inside = p.x < f.width_px && p.y < f.height_px;
    p.index = (int64_t)p.y * f.width_px + p.x;
    return p;
}

// Bit w: the Gaussian reaches the patch of warp w.
GM_DEVICE unsigned patches_reached(const Frame& f, const Tile& t, uint32_t who, const gm::Form<float>& form) {
    if (f.header->one_list) {
        const Rect r = f.rects[who];
        if (t.x < r.x0 || t.x >= r.x1 || t.y < r.y0 || t.y >= r.y1) return 0;
    }
    unsigned reached = 0;
    for (int w = 0; w < kWarps; ++w) {
        const int x0 = t.x * gm::kTile_px + w % kPatchesAcross * kPatchWidth_px;
        const int y0 = t.y * gm::kTile_px + w / kPatchesAcross * kPatchHeight_px;
        reached |= (unsigned)!misses_pixels(form, x0, y0, kPatchWidth_px, kPatchHeight_px) << w;
    }
    return reached;
}

// alpha before the 0.99 clamp where the Gaussian counts for the pixel, else 0; d = mean - pixel. Forward and backward
// must agree on what counts, hence no operation here that a compiler may fuse in one and not in the other.
struct Coverage {
    float dx, dy, raw;
};

GM_DEVICE Coverage coverage(const gm::Splat& s, const Pixel& p) {
    const gm::Form<float>& q = s.form;
    const float dx = q.x - (float)p.x, dy = q.y - (float)p.y;
    const float power = fmaf(fmaf(q.ka, dx, q.kb * dy), dx, q.kc * dy * dy);
    const float raw = s.opacity * exp2f(power);
    return {dx, dy, power <= 0.0f && raw >= gm::kAlphaMin ? raw : 0.0f};
}

GM_DEVICE float clamp_alpha(float raw) { return raw < gm::kAlphaMax ? raw : gm::kAlphaMax; }

// ---------------------------------------------------------------------------------------------- forward

struct Blended {
    float t, r, g, b, z;
    uint32_t stop;
    bool done;
};

GM_DEVICE void blend_one(const gm::Splat& s, const Pixel& p, uint32_t position, Blended& out) {
    const float alpha = clamp_alpha(coverage(s, p).raw);
    if (alpha == 0.0f) return;
    const float next = out.t * (1.0f - alpha), weight = alpha * out.t;
    if (next < gm::kTransmittanceMin) {
        out.stop = position;
        out.done = true;
        return;
    }
    out.r = fmaf(s.r, weight, out.r);
    out.g = fmaf(s.g, weight, out.g);
    out.b = fmaf(s.b, weight, out.b);
    out.z = fmaf(s.z, weight, out.z);
    out.t = next;
}

GM_DEVICE void store_pixel(const Frame& f, const DgrImages& images, const Pixel& p, const float* background,
                           const Blended& px) {
    const int64_t plane = (int64_t)f.width_px * f.height_px;
    float *color = images.color + p.index, *depth_alpha = images.depth_alpha + p.index;
    color[0] = fmaf(background[0], px.t, px.r);
    color[plane] = fmaf(background[1], px.t, px.g);
    color[2 * plane] = fmaf(background[2], px.t, px.b);
    depth_alpha[0] = px.z;
    depth_alpha[plane] = px.t;
}

// Five blocks a multiprocessor: without the number ptxas spills on 7.0. It is ignored on 7.5, which holds only four.
__global__ void __launch_bounds__(kThreads, 5) blend(const __grid_constant__ Scenes scenes, const Frame f,
                                                  const __grid_constant__ PerView<DgrImages> images) {
    __shared__ gm::Splat splats[kThreads];
    __shared__ uint8_t patches[kThreads];
    const Tile t = tile_of_block(f);
    const Pixel p = pixel_of_thread(f, t);
    const int warp = warp_of(), lane = lane_of();
    Blended px = {1.0f, 0.0f, 0.0f, 0.0f, 0.0f, t.size, !p.inside};
    for (uint32_t first = 0; first < t.size; first += kThreads) {
        if (__syncthreads_count(px.done) == kThreads) break;
        const uint32_t mine = first + threadIdx.x;
        patches[threadIdx.x] = 0;
        if (mine < t.size) {
            const uint32_t who = f.owner[f.slots[t.begin + mine]];
            splats[threadIdx.x] = f.splats[who];
            patches[threadIdx.x] = (uint8_t)patches_reached(f, t, who, splats[threadIdx.x].form);
        }
        __syncthreads();
        for (int group = 0; group < kThreads && !__all_sync(kAllLanes, px.done); group += kWarp) {
            unsigned left = __ballot_sync(kAllLanes, patches[group + lane] >> warp & 1);
            for (; left && !px.done; left &= left - 1) {
                const int k = group + __ffs(left) - 1;
                blend_one(splats[k], p, first + k, px);
            }
        }
    }
    const int64_t at = t.index * kThreads + threadIdx.x;
    f.final_t[at] = px.t;
    f.stop[at] = px.stop;
    if (p.inside) store_pixel(f, images.at[t.v], p, scenes.at[t.v].background, px);
}

// ---------------------------------------------------------------------------------------------- backward

// Transmittance behind the current Gaussian, gradients of the outputs, and behind = sum over the Gaussians behind of
// dL/d(their weight) * weight, plus the background's share: what alpha of the current one takes away from.
struct PixelGradient {
    float t, behind, r, g, b, z;
    uint32_t stop;
};

GM_DEVICE PixelGradient load_gradient(const Frame& f, const Tile& t, const Pixel& p, const DgrGradients& incoming,
                                      const float* background) {
    const int64_t plane = (int64_t)f.width_px * f.height_px, at = t.index * kThreads + threadIdx.x;
    PixelGradient px = {f.final_t[at], 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, p.inside ? f.stop[at] : 0};
    float transmittance = 0.0f;
    if (p.inside && incoming.color) {
        const float* g = incoming.color + p.index;
        px.r = g[0], px.g = g[plane], px.b = g[2 * plane];
    }
    if (p.inside && incoming.depth_alpha) {
        const float* g = incoming.depth_alpha + p.index;
        px.z = g[0], transmittance = g[plane];
    }
    px.behind = px.t * (transmittance + background[0] * px.r + background[1] * px.g + background[2] * px.b);
    return px;
}

GM_DEVICE gm::Moments<float> blend_one_backward(const gm::Splat& s, const Pixel& p, bool counts, PixelGradient& px) {
    const Coverage c = coverage(s, p);
    const float raw = counts ? c.raw : 0.0f, alpha = clamp_alpha(raw), inv = 1.0f / (1.0f - alpha);
    const float t = px.t * inv, weight = alpha * t;
    const float grad_weight = fmaf(px.r, s.r, fmaf(px.g, s.g, fmaf(px.b, s.b, px.z * s.z)));
    const float w = raw * fmaf(t, grad_weight, -px.behind * inv);
    px.behind = fmaf(weight, grad_weight, px.behind);
    px.t = t;
    const float wx = w * c.dx, wy = w * c.dy;
    return {w, wx, wy, wx * c.dx, wx * c.dy, wy * c.dy, weight * px.r, weight * px.g, weight * px.b, weight * px.z};
}

// Halves kCount values over the lanes that differ in bit kBit: the lower lanes keep the first half, the upper ones the
// second, each adding what the other gives away; a value without partner is kept by both.
template <int kCount, int kBit>
GM_DEVICE void fold(float* v) {
    constexpr int kHalf = (kCount + 1) / 2;
    const bool upper = lane_of() & kBit;
#pragma unroll
    for (int k = 0; k < kHalf; ++k) {
        const int partner = k + kHalf < kCount ? k + kHalf : k;
        const float keep = upper ? v[partner] : v[k], give = upper ? v[k] : v[partner];
        v[k] = keep + __shfl_xor_sync(kAllLanes, give, kBit);
    }
}

// Which moment a lane holds after sum_over_warp, or -1 for all lanes but the first with that moment.
GM_DEVICE int moment_of_lane() {
    const int lane = lane_of();
    int k = lane & 2 ? 1 : 0;
    if (lane & 1) return -1;
    if (lane & 4) k = k + 2 < 3 ? k + 2 : -1;
    if (k >= 0 && lane & 8) k = k + 3 < 5 ? k + 3 : -1;
    return k >= 0 && lane & 16 ? k + 5 : k;
}

// Twelve shuffles instead of the fifty that ten sums over a warp would take.
GM_DEVICE float sum_over_warp(gm::Moments<float>& m) {
    float* v = &m.w;
    fold<gm::kMoments, 16>(v);
    fold<5, 8>(v);
    fold<3, 4>(v);
    fold<2, 2>(v);
    fold<1, 1>(v);
    return v[0];
}

GM_DEVICE uint32_t warp_max(uint32_t value) {
    for (int d = kWarp / 2; d; d /= 2) {
        const uint32_t other = __shfl_xor_sync(kAllLanes, value, d);
        value = other > value ? other : value;
    }
    return value;
}

// Adds the warps' sums of one batch and hands them to the slots. Warps whose patch was not reached wrote nothing. With
// one list per view several tiles meet in a slot: the only place where the order of additions is left to chance.
GM_DEVICE void store_partials(const Frame& f, const float (&sums)[kWarps][kBackwardBatch * gm::kMoments],
                              const uint8_t* patches, const uint32_t* slots, uint32_t n, const Partials& partials) {
    const bool one_list = f.header->one_list;
    if (!one_list && threadIdx.x < n) partials.any[slots[threadIdx.x]] = patches[threadIdx.x] != 0;
    for (uint32_t k = threadIdx.x; k < n * gm::kMoments; k += kThreads) {
        const uint32_t g = k / gm::kMoments;
        if (!patches[g]) continue;
        float sum = 0.0f;
        for (int w = 0; w < kWarps; ++w)
            if (patches[g] >> w & 1) sum += sums[w][k];
        float* to = &partials.sums[slots[g]].moments.w + k % gm::kMoments;
        if (one_list)
            atomicAdd(to, sum);
        else
            *to = sum;
    }
}

// Slots that several tiles add to begin at zero.
__global__ void __launch_bounds__(kThreads) clear_partials(const Frame f, const Partials partials) {
    if (!f.header->one_list) return;
    const int64_t n = f.header->n_entries;
    for (int64_t k = (int64_t)blockIdx.x * kThreads + threadIdx.x; k < n; k += (int64_t)gridDim.x * kThreads) {
        partials.sums[k] = {};
        partials.any[k] = 1;
    }
}

__global__ void __launch_bounds__(kThreads) blend_backward(
    const __grid_constant__ Scenes scenes, const Frame f, const __grid_constant__ PerView<DgrGradients> gradients,
    const Partials partials) {
    __shared__ gm::Splat splats[kBackwardBatch];
    __shared__ uint8_t patches[kBackwardBatch];
    __shared__ uint32_t slots[kBackwardBatch], warp_stop[kWarps];
    __shared__ float sums[kWarps][kBackwardBatch * gm::kMoments];
    const Tile t = tile_of_block(f);
    if (t.size == 0) return;
    const Pixel p = pixel_of_thread(f, t);
    const int warp = warp_of(), lane = lane_of(), moment = moment_of_lane();
    PixelGradient px = load_gradient(f, t, p, gradients.at[t.v], scenes.at[t.v].background);
    const uint32_t own_stop = warp_max(px.stop);
    if (lane == 0) warp_stop[warp] = own_stop;
    __syncthreads();
    uint32_t end = 0;
    for (int w = 0; w < kWarps; ++w) end = warp_stop[w] > end ? warp_stop[w] : end;
    if (!f.header->one_list)  // nobody came this far
        for (uint32_t k = end + threadIdx.x; k < t.size; k += kThreads) partials.any[f.slots[t.begin + k]] = 0;
    for (uint32_t n; end > 0; end -= n) {
        n = end < kBackwardBatch ? end : kBackwardBatch;
        const uint32_t first = end - n;
        if (threadIdx.x < kBackwardBatch) patches[threadIdx.x] = 0;
        if (threadIdx.x < n) {
            const uint32_t slot = f.slots[t.begin + first + threadIdx.x], who = f.owner[slot];
            slots[threadIdx.x] = slot;
            splats[threadIdx.x] = f.splats[who];
            unsigned reached = patches_reached(f, t, who, splats[threadIdx.x].form);
            for (int w = 0; w < kWarps; ++w)
                if (first + threadIdx.x >= warp_stop[w]) reached &= ~(1u << w);
            patches[threadIdx.x] = (uint8_t)reached;
        }
        __syncthreads();
        for (int group = kBackwardBatch - kWarp; group >= 0; group -= kWarp) {
            unsigned left = __ballot_sync(kAllLanes, patches[group + lane] >> warp & 1);
            while (left) {
                const int bit = kWarp - 1 - __clz(left), k = group + bit;
                left &= ~(1u << bit);
                gm::Moments<float> m = blend_one_backward(splats[k], p, first + k < px.stop, px);
                const float sum = sum_over_warp(m);
                if (moment >= 0) sums[warp][k * gm::kMoments + moment] = sum;
            }
        }
        __syncthreads();
        store_partials(f, sums, patches, slots, n, partials);
        __syncthreads();
    }
}

}  // namespace dgr
