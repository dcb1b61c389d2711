// SPDX-License-Identifier: Apache-2.0
// Per-Gaussian loops of the CPU backend: 16 Gaussians a step through gaussian_math.h, forward and backward.
// Compiled once per instruction set; DGR_ISA names the namespace.
#include "gaussian_sh.h"
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

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kCullSlack = 0.01f;  // covers the rounding of log2_of and of the form near the threshold

// Gaussian handled by a lane; the last group repeats its last Gaussian.
struct Lanes {
    int64_t index[kLanes];
    int count;
    Lanes(int64_t begin, int64_t end) : count(end - begin < kLanes ? (int)(end - begin) : kLanes) {
        for (int l = 0; l < kLanes; ++l) index[l] = begin + (l < count ? l : count - 1);
    }
};

GM_FUNC vf load(const Lanes& lanes, const float* p, int stride, int k) {
    alignas(64) float r[kLanes];
    for (int l = 0; l < kLanes; ++l) r[l] = p[lanes.index[l] * stride + k];
    return simd::load16(r);
}

GM_FUNC void store(const Lanes& lanes, float* p, int stride, int k, vf v) {
    for (int l = 0; l < lanes.count; ++l) p[lanes.index[l] * stride + k] = simd::lane(v, l);
}

GM_FUNC Vec3v load3(const Lanes& lanes, const float* p, int stride = 3, int k = 0) {
    return {load(lanes, p, stride, k), load(lanes, p, stride, k + 1), load(lanes, p, stride, k + 2)};
}

GM_FUNC void store3(const Lanes& lanes, float* p, const Vec3v& v, int stride = 3, int k = 0) {
    store(lanes, p, stride, k, v.x);
    store(lanes, p, stride, k + 1, v.y);
    store(lanes, p, stride, k + 2, v.z);
}

GM_FUNC vi finite(vf a) { return (a - a) == 0.0f; }
GM_FUNC vi finite(const Vec3v& a) { return finite(a.x) & finite(a.y) & finite(a.z); }

// log2 of a positive number to 1.5e-3.
GM_FUNC vf log2_of(vf a) {
    const vi bits = simd::bits_of(a);
    const vf m = simd::float_of((bits & 0x007fffff) | 0x3f800000) - 1.0f;
    const vf e = simd::to_float((bits >> 23) - 127);
    return e + m + m * (1.0f - m) * (0.4203f - 0.1545f * m);
}

// Everything between the inputs and Sigma2, kept for the backward pass in the same call.
struct Shape {
    gm::ProjectionJacobian<vf> jac;
    Vec3v scale;
    vf quat[4], cov3[6];
    gm::Mat3<vf> rotation;
    gm::Factor2<vf> factor;
    gm::Cov2<vf> cov2;
    vi finite_input;
};

GM_FUNC void shape_of(const DgrScene& in, const gm::Camera& cam, const Lanes& lanes, const Vec3v& view, Shape* s) {
    s->jac = gm::projection_jacobian(cam, view);
    if (in.cov3) {
        s->finite_input = vi{} - 1;
        for (int k = 0; k < 6; ++k) {
            s->cov3[k] = load(lanes, in.cov3, 6, k);
            s->finite_input &= finite(s->cov3[k]);
        }
        s->cov2 = gm::cov2_from_cov3(s->jac, s->cov3);
        return;
    }
    s->scale = load3(lanes, in.scales);
    for (int k = 0; k < 4; ++k) s->quat[k] = load(lanes, in.rotations, 4, k);
    s->rotation = gm::rotation_matrix(s->quat[0], s->quat[1], s->quat[2], s->quat[3]);
    const float m = in.scale_modifier;
    const Vec3v scaled = {s->scale.x * m, s->scale.y * m, s->scale.z * m};
    s->factor = gm::covariance_factor(s->jac, gm::scaled_rotation(s->rotation, scaled));
    s->cov2 = gm::cov2_from_factor(s->factor);
    s->finite_input = finite(s->scale) & finite(s->quat[0]) & finite(s->quat[1]) & finite(s->quat[2]) &
                      finite(s->quat[3]);
}

