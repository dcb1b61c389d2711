// SPDX-License-Identifier: Apache-2.0
// Blending of one 16x16 tile, forward and backward. Compiled once per instruction set; DGR_ISA names the namespace.
//
// A tile is 16 blocks of 4x4 pixels, each block kParts registers. For every Gaussian of the tile's list only the blocks
// that its alpha >= 1/255 ellipse reaches are touched.
#include "kernels.h"
#include "reach.h"
#include "simd.h"

namespace dgr {
namespace DGR_ISA {
namespace {

using simd::fma;
using simd::kLanes;
using simd::kParts;
using simd::kWidth;
using simd::vr;
using simd::vri;

constexpr int kPixels = gm::kTile_px * gm::kTile_px;
constexpr uint32_t kAhead = 32;    // blocks reached are worked out for so many Gaussians at a time
constexpr float kNever = 3.0e38f;  // alpha threshold of a pixel that takes no more Gaussians

struct Tile {
    int x0_px, y0_px;
    uint32_t begin, end;
    Tile(const Frame& f, int t)
        : x0_px(t % f.tiles_x * gm::kTile_px), y0_px(t / f.tiles_x * gm::kTile_px), begin(f.tile_begin[t]),
          end(f.tile_begin[t + 1]) {}
};

// First pixel of each block, relative to the tile.
alignas(64) constexpr float kBlockX[kBlocks] = {0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12};
alignas(64) constexpr float kBlockY[kBlocks] = {0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12};

// A Gaussian as the pixels of the tile's first block see it: d = mean - pixel, and where it is ordinary (gm::Squares) u
// and v, from which the other blocks differ by a constant.
template <bool kOrdinary>
struct Placed {
    vr dx[kParts], dy[kParts], u[kParts], v[kParts];
    alignas(64) float shift_u[kBlocks], shift_v[kBlocks];

