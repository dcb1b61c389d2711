// SPDX-License-Identifier: Apache-2.0
// Blending of one 16x16 tile, forward and backward. Compiled once per instruction set; DGR_ISA names the namespace.
//
// A tile is 16 blocks of 4x4 pixels, each block one vector. For every Gaussian of the tile's list only the blocks that
// its alpha >= 1/255 ellipse reaches are touched.
#include "kernels.h"
#include "reach.h"
#include "simd.h"

namespace dgr {
namespace DGR_ISA {
namespace {

using simd::kLanes;
using simd::vf;
using simd::vi;

constexpr int kPixels = gm::kTile_px * gm::kTile_px;
constexpr float kNever = 3.0e38f;  // alpha threshold of a pixel that takes no more Gaussians

struct Tile {
    int x0_px, y0_px;
    uint32_t begin, end;
    Tile(const Frame& f, int t)
        : x0_px(t % f.tiles_x * gm::kTile_px), y0_px(t / f.tiles_x * gm::kTile_px), begin(f.tile_begin[t]),
          end(f.tile_begin[t + 1]) {}
};

// First pixel of each block, relative to the tile.
constexpr float kBlockX[kBlocks] = {0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12};
constexpr float kBlockY[kBlocks] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};

// mean - pixel for the pixels of the tile's first block.
struct Offset {
    vf x, y;
    GM_FUNC Offset of(const Splat& s, const Tile& tile) {
        return {(s.form.x - (float)tile.x0_px) - lane_column(), (s.form.y - (float)tile.y0_px) - lane_row()};
    }
};

// alpha before the 0.99 clamp where the Gaussian counts for the pixel, else 0; d = mean - pixel.
struct Coverage {
    vf dx, dy, raw;
};

GM_FUNC Coverage coverage(const Splat& s, const Offset& offset, int block, vf alpha_min, vi takes) {
    const vf dx = offset.x - kBlockX[block], dy = offset.y - kBlockY[block];
    const gm::Form<float>& q = s.form;
    const vf power = (q.ka * dx + q.kb * dy) * dx + q.kc * dy * dy;
    const vf raw = s.opacity * simd::exp2_nonpositive(simd::vmax(power, simd::splat(-120.0f)));
    return {dx, dy, simd::select((power <= 0.0f) & (raw >= alpha_min) & takes, raw, vf{})};
}

GM_FUNC vf clamp_alpha(vf raw) { return gm::smaller(raw, simd::splat(gm::kAlphaMax)); }

// Runs fn(pixel in block order, index into an image plane) over the pixels of the tile that lie in the image.
template <class Fn>
GM_FUNC void for_each_pixel(const Frame& f, const Tile& tile, Fn fn) {
    const int w = f.cam.width_px, h = f.cam.height_px;
    const int nx = w - tile.x0_px < gm::kTile_px ? w - tile.x0_px : gm::kTile_px;
    const int ny = h - tile.y0_px < gm::kTile_px ? h - tile.y0_px : gm::kTile_px;
    for (int y = 0; y < ny; ++y) {
        const int64_t row = (int64_t)(tile.y0_px + y) * w + tile.x0_px;
        const int in_block = (y >> 2) * 4 * kLanes + (y & 3) * 4;
        for (int x = 0; x < nx; ++x) fn(in_block + (x >> 2) * kLanes + (x & 3), row + x);
    }
}

// ---------------------------------------------------------------------------------------------- forward

struct Pixels {
    vf t[kBlocks], r[kBlocks], g[kBlocks], b[kBlocks], z[kBlocks], alpha_min[kBlocks];
    vi stop[kBlocks];
};

// The pixels whose transmittance would fall below the limit take this Gaussian no more, nor any later one.
GM_FUNC vf stop_pixels(Pixels& px, int block, vi stopping, vf alpha, int position, unsigned* live_blocks) {
    px.alpha_min[block] = simd::select(stopping, simd::splat(kNever), px.alpha_min[block]);
    px.stop[block] = simd::select(stopping, simd::splat(position), px.stop[block]);
    if (simd::lane_bits(px.alpha_min[block] == kNever) == 0xffffu) *live_blocks &= ~(1u << block);
    return simd::select(stopping, vf{}, alpha);
}

GM_FUNC void blend_list(Frame& f, const Tile& tile, Pixels& px, unsigned live_blocks) {
    const Splat* splats = f.splats.data();
    const Entry* entries = f.entries.data();
    uint32_t k = tile.begin;
    for (; k < tile.end && live_blocks; ++k) {
        if (k + 8 < tile.end) __builtin_prefetch(&splats[entries[k + 8].gaussian]);
        const Splat s = splats[entries[k].gaussian];
        unsigned mask = cells_reached(s.form, (float)tile.x0_px, (float)tile.y0_px, (float)kBlock_px) & live_blocks;
        f.block_masks[k] = (uint16_t)mask;
        const Offset offset = Offset::of(s, tile);
        for (; mask; mask &= mask - 1) {
            const int b = __builtin_ctz(mask);
            vf alpha = clamp_alpha(coverage(s, offset, b, px.alpha_min[b], vi{} - 1).raw);
            const vf t = px.t[b];
            vf t_next = t * (1.0f - alpha);
            if (__builtin_expect(simd::bits_less(t_next, simd::splat(gm::kTransmittanceMin)), 0)) {
                alpha = stop_pixels(px, b, t_next < gm::kTransmittanceMin, alpha, (int)(k - tile.begin), &live_blocks);
                t_next = t * (1.0f - alpha);
            }
            const vf weight = alpha * t;
            px.r[b] += s.r * weight;
            px.g[b] += s.g * weight;
            px.b[b] += s.b * weight;
            px.z[b] += s.z * weight;
            px.t[b] = t_next;
        }
    }
    for (; k < tile.end; ++k) f.block_masks[k] = 0;
}

// Pixels outside the image never take a Gaussian; blocks wholly outside are not live.
GM_FUNC unsigned start_pixels(const Frame& f, const Tile& tile, Pixels& px) {
    unsigned live_blocks = 0;
    const float w = (float)f.cam.width_px, h = (float)f.cam.height_px;
    for (int b = 0; b < kBlocks; ++b) {
        const vi inside = (lane_column() + kBlockX[b] + (float)tile.x0_px < w) &
                          (lane_row() + kBlockY[b] + (float)tile.y0_px < h);
        px.t[b] = simd::splat(1.0f);
        px.r[b] = px.g[b] = px.b[b] = px.z[b] = vf{};
        px.alpha_min[b] = simd::select(inside, simd::splat(gm::kAlphaMin), simd::splat(kNever));
        px.stop[b] = simd::splat((int)(tile.end - tile.begin));
        if (simd::lane_bits(inside)) live_blocks |= 1u << b;
    }
    return live_blocks;
}

void blend(Frame& f, int t, float* color, float* depth_alpha) {
    const Tile tile(f, t);
    const int64_t plane = (int64_t)f.cam.width_px * f.cam.height_px;
    const float* bg = f.background;
    if (tile.begin == tile.end) {
        for_each_pixel(f, tile, [&](int, int64_t i) {
            color[i] = bg[0], color[plane + i] = bg[1], color[2 * plane + i] = bg[2];
            depth_alpha[i] = 0.0f, depth_alpha[plane + i] = 1.0f;
        });
        return;
    }
    Pixels px;
    blend_list(f, tile, px, start_pixels(f, tile, px));
    memcpy(&f.final_t[(size_t)t * kPixels], px.t, sizeof px.t);
    memcpy(&f.stop[(size_t)t * kPixels], px.stop, sizeof px.stop);
    for (int b = 0; b < kBlocks; ++b) {
        px.r[b] += bg[0] * px.t[b];
        px.g[b] += bg[1] * px.t[b];
        px.b[b] += bg[2] * px.t[b];
    }
    const float *r = (float*)px.r, *g = (float*)px.g, *b = (float*)px.b, *z = (float*)px.z, *tr = (float*)px.t;
    for_each_pixel(f, tile, [&](int p, int64_t i) {
        color[i] = r[p], color[plane + i] = g[p], color[2 * plane + i] = b[p];
        depth_alpha[i] = z[p], depth_alpha[plane + i] = tr[p];
    });
}

// ---------------------------------------------------------------------------------------------- backward

// Per pixel: transmittance behind the current Gaussian, gradients of the outputs, and behind = sum over the Gaussians
// behind of dL/d(their weight) * weight, plus the background's share: what alpha of the current one takes away from.
struct PixelGradients {
    vf t[kBlocks], behind[kBlocks], r[kBlocks], g[kBlocks], b[kBlocks], z[kBlocks];
    vi stop[kBlocks];
    int last_stop[kBlocks];
};

GM_FUNC void load_gradients(const Frame& f, int t, const Tile& tile, const float* grad_color,
                            const float* grad_depth_alpha, PixelGradients& px) {
    const int64_t plane = (int64_t)f.cam.width_px * f.cam.height_px;
    memset(px.r, 0, sizeof px.r * 4);
    vf transmittance[kBlocks] = {};
    float *r = (float*)px.r, *g = (float*)px.g, *b = (float*)px.b, *z = (float*)px.z, *tr = (float*)transmittance;
    for_each_pixel(f, tile, [&](int p, int64_t i) {
        if (grad_color) r[p] = grad_color[i], g[p] = grad_color[plane + i], b[p] = grad_color[2 * plane + i];
        if (grad_depth_alpha) z[p] = grad_depth_alpha[i], tr[p] = grad_depth_alpha[plane + i];
    });
    memcpy(px.t, &f.final_t[(size_t)t * kPixels], sizeof px.t);
    memcpy(px.stop, &f.stop[(size_t)t * kPixels], sizeof px.stop);
    const float* bg = f.background;
    for (int k = 0; k < kBlocks; ++k) {
        px.behind[k] = px.t[k] * (transmittance[k] + bg[0] * px.r[k] + bg[1] * px.g[k] + bg[2] * px.b[k]);
        px.last_stop[k] = 0;
        for (int l = 0; l < kLanes; ++l)
            if (simd::lane(px.stop[k], l) > px.last_stop[k]) px.last_stop[k] = simd::lane(px.stop[k], l);
    }
}

typedef gm::Moments<vf> Moments;

template <bool kDepthZ>
GM_FUNC void block_backward(const Splat& s, const Offset& offset, int b, int position, PixelGradients& px, Moments& m) {
    const Coverage c = coverage(s, offset, b, simd::splat(gm::kAlphaMin), px.stop[b] > position);
    const vf alpha = clamp_alpha(c.raw), inv = 1.0f / (1.0f - alpha);
    const vf t = px.t[b] * inv, weight = alpha * t;
    const vf grad_weight = px.r[b] * s.r + px.g[b] * s.g + px.b[b] * s.b + px.z[b] * s.z;
    const vf w = c.raw * (t * grad_weight - px.behind[b] * inv);
    px.behind[b] += weight * grad_weight;
    px.t[b] = t;
    const vf wx = w * c.dx, wy = w * c.dy;
    m.w += w;
    m.wx += wx;
    m.wy += wy;
    m.wxx += wx * c.dx;
    m.wxy += wx * c.dy;
    m.wyy += wy * c.dy;
    m.r += weight * px.r[b];
    m.g += weight * px.g[b];
    m.b += weight * px.b[b];
    if (kDepthZ) m.z += weight * px.z[b];
}

GM_FUNC void store_partial(const Moments& m, Partial* out) {
    const simd::f32x4 parts[3] = {simd::sum_lanes(m.w, m.wx, m.wy, m.wxx), simd::sum_lanes(m.wxy, m.wyy, m.r, m.g),
                                simd::sum_lanes(m.b, m.z, vf{}, vf{})};
    memcpy(out, parts, sizeof parts);
}

template <bool kDepthZ>
GM_FUNC void blend_list_backward(const Frame& f, const Tile& tile, PixelGradients& px, Partial* partials) {
    const Splat* splats = f.splats.data();
    const Entry* entries = f.entries.data();
    for (uint32_t k = tile.end; k-- > tile.begin;) {
        if (k >= tile.begin + 8) {
            __builtin_prefetch(&splats[entries[k - 8].gaussian]);
            __builtin_prefetch(&partials[entries[k - 8].slot], 1);
        }
        const int position = (int)(k - tile.begin);
        Partial* out = &partials[entries[k].slot];
        unsigned mask = f.block_masks[k];
        if (!mask) {
            memset(out, 0, sizeof *out);
            continue;
        }
        const Splat s = splats[entries[k].gaussian];
        const Offset offset = Offset::of(s, tile);
        Moments m = {};
        for (; mask; mask &= mask - 1) {
            const int b = __builtin_ctz(mask);
            if (px.last_stop[b] > position) block_backward<kDepthZ>(s, offset, b, position, px, m);
        }
        store_partial(m, out);
    }
}

template <bool kDepthZ>
void blend_backward(const Frame& f, int t, const float* grad_color, const float* grad_depth_alpha, Partial* partials) {
    const Tile tile(f, t);
    if (tile.begin == tile.end) return;
    PixelGradients px;
    load_gradients(f, t, tile, grad_color, grad_depth_alpha, px);
    blend_list_backward<kDepthZ>(f, tile, px, partials);
}

}  // namespace

void add_blend_kernels(KernelTable* table) {
    table->blend = blend;
    table->blend_backward[0] = blend_backward<false>;
    table->blend_backward[1] = blend_backward<true>;
}

}  // namespace DGR_ISA
}  // namespace dgr
