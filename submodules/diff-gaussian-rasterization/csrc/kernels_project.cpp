// SPDX-License-Identifier: Apache-2.0
// Per-Gaussian loops of the CPU backend: 16 Gaussians a step through gaussian_math.h, forward and backward.
// Compiled once per instruction set; DGR_ISA names the namespace.
#include "gaussian_project.h"
#include "kernels.h"
#include "reach.h"
#include "simd.h"

namespace dgr {
namespace DGR_ISA {
namespace {

using simd::kLanes;
using simd::lane;
using simd::vf;
using simd::vi;
typedef gm::Vec3<vf> Vec3v;

// Gaussian handled by a lane; the last group repeats its last Gaussian.
struct Lanes {
    int64_t index[kLanes];
    int count;
    Lanes(int64_t begin, int64_t end) : count(end - begin < kLanes ? (int)(end - begin) : kLanes) {
        for (int l = 0; l < kLanes; ++l) index[l] = begin + (l < count ? l : count - 1);
    }
};

// Up to kRows numbers of each of the 16 Gaussians, a row of lanes for each. Rows are filled together and read later: a
// vector read right after the scalar stores that make it up would wait for all of them.
template <int kRows>
struct Rows {
    alignas(64) float row[kRows][kLanes];

    __attribute__((always_inline)) void load(const Lanes& lanes, const float* p, int stride, int first, int count) {
        for (int l = 0; l < kLanes; ++l)
            for (int k = 0; k < count; ++k) row[first + k][l] = p[lanes.index[l] * stride + k];
    }
    __attribute__((always_inline)) void store(const Lanes& lanes, float* p, int stride, int first, int count) const {
        for (int l = 0; l < lanes.count; ++l)
            for (int k = 0; k < count; ++k) p[lanes.index[l] * stride + k] = row[first + k][l];
    }
    __attribute__((always_inline)) void set(int k, const vf& v) { memcpy(row[k], &v, sizeof v); }
    __attribute__((always_inline)) void set3(int k, const Vec3v& v) { set(k, v.x), set(k + 1, v.y), set(k + 2, v.z); }
    __attribute__((always_inline)) vf get(int k) const { return simd::load16(row[k]); }
    __attribute__((always_inline)) Vec3v get3(int k) const { return {get(k), get(k + 1), get(k + 2)}; }
};

typedef Rows<3 * gm::kMaxShCoeffs> ShRows;

// Where each input has its rows, and its gradient.
enum { kMean = 0, kOpacity = 3, kScale = 4, kQuat = 7, kCov3 = 4, kColor = 11, kMean2d = 14, kInputRows = 17 };
typedef Rows<kInputRows> InputRows;

GM_FUNC void load_rows(const DgrScene& in, const Lanes& lanes, InputRows& rows) {
    rows.load(lanes, in.means, 3, kMean, 3);
    rows.load(lanes, in.opacities, 1, kOpacity, 1);
    if (in.colors) rows.load(lanes, in.colors, 3, kColor, 3);
    if (in.cov3) {
        rows.load(lanes, in.cov3, 6, kCov3, 6);
        return;
    }
    rows.load(lanes, in.scales, 3, kScale, 3);
    rows.load(lanes, in.rotations, 4, kQuat, 4);
}

GM_FUNC void load_sh(const DgrScene& in, const Lanes& lanes, ShRows& rows) {
    rows.load(lanes, in.shs, 3 * in.n_sh_coeffs, 0, 3 * gm::sh_coeffs(in.sh_degree));
}

GM_FUNC gm::Inputs<vf> inputs_of(const DgrScene& in, const InputRows& rows) {
    gm::Inputs<vf> g;
    g.mean = rows.get3(kMean);
    g.opacity = rows.get(kOpacity);
    g.has_cov3 = in.cov3;
    if (in.cov3) {
        for (int k = 0; k < 6; ++k) g.cov3[k] = rows.get(kCov3 + k);
        return g;
    }
    g.scale = rows.get3(kScale);
    for (int k = 0; k < 4; ++k) g.quat[k] = rows.get(kQuat + k);
    return g;
}

GM_FUNC void span_of(const Frame& f, const Splat& s, float radius_px, TileSpan* span) {
    const gm::TileRect r = gm::tile_rect(s.form.x, s.form.y, radius_px, f.tiles_x, f.tiles_y);
    const bool empty = r.x1 <= r.x0 || r.y1 <= r.y0;
    *span = {(uint16_t)r.x0, (uint16_t)r.y0, (uint16_t)r.x1, (uint16_t)r.y1, 0, 0};
    if (empty) {
        span->x1 = span->x0;
        span->y1 = span->y0;
        return;
    }
    const int w = r.x1 - r.x0, h = r.y1 - r.y0;
    if (w <= 4 && h <= 4) {
        const unsigned columns = (1u << w) - 1u;
        const unsigned inside = (columns * 0x1111u) & ((1u << 4 * h) - 1u);
        const float t = (float)gm::kTile_px;
        span->mask = cells_reached(s.form, (float)r.x0 * t, (float)r.y0 * t, t) & inside;
        span->n_tiles = (uint32_t)__builtin_popcount(span->mask);
    }
}

uint32_t list_tiles(const Frame& f, const Splat& s, const TileSpan& span, uint32_t* tiles) {
    uint32_t n = 0;
    const float t = (float)gm::kTile_px;
    for (int y = span.y0; y < span.y1; y += 4) {
        for (int x = span.x0; x < span.x1; x += 4) {
            unsigned mask = cells_reached(s.form, (float)x * t, (float)y * t, t);
            for (; mask; mask &= mask - 1) {
                const int bit = __builtin_ctz(mask), tx = x + (bit & 3), ty = y + (bit >> 2);
                if (tx >= span.x1 || ty >= span.y1) continue;
                if (tiles) tiles[n] = (uint32_t)(ty * f.tiles_x + tx);
                ++n;
            }
        }
    }
    return n;
}

// Splats, spans and radii of 16 Gaussians from their vectors.
GM_FUNC void deal_out(const Frame& f, const gm::Screen<vf>& s, const Vec3v& color, const Lanes& lanes, Splat* splats,
                      TileSpan* spans, int32_t* radii) {
    const gm::Form<vf>& q = s.form;
    for (int l = 0; l < lanes.count; ++l) {
        splats[l] = {{lane(q.x, l), lane(q.y, l), lane(q.ka, l), lane(q.kb, l), lane(q.kc, l), lane(q.cull, l),
                      lane(q.slope_x, l), lane(q.slope_y, l)},
                     lane(s.opacity, l), lane(color.x, l), lane(color.y, l), lane(color.z, l), lane(s.z, l),
                     {lane(s.squares.a, l), lane(s.squares.b, l), lane(s.squares.c, l)}};
        radii[l] = 0;
        spans[l] = {0, 0, 0, 0, 0, 0};
        if (!lane(s.visible, l)) continue;
        const float radius_px = lane(s.radius_px, l);
        span_of(f, splats[l], radius_px, &spans[l]);
        if (spans[l].x1 == spans[l].x0) continue;
        radii[l] = radius_px < 2e9f ? (int32_t)radius_px : 2000000000;
        if (spans[l].x1 - spans[l].x0 > 4 || spans[l].y1 - spans[l].y0 > 4)
            spans[l].n_tiles = list_tiles(f, splats[l], spans[l], nullptr);
    }
}

int project_group(const DgrScene& in, Frame& f, int32_t* radii, int64_t begin, int64_t end) {
    const gm::Camera& cam = f.cam;
    const Lanes lanes(begin, end);
    InputRows rows;
    ShRows sh;
    load_rows(in, lanes, rows);
    if (!in.colors) load_sh(in, lanes, sh);
    const gm::Inputs<vf> g = inputs_of(in, rows);
    const auto coeff = [&](int k) { return sh.get3(3 * k); };
    const Vec3v color = in.colors ? rows.get3(kColor) : gm::clamp_at_zero(gm::sh_color(cam, g.mean, coeff));
    const gm::Screen<vf> s = gm::screen_of(cam, g, color);
    deal_out(f, s, color, lanes, &f.splats[begin], &f.spans[begin], radii + begin);
    return __builtin_popcount(simd::lane_bits(s.dropped) & ((1u << lanes.count) - 1u));
}

int64_t project(const DgrScene& in, Frame& f, int32_t* radii, int64_t begin, int64_t end) {
    int64_t dropped = 0;
    for (int64_t i = begin; i < end; i += kLanes) dropped += project_group(in, f, radii, i, end);
    return dropped;
}

// ---------------------------------------------------------------------------------------------- backward

// Summed partials of 16 Gaussians, in the order of Partial's fields.
struct Sums {
    gm::Moments<vf> moments;
    vi touched;
};

GM_FUNC void sum_partials(const Frame& f, const Partials& partials, const Lanes& lanes, Sums* s) {
    alignas(64) float sums[gm::kMoments][kLanes] = {};
    alignas(64) int32_t touched[kLanes] = {};
    for (int l = 0; l < lanes.count; ++l) {
        const int64_t i = lanes.index[l];
        float t[16] = {};
        for (uint32_t k = f.slot_begin[i]; k < f.slot_begin[i + 1]; ++k) {
            if (!partials.any[k]) continue;
            touched[l] = -1;
            for (int c = 0; c < 12; ++c) t[c] += (&partials.sums[k].moments.w)[c];
        }
        for (int c = 0; c < gm::kMoments; ++c) sums[c][l] = t[c];
    }
    static_assert(sizeof(Sums) == sizeof sums + sizeof touched, "ten vectors of floats and a mask");
    memcpy(s, sums, sizeof sums);
    memcpy(&s->touched, touched, sizeof touched);
}

GM_FUNC vf masked(vi m, vf a) { return simd::select(m, a, vf{}); }
GM_FUNC Vec3v masked(vi m, const Vec3v& a) { return {masked(m, a.x), masked(m, a.y), masked(m, a.z)}; }

// Writes dL/dshs and returns dL/dmean through the direction. Coefficients above the active degree get zeros.
GM_FUNC Vec3v color_backward(const DgrScene& in, const gm::Camera& cam, const Lanes& lanes, const Vec3v& mean,
                             const Vec3v& grad_color, vi touched, float* grad_shs) {
    ShRows sh, grad;
    load_sh(in, lanes, sh);
    const Vec3v grad_mean = gm::sh_color_backward(
        cam, mean, grad_color, [&](int k) { return sh.get3(3 * k); },
        [&](int k, const Vec3v& g) { grad.set3(3 * k, masked(touched, g)); });
    const int active = 3 * gm::sh_coeffs(in.sh_degree), all = 3 * in.n_sh_coeffs;
    grad.store(lanes, grad_shs, all, 0, active);
    for (int l = 0; l < lanes.count; ++l)
        memset(grad_shs + lanes.index[l] * all + active, 0, sizeof(float) * (size_t)(all - active));
    return grad_mean;
}

GM_FUNC void store_gradients(const DgrScene& in, const Lanes& lanes, const InputRows& rows, const DgrGradients& out) {
    rows.store(lanes, out.means, 3, kMean, 3);
    rows.store(lanes, out.means2d, 3, kMean2d, 3);
    rows.store(lanes, out.opacities, 1, kOpacity, 1);
    if (in.colors) rows.store(lanes, out.colors, 3, kColor, 3);
    if (in.cov3) {
        rows.store(lanes, out.cov3, 6, kCov3, 6);
        return;
    }
    rows.store(lanes, out.scales, 3, kScale, 3);
    rows.store(lanes, out.rotations, 4, kQuat, 4);
}

void project_backward_group(const DgrScene& in, const Frame& f, const Partials& partials, const DgrGradients& out,
                            int64_t begin, int64_t end) {
    const gm::Camera& cam = f.cam;
    const Lanes lanes(begin, end);
    InputRows rows;
    load_rows(in, lanes, rows);
    Sums s;
    sum_partials(f, partials, lanes, &s);
    const gm::Moments<vf>& m = s.moments;
    const gm::Inputs<vf> g = inputs_of(in, rows);
    gm::GeometryGradients<vf> grad{};  // with given covariances, scale and rotation have none
    gm::geometry_backward(cam, g, m, &grad);
    Vec3v grad_mean = grad.mean;
    const Vec3v grad_color = {m.r, m.g, m.b};
    if (in.colors)
        rows.set3(kColor, masked(s.touched, grad_color));
    else
        grad_mean = gm::plus(grad_mean, color_backward(in, cam, lanes, g.mean, grad_color, s.touched, out.shs));
    if (in.flags & DGR_DEPTH_Z_GRADIENT) grad_mean = gm::combine(vf{} + 1.0f, grad_mean, m.z, gm::view_row<vf>(cam, 2));
    if (in.cov3) {
        for (int k = 0; k < 6; ++k) rows.set(kCov3 + k, masked(s.touched, grad.cov3[k]));
    } else {
        rows.set3(kScale, masked(s.touched, grad.scale));
        for (int k = 0; k < 4; ++k) rows.set(kQuat + k, masked(s.touched, grad.quat[k]));
    }
    rows.set3(kMean, masked(s.touched, grad_mean));
    rows.set3(kMean2d, masked(s.touched, Vec3v{grad.ndc_x, grad.ndc_y, vf{}}));
    rows.set(kOpacity, masked(s.touched, m.w / g.opacity));
    store_gradients(in, lanes, rows, out);
}

void project_backward(const DgrScene& in, const Frame& f, const Partials& partials, const DgrGradients& out,
                      int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += kLanes) project_backward_group(in, f, partials, out, i, end);
}

}  // namespace

void add_project_kernels(KernelTable* table) {
    table->project = project;
    table->list_tiles = list_tiles;
    table->project_backward = project_backward;
}

}  // namespace DGR_ISA
}  // namespace dgr