GM_FUNC Vec3v sh_color(const DgrScene& in, const gm::Camera& cam, const Lanes& lanes, const Vec3v& mean) {
    vf basis[gm::kMaxShCoeffs];
    gm::sh_basis(in.sh_degree, gm::view_direction(cam, mean).unit, basis);
    Vec3v c = {vf{} + 0.5f, vf{} + 0.5f, vf{} + 0.5f};
    for (int k = 0; k < gm::sh_coeffs(in.sh_degree); ++k) {
        const Vec3v sh = load3(lanes, in.shs, 3 * in.n_sh_coeffs, 3 * k);
        c = {c.x + basis[k] * sh.x, c.y + basis[k] * sh.y, c.z + basis[k] * sh.z};
    }
    return c;
}

// A comparison with NaN is false, so a NaN colour stays NaN here and is found by finite().
GM_FUNC Vec3v clamp_at_zero(const Vec3v& c) {
    const vf zero = vf{};
    return {simd::select(c.x < zero, zero, c.x), simd::select(c.y < zero, zero, c.y),
            simd::select(c.z < zero, zero, c.z)};
}

GM_FUNC void span_of(const Frame& f, const Splat& s, float radius_px, TileSpan* span) {
    const gm::TileRect r = gm::tile_rect(s.x, s.y, radius_px, f.tiles_x, f.tiles_y);
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
        span->mask = cells_reached(s, (float)r.x0 * t, (float)r.y0 * t, t) & inside;
        span->n_tiles = (uint32_t)__builtin_popcount(span->mask);
    }
}