    __attribute__((always_inline)) Placed(const Splat& s, const Tile& tile) {
        const gm::Squares<float> q = s.squares;
        for (int p = 0; p < kParts; ++p) {
            dx[p] = (s.form.x - (float)tile.x0_px) - lane_column();
            dy[p] = (s.form.y - (float)tile.y0_px) - lane_row(p);
            if (!kOrdinary) continue;
            u[p] = fma(q.a, dx[p], q.b * dy[p]);
            v[p] = q.c * dy[p];
            const vr x = block_corners(kBlockX, p), y = block_corners(kBlockY, p);
            const vr su = q.a * x + q.b * y, sv = q.c * y;
            memcpy(shift_u + p * kWidth, &su, sizeof su);
            memcpy(shift_v + p * kWidth, &sv, sizeof sv);
        }
    }
    GM_FUNC vr block_corners(const float* corners, int part) {
        return simd::bit_cast<vr>(*(const float(*)[kWidth])(corners + part * kWidth));
    }
};

// alpha before the 0.99 clamp where the Gaussian counts for the pixel, else 0.
GM_FUNC vr coverage(const Splat& s, const Placed<true>& g, int block, int part, vr alpha_min, vri takes) {
    const vr u = g.u[part] - g.shift_u[block], v = g.v[part] - g.shift_v[block];
    const vr raw = s.opacity * simd::exp2_of_minus(fma(u, u, v * v));
    return simd::select((raw >= alpha_min) & takes, raw, vr{});
}

GM_FUNC vr coverage(const Splat& s, const Placed<false>& g, int block, int part, vr alpha_min, vri takes) {
    const vr dx = g.dx[part] - kBlockX[block], dy = g.dy[part] - kBlockY[block];
    const gm::Form<float>& q = s.form;
    const vr fall = -((q.ka * dx + q.kb * dy) * dx + q.kc * dy * dy);
    const vr raw = s.opacity * simd::exp2_of_minus(simd::vmin(fall, simd::splat(120.0f)));
    return simd::select((fall >= 0.0f) & (raw >= alpha_min) & takes, raw, vr{});
}

template <bool kOrdinary>
GM_FUNC vr clamp_alpha(vr raw) {
    return kOrdinary ? raw : gm::smaller(raw, simd::splat(gm::kAlphaMax));
}

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

typedef vr Plane[kBlocks][kParts];  // one number for each pixel of a tile

struct Pixels {
    Plane t, r, g, b, z, alpha_min;
    vri stop[kBlocks][kParts];
    unsigned live_blocks;
};

GM_FUNC bool is_dead(const Pixels& px, int block) {
    unsigned alive = 0;
    for (int p = 0; p < kParts; ++p) alive |= simd::lane_bits(px.alpha_min[block][p] != kNever);
    return !alive;
}

// The pixels whose transmittance would fall below the limit take this Gaussian no more, nor any later one.
GM_FUNC vr stop_pixels(Pixels& px, int block, int part, vri stopping, vr alpha, int position) {
    vr& alpha_min = px.alpha_min[block][part];
    vri& stop = px.stop[block][part];
    alpha_min = simd::select(stopping, simd::splat(kNever), alpha_min);
    stop = simd::select(stopping, simd::splat(position), stop);
    if (is_dead(px, block)) px.live_blocks &= ~(1u << block);
    return simd::select(stopping, vr{}, alpha);
}

template <bool kOrdinary>
GM_FUNC void blend_block(const Splat& s, const Placed<kOrdinary>& g, int b, int position, Pixels& px) {
    vr alpha[kParts], t_next[kParts];
    unsigned stopping = 0;
    for (int p = 0; p < kParts; ++p) {
        alpha[p] = clamp_alpha<kOrdinary>(coverage(s, g, b, p, px.alpha_min[b][p], vri{} - 1));
        t_next[p] = fma(-px.t[b][p], alpha[p], px.t[b][p]);
        stopping |= simd::bits_less(t_next[p], simd::splat(gm::kTransmittanceMin));
    }
    if (__builtin_expect(stopping, 0))
        for (int p = 0; p < kParts; ++p) {
            alpha[p] = stop_pixels(px, b, p, t_next[p] < gm::kTransmittanceMin, alpha[p], position);
            t_next[p] = fma(-px.t[b][p], alpha[p], px.t[b][p]);
        }
    for (int p = 0; p < kParts; ++p) {
        const vr weight = alpha[p] * px.t[b][p];
        px.r[b][p] = fma(s.r, weight, px.r[b][p]);
        px.g[b][p] = fma(s.g, weight, px.g[b][p]);
        px.b[b][p] = fma(s.b, weight, px.b[b][p]);
        px.z[b][p] = fma(s.z, weight, px.z[b][p]);
        px.t[b][p] = t_next[p];
    }
}

template <bool kOrdinary>
GM_FUNC void blend_gaussian(const Splat& s, const Tile& tile, unsigned mask, int position, Pixels& px) {
    const Placed<kOrdinary> g(s, tile);
    for (; mask; mask &= mask - 1) blend_block(s, g, __builtin_ctz(mask), position, px);
}

// The masks are worked out ahead, so that the loop over their bits, which no branch predictor foresees, need not wait.
GM_FUNC void blend_list(Frame& f, const Tile& tile, Pixels& px) {
    const Splat* splats = f.splats.data();
    const Entry* entries = f.entries.data();
    uint32_t k = tile.begin;
    while (k < tile.end && px.live_blocks) {
        const uint32_t first = k, end = tile.end - k < kAhead ? tile.end : k + kAhead;
        for (; k < end; ++k) {
            if (k + 8 < tile.end) __builtin_prefetch(&splats[entries[k + 8].gaussian]);
            const gm::Form<float>& form = splats[entries[k].gaussian].form;
            const unsigned mask = cells_reached(form, (float)tile.x0_px, (float)tile.y0_px, (float)kBlock_px);
            f.block_masks[k] = (uint16_t)(mask & px.live_blocks);
        }
        for (k = first; k < end; ++k) {
            const unsigned mask = f.block_masks[k] &= (uint16_t)px.live_blocks;
            const Splat s = splats[entries[k].gaussian];
            const int position = (int)(k - tile.begin);
            if (s.squares.a > 0.0f)
                blend_gaussian<true>(s, tile, mask, position, px);
            else
                blend_gaussian<false>(s, tile, mask, position, px);
        }
    }
    memset(&f.block_masks[k], 0, sizeof(uint16_t) * (tile.end - k));
}

// Pixels outside the image never take a Gaussian, forward or backward; blocks wholly outside are not live.
GM_FUNC void start_pixels(const Frame& f, const Tile& tile, Pixels& px) {
    memset(&px, 0, sizeof px);
    const float w = (float)f.cam.width_px, h = (float)f.cam.height_px;
    for (int b = 0; b < kBlocks; ++b)
        for (int p = 0; p < kParts; ++p) {
            const vri inside = (lane_column() + kBlockX[b] + (float)tile.x0_px < w) &
                               (lane_row(p) + kBlockY[b] + (float)tile.y0_px < h);
            px.t[b][p] = simd::splat(1.0f);
            px.alpha_min[b][p] = simd::select(inside, simd::splat(gm::kAlphaMin), simd::splat(kNever));
            px.stop[b][p] = simd::select(inside, simd::splat((int)(tile.end - tile.begin)), vri{});
            if (simd::lane_bits(inside)) px.live_blocks |= 1u << b;
        }
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
    start_pixels(f, tile, px);
    blend_list(f, tile, px);
    memcpy(&f.final_t[(size_t)t * kPixels], px.t, sizeof px.t);
    memcpy(&f.stop[(size_t)t * kPixels], px.stop, sizeof px.stop);
    for (int b = 0; b < kBlocks; ++b)
        for (int p = 0; p < kParts; ++p) {
            px.r[b][p] += bg[0] * px.t[b][p];
            px.g[b][p] += bg[1] * px.t[b][p];
            px.b[b][p] += bg[2] * px.t[b][p];
        }
    const float *r = (float*)px.r, *g = (float*)px.g, *b = (float*)px.b, *z = (float*)px.z, *tr = (float*)px.t;
    for_each_pixel(f, tile, [&](int p, int64_t i) {
        color[i] = r[p], color[plane + i] = g[p], color[2 * plane + i] = b[p];
        depth_alpha[i] = z[p], depth_alpha[plane + i] = tr[p];
    });
}

// ---------------------------------------------------------------------------------------------- backward

// Per pixel: transmittance behind the current Gaussian, gradients of the outputs, and behind = dL/dt, from the Gaussians
// behind and the background: alpha of the current one trades it for its own dL/d(weight).
struct PixelGradients {
    Plane t, behind, r, g, b, z;
    vri stop[kBlocks][kParts];
    int last_stop[kBlocks];
};

GM_FUNC void load_gradients(const Frame& f, int t, const Tile& tile, const float* grad_color,
                            const float* grad_depth_alpha, PixelGradients& px) {
    const int64_t plane = (int64_t)f.cam.width_px * f.cam.height_px;
    memset(px.r, 0, sizeof px.r * 4);
    Plane transmittance = {};
    float *r = (float*)px.r, *g = (float*)px.g, *b = (float*)px.b, *z = (float*)px.z, *tr = (float*)transmittance;
    for_each_pixel(f, tile, [&](int p, int64_t i) {
        if (grad_color) r[p] = grad_color[i], g[p] = grad_color[plane + i], b[p] = grad_color[2 * plane + i];
        if (grad_depth_alpha) z[p] = grad_depth_alpha[i], tr[p] = grad_depth_alpha[plane + i];
    });
    memcpy(px.t, &f.final_t[(size_t)t * kPixels], sizeof px.t);
    memcpy(px.stop, &f.stop[(size_t)t * kPixels], sizeof px.stop);
    const float* bg = f.background;
    for (int k = 0; k < kBlocks; ++k) {
        for (int p = 0; p < kParts; ++p)
            px.behind[k][p] = transmittance[k][p] + bg[0] * px.r[k][p] + bg[1] * px.g[k][p] + bg[2] * px.b[k][p];
        px.last_stop[k] = 0;
        for (int l = 0; l < kLanes; ++l) {
            const int stop = ((const int32_t*)px.stop[k])[l];
            if (stop > px.last_stop[k]) px.last_stop[k] = stop;
        }
    }
}

typedef gm::Moments<vr> Moments;

template <bool kOrdinary, bool kDepthZ>
GM_FUNC void block_backward(const Splat& s, const Placed<kOrdinary>& placed, int block, int part, int position,
                            PixelGradients& px, Moments& m) {
    const vr raw = coverage(s, placed, block, part, simd::splat(gm::kAlphaMin), px.stop[block][part] > position);
    const vr r = px.r[block][part], g = px.g[block][part], b = px.b[block][part], z = px.z[block][part];
    const vr alpha = clamp_alpha<kOrdinary>(raw);
    const vr t = px.t[block][part] / (1.0f - alpha), weight = alpha * t;
    const vr gain = fma(s.r, r, fma(s.g, g, s.b * b)) + fma(s.z, z, -px.behind[block][part]);
    const vr w = (kOrdinary ? weight : raw * t) * gain;
    px.behind[block][part] = fma(alpha, gain, px.behind[block][part]);
    px.t[block][part] = t;
    const vr dx = placed.dx[part] - kBlockX[block], dy = placed.dy[part] - kBlockY[block];
    const vr wx = w * dx, wy = w * dy;
    m.w += w;
    m.wx += wx;
    m.wy += wy;
    m.wxx = fma(wx, dx, m.wxx);
    m.wxy = fma(wx, dy, m.wxy);
    m.wyy = fma(wy, dy, m.wyy);
    m.r = fma(weight, r, m.r);
    m.g = fma(weight, g, m.g);
    m.b = fma(weight, b, m.b);
    if (kDepthZ) m.z = fma(weight, z, m.z);
}

typedef float LaneSums[gm::kMoments][kLanes];

GM_FUNC void keep_part(const Moments& m, int part, LaneSums& sums) {
    const auto keep = [&](int k, vr moment) { memcpy(&sums[k][part * kWidth], &moment, sizeof moment); };
    keep(0, m.w), keep(1, m.wx), keep(2, m.wy), keep(3, m.wxx), keep(4, m.wxy), keep(5, m.wyy);
    keep(6, m.r), keep(7, m.g), keep(8, m.b), keep(9, m.z);
}

GM_FUNC void store_partial(const LaneSums& sums, Partial* out) {
    const simd::f32x4 parts[3] = {simd::sum_lanes(sums[0], sums[1], sums[2], sums[3]),
                                  simd::sum_lanes(sums[4], sums[5], sums[6], sums[7]),
                                  simd::sum_lanes(sums[8], sums[9], sums[9], sums[9])};
    memcpy(out, parts, sizeof parts);
}

template <bool kOrdinary, bool kDepthZ>
GM_FUNC void gaussian_backward(const Splat& s, const Tile& tile, unsigned mask, int position, PixelGradients& px,
                               Partial* out) {
    const Placed<kOrdinary> g(s, tile);
    alignas(64) LaneSums sums;
    for (int p = 0; p < kParts; ++p) {
        Moments m = {};
        for (unsigned left = mask; left; left &= left - 1) {
            const int b = __builtin_ctz(left);
            if (px.last_stop[b] > position) block_backward<kOrdinary, kDepthZ>(s, g, b, p, position, px, m);
        }
        keep_part(m, p, sums);
    }
    store_partial(sums, out);
}

template <bool kDepthZ>
GM_FUNC void blend_list_backward(const Frame& f, const Tile& tile, PixelGradients& px, const Partials& partials) {
    const Splat* splats = f.splats.data();
    const Entry* entries = f.entries.data();
    for (uint32_t k = tile.end; k-- > tile.begin;) {
        if (k >= tile.begin + 8 && f.block_masks[k - 8]) {
            __builtin_prefetch(&splats[entries[k - 8].gaussian]);
            __builtin_prefetch(&partials.sums[entries[k - 8].slot], 1);
        }
        const unsigned mask = f.block_masks[k];
        partials.any[entries[k].slot] = mask != 0;
        if (!mask) continue;
        const Splat s = splats[entries[k].gaussian];
        const int position = (int)(k - tile.begin);
        Partial* out = &partials.sums[entries[k].slot];
        if (s.squares.a > 0.0f)
            gaussian_backward<true, kDepthZ>(s, tile, mask, position, px, out);
        else
            gaussian_backward<false, kDepthZ>(s, tile, mask, position, px, out);
    }
}

template <bool kDepthZ>
void blend_backward(const Frame& f, int t, const float* grad_color, const float* grad_depth_alpha, const Partials& partials) {
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