uint32_t list_tiles(const Frame& f, const Splat& s, const TileSpan& span, uint32_t* tiles) {
    uint32_t n = 0;
    const float t = (float)gm::kTile_px;
    for (int y = span.y0; y < span.y1; y += 4) {
        for (int x = span.x0; x < span.x1; x += 4) {
            unsigned mask = cells_reached(s, (float)x * t, (float)y * t, t);
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

// The screen-space values of 16 Gaussians before they are dealt out to their Splats.
struct Screen {
    vf x, y, ka, kb, kc, opacity, cull, slope_x, slope_y, radius, z;
    Vec3v color;
    vi visible;
};

GM_FUNC void deal_out(const Frame& f, const Screen& s, const Lanes& lanes, Splat* splats, TileSpan* spans,
                      int32_t* radii) {
    for (int l = 0; l < lanes.count; ++l) {
        splats[l] = {lane(s.x, l), lane(s.y, l), lane(s.ka, l), lane(s.kb, l), lane(s.kc, l), lane(s.opacity, l),
                     lane(s.color.x, l), lane(s.color.y, l), lane(s.color.z, l), lane(s.z, l), lane(s.cull, l),
                     lane(s.slope_x, l), lane(s.slope_y, l), {0, 0, 0}};
        radii[l] = 0;
        spans[l] = {0, 0, 0, 0, 0, 0};
        if (!lane(s.visible, l)) continue;
        const float radius_px = lane(s.radius, l);
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
    const Vec3v mean = load3(lanes, in.means), view = gm::to_view(cam, mean);
    const gm::Ndc<vf> ndc = gm::to_ndc(cam, mean);
    Shape shape;
    shape_of(in, cam, lanes, view, &shape);
    const gm::Sym2<vf> conic = gm::conic_of(shape.cov2);
    Screen s;
    s.x = gm::ndc_to_pixel(ndc.x, cam.width_px);
    s.y = gm::ndc_to_pixel(ndc.y, cam.height_px);
    s.z = view.z;
    s.ka = (-0.5f * kLog2e) * conic.xx;
    s.kb = -kLog2e * conic.xy;
    s.kc = (-0.5f * kLog2e) * conic.yy;
    s.slope_x = -0.5f * s.kb / s.ka;
    s.slope_y = -0.5f * s.kb / s.kc;
    s.opacity = load(lanes, in.opacities, 1, 0);
    // An indefinite Sigma2 (only cov3D_precomp can give one) has no ellipse to cut at: it keeps its whole rectangle.
    s.cull = simd::select(s.opacity > 0.0f, log2_of(s.opacity * 255.0f) + kCullSlack, vf{} - 1.0f);
    s.cull = simd::select(shape.cov2.det > 0.0f, s.cull, vf{} + INFINITY);
    s.radius = gm::screen_radius_px(shape.cov2);
    s.color = in.colors ? load3(lanes, in.colors) : clamp_at_zero(sh_color(in, cam, lanes, mean));
    const vi finite_input = finite(mean) & finite(s.opacity) & shape.finite_input;
    const vi in_front = view.z > gm::kNearPlane;
    const vi finite_screen = finite(s.x) & finite(s.y) & finite(view) & finite(conic.xx) & finite(conic.xy) &
                             finite(conic.yy) & finite(s.radius) & finite(s.color);
    s.visible = finite_input & in_front & finite_screen & (shape.cov2.det != 0.0f);
    deal_out(f, s, lanes, &f.splats[begin], &f.spans[begin], radii + begin);
    const unsigned dropped = simd::lane_bits(~finite_input | (in_front & ~finite_screen));
    return __builtin_popcount(dropped & ((1u << lanes.count) - 1u));
}

int64_t project(const DgrScene& in, Frame& f, int32_t* radii, int64_t begin, int64_t end) {
    int64_t dropped = 0;
    for (int64_t i = begin; i < end; i += kLanes) dropped += project_group(in, f, radii, i, end);
    return dropped;
}

// ---------------------------------------------------------------------------------------------- backward

// Summed partials of 16 Gaussians, in the order of Partial's fields.
struct Sums {
    vf w, wx, wy, wxx, wxy, wyy, r, g, b, z;
    vi touched;
};

constexpr int kSummed = 10;

GM_FUNC void sum_partials(const Frame& f, const Partial* partials, const Lanes& lanes, Sums* s) {
    alignas(64) float sums[kSummed][kLanes] = {};
    alignas(64) int32_t touched[kLanes] = {};
    for (int l = 0; l < lanes.count; ++l) {
        const int64_t i = lanes.index[l];
        float t[16] = {};
        for (uint32_t k = f.slot_begin[i]; k < f.slot_begin[i + 1]; ++k)
            for (int c = 0; c < 12; ++c) t[c] += (&partials[k].w)[c];
        for (int c = 0; c < kSummed; ++c) sums[c][l] = t[c];
        touched[l] = f.slot_begin[i + 1] > f.slot_begin[i] ? -1 : 0;
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
    const gm::Direction<vf> dir = gm::view_direction(cam, mean);
    vf basis[gm::kMaxShCoeffs];
    Vec3v slope[gm::kMaxShCoeffs];
    gm::sh_basis(in.sh_degree, dir.unit, basis);
    gm::sh_basis_gradient(in.sh_degree, dir.unit, slope);
    const Vec3v raw = sh_color(in, cam, lanes, mean), zero = {vf{}, vf{}, vf{}};
    const Vec3v g = {masked(raw.x >= 0.0f, grad_color.x), masked(raw.y >= 0.0f, grad_color.y),
                     masked(raw.z >= 0.0f, grad_color.z)};
    Vec3v grad_dir = zero;
    const int stride = 3 * in.n_sh_coeffs, active = gm::sh_coeffs(in.sh_degree);
    for (int k = 0; k < active; ++k) {
        const Vec3v sh = load3(lanes, in.shs, stride, 3 * k);
        const vf along = g.x * sh.x + g.y * sh.y + g.z * sh.z;
        grad_dir = gm::combine(vf{} + 1.0f, grad_dir, along, slope[k]);
        store3(lanes, grad_shs, masked(touched, Vec3v{basis[k] * g.x, basis[k] * g.y, basis[k] * g.z}), stride, 3 * k);
    }
    for (int k = active; k < in.n_sh_coeffs; ++k) store3(lanes, grad_shs, zero, stride, 3 * k);
    if (in.sh_degree < 1) return zero;
    return gm::direction_backward(dir, grad_dir);
}

GM_FUNC Vec3v shape_backward(const DgrScene& in, const gm::Camera& cam, const Lanes& lanes, const Shape& shape,
                             const gm::Sym2<vf>& grad_cov2, vi touched, const DgrGradients& out) {
    Vec3v grad_row_x, grad_row_y;
    if (in.cov3) {
        vf grad_cov3[6];
        gm::cov3_backward(shape.jac, shape.cov3, grad_cov2, &grad_row_x, &grad_row_y, grad_cov3);
        for (int k = 0; k < 6; ++k) store(lanes, out.cov3, 6, k, masked(touched, grad_cov3[k]));
    } else {
        Vec3v grad_scale;
        vf grad_q[4];
        gm::factor_backward(shape.jac, shape.rotation, shape.scale, shape.quat, in.scale_modifier, shape.factor,
                            grad_cov2, &grad_row_x, &grad_row_y, &grad_scale, grad_q);
        store3(lanes, out.scales, masked(touched, grad_scale));
        for (int k = 0; k < 4; ++k) store(lanes, out.rotations, 4, k, masked(touched, grad_q[k]));
    }
    return gm::projection_jacobian_backward(cam, shape.jac, grad_row_x, grad_row_y);
}

GM_FUNC Vec3v plus(const Vec3v& a, const Vec3v& b) { return {a.x + b.x, a.y + b.y, a.z + b.z}; }

void project_backward_group(const DgrScene& in, const Frame& f, const Partial* partials, const DgrGradients& out,
                            int64_t begin, int64_t end) {
    const gm::Camera& cam = f.cam;
    const Lanes lanes(begin, end);
    Sums s;
    sum_partials(f, partials, lanes, &s);
    const Vec3v mean = load3(lanes, in.means), view = gm::to_view(cam, mean);
    const gm::Ndc<vf> ndc = gm::to_ndc(cam, mean);
    Shape shape;
    shape_of(in, cam, lanes, view, &shape);
    const gm::Sym2<vf> q = gm::conic_of(shape.cov2);
    const gm::Sym2<vf> grad_conic = {-0.5f * s.wxx, -s.wxy, -0.5f * s.wyy};
    const vf grad_x_px = -(q.xx * s.wx + q.xy * s.wy), grad_y_px = -(q.xy * s.wx + q.yy * s.wy);
    const vf grad_x = grad_x_px * (0.5f * (float)cam.width_px), grad_y = grad_y_px * (0.5f * (float)cam.height_px);
    Vec3v grad_mean = gm::ndc_backward(cam, ndc, grad_x, grad_y);
    const gm::Sym2<vf> grad_cov2 = gm::conic_backward(q, grad_conic);
    grad_mean = plus(grad_mean, shape_backward(in, cam, lanes, shape, grad_cov2, s.touched, out));
    const Vec3v grad_color = {s.r, s.g, s.b};
    if (in.colors) {
        store3(lanes, out.colors, masked(s.touched, grad_color));
    } else {
        grad_mean = plus(grad_mean, color_backward(in, cam, lanes, mean, grad_color, s.touched, out.shs));
    }
    if (in.flags & DGR_DEPTH_Z_GRADIENT) grad_mean = gm::combine(vf{} + 1.0f, grad_mean, s.z, gm::view_row<vf>(cam, 2));
    store3(lanes, out.means, masked(s.touched, grad_mean));
    store3(lanes, out.means2d, masked(s.touched, Vec3v{grad_x, grad_y, vf{}}));
    store(lanes, out.opacities, 1, 0, masked(s.touched, s.w / load(lanes, in.opacities, 1, 0)));
}

void project_backward(const DgrScene& in, const Frame& f, const Partial* partials, const DgrGradients& out,
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
