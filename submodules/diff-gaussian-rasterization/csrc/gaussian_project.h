// SPDX-License-Identifier: Apache-2.0
// One Gaussian from its inputs to what the blending loops need, and the gradients back; for every backend.
//
// Puts the functions of gaussian_math.h and gaussian_sh.h together. Backends load the inputs, store the results and
// decide what runs where. F is a float or a vector of floats, a condition on it a Mask<F>.
#pragma once

#include "gaussian_math.h"
#include "gaussian_sh.h"

namespace gm {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kCullSlack = 0.01f;     // covers the rounding of Ops::log2 and of the form near the threshold
constexpr float kFormRounding = 4e-6f;  // relative error allowed for in the quadratic form

template <class F>
using Mask = decltype(F{} < F{});

template <class F>
GM_FUNC Mask<F> finite(F a) {
    return (a - a) == 0.0f;
}

template <class F>
GM_FUNC Mask<F> finite(const Vec3<F>& a) {
    return finite(a.x) & finite(a.y) & finite(a.z);
}

template <class F>
GM_FUNC Vec3<F> plus(const Vec3<F>& a, const Vec3<F>& b) {
    return {a.x + b.x, a.y + b.y, a.z + b.z};
}

// What a backend loads: cov3, or scale and quaternion; the other is left unset.
template <class F>
struct Inputs {
    Vec3<F> mean, scale;
    F opacity, quat[4], cov3[6];
    bool has_cov3;
};

// ---------------------------------------------------------------------------------------------- shape

// Everything between the inputs and Sigma2, kept for the backward pass in the same call.
template <class F>
struct Shape {
    ProjectionJacobian<F> jac;
    Mat3<F> rotation;
    Factor2<F> factor;
    Cov2<F> cov2;
    Mask<F> finite_input;
};

template <class F>
GM_FUNC void shape_of(const Camera& cam, const Inputs<F>& in, const Vec3<F>& view, Shape<F>* s) {
    s->jac = projection_jacobian(cam, view);
    if (in.has_cov3) {
        s->finite_input = finite(in.cov3[0]);
        for (int k = 1; k < 6; ++k) s->finite_input &= finite(in.cov3[k]);
        s->cov2 = cov2_from_cov3(s->jac, in.cov3);
        return;
    }
    s->rotation = rotation_matrix(in.quat[0], in.quat[1], in.quat[2], in.quat[3]);
    const float m = cam.scale_modifier;
    const Vec3<F> scaled = {in.scale.x * m, in.scale.y * m, in.scale.z * m};
    s->factor = covariance_factor(s->jac, scaled_rotation(s->rotation, scaled));
    s->cov2 = cov2_from_factor(s->factor);
    s->finite_input = finite(in.scale) & finite(in.quat[0]) & finite(in.quat[1]) & finite(in.quat[2]) &
                      finite(in.quat[3]);
}

// ---------------------------------------------------------------------------------------------- colour

// 0.5 + sum of the harmonics, before the clamp at 0. load(k) gives coefficient k.
template <class F, class Load>
GM_FUNC Vec3<F> sh_color(const Camera& cam, const Vec3<F>& mean, const Load& load) {
    F basis[kMaxShCoeffs];
    sh_basis(cam.sh_degree, view_direction(cam, mean).unit, basis);
    const F half = F{} + 0.5f;
    Vec3<F> c = {half, half, half};
    GM_UNROLL
    for (int k = 0; k < kMaxShCoeffs; ++k) {
        if (k >= sh_coeffs(cam.sh_degree)) break;
        const Vec3<F> sh = load(k);
        c = {c.x + basis[k] * sh.x, c.y + basis[k] * sh.y, c.z + basis[k] * sh.z};
    }
    return c;
}

// NaN and -infinity stay what they are here (comparisons with them are false) and are found by finite().
template <class F>
GM_FUNC Vec3<F> clamp_at_zero(const Vec3<F>& c) {
    const F zero = F{}, lowest = zero - 3.4028234e38f;
    return {Ops<F>::select((c.x < zero) & (c.x >= lowest), zero, c.x),
            Ops<F>::select((c.y < zero) & (c.y >= lowest), zero, c.y),
            Ops<F>::select((c.z < zero) & (c.z >= lowest), zero, c.z)};
}

// Hands dL/d(coefficient k) to store(k, gradient) and returns dL/dmean through the direction.
template <class F, class Load, class Store>
GM_FUNC Vec3<F> sh_color_backward(const Camera& cam, const Vec3<F>& mean, const Vec3<F>& grad_color, const Load& load,
                                  const Store& store) {
    const Direction<F> dir = view_direction(cam, mean);
    F basis[kMaxShCoeffs];
    Vec3<F> slope[kMaxShCoeffs];
    sh_basis(cam.sh_degree, dir.unit, basis);
    sh_basis_gradient(cam.sh_degree, dir.unit, slope);
    const F zero = F{};
    const Vec3<F> raw = sh_color(cam, mean, load);
    const Vec3<F> g = {Ops<F>::select(raw.x >= zero, grad_color.x, zero),
                       Ops<F>::select(raw.y >= zero, grad_color.y, zero),
                       Ops<F>::select(raw.z >= zero, grad_color.z, zero)};
    Vec3<F> grad_dir = {zero, zero, zero};
    GM_UNROLL
    for (int k = 0; k < kMaxShCoeffs; ++k) {
        if (k >= sh_coeffs(cam.sh_degree)) break;
        grad_dir = combine(zero + 1.0f, grad_dir, dot(g, load(k)), slope[k]);
        store(k, Vec3<F>{basis[k] * g.x, basis[k] * g.y, basis[k] * g.z});
    }
    if (cam.sh_degree < 1) return {zero, zero, zero};
    return direction_backward(dir, grad_dir);
}

// ---------------------------------------------------------------------------------------------- screen

// The Gaussian's falloff on the screen: log2(exp(power)) is (ka*dx + kb*dy)*dx + kc*dy*dy with d = mean - pixel.
template <class F>
struct Form {
    F x, y;
    F ka, kb, kc;
    F cull;              // where -log2(exp(power)) exceeds this, alpha < 1/255 for certain
    F slope_x, slope_y;  // dx that minimises the form for given dy = 1, and the converse
};

// The form of an ordinary Gaussian as a sum of squares: log2(exp(power)) is -(u^2 + v^2), u = a*dx + b*dy, v = c*dy.
// a = 0 marks the others, for which a loop must not rely on any of this:
// - alpha needs no clamp (opacity below kAlphaMax) and power is never positive (Sigma2 is definite);
// - no pixel of a 4x4 block that is reached at all has a power below -(sqrt(8.02) + sqrt(3.41 * 18))^2 > -120, since
//   the form's eigenvalues are below 3.41: the dilation keeps each below 2.41 and their norm below 3.41.
template <class F>
struct Squares {
    F a, b, c;
};

template <class F>
GM_FUNC Squares<F> squares_of(const Form<F>& f, const Cov2<F>& cov2, F opacity) {
    const F norm2 = f.ka * f.ka + f.kc * f.kc + 0.5f * f.kb * f.kb;
    const Mask<F> ordinary = (opacity < 0.989f) & (f.cull < 8.02f) & (f.ka < 0.0f) & (norm2 < 3.41f * 3.41f);
    const F a = Ops<F>::sqrt(-f.ka), c = Ops<F>::sqrt((0.5f * kLog2e) / cov2.yy);
    return {Ops<F>::select(ordinary, a, F{}), -a * cov2.xy / cov2.yy, c};
}

// A Gaussian on the screen, as the blending loops want it: one cache line.
struct alignas(64) Splat {
    Form<float> form;
    float opacity;
    float r, g, b, z;
    Squares<float> squares;  // CPU only
};

template <class F>
struct Screen {
    Form<F> form;
    Squares<F> squares;
    F opacity, z, radius_px;  // opacity as it is blended
    Mask<F> visible, dropped;  // dropped: something is not finite
};

// `color` is only looked at for being finite.
template <class F>
GM_FUNC Screen<F> screen_of(const Camera& cam, const Inputs<F>& in, const Vec3<F>& color) {
    const Vec3<F> view = to_view(cam, in.mean);
    const Ndc<F> ndc = to_ndc(cam, in.mean);
    Shape<F> shape;
    shape_of(cam, in, view, &shape);
    const Sym2<F> conic = conic_of(shape.cov2);
    Screen<F> s;
    Form<F>& f = s.form;
    f.x = ndc_to_pixel(ndc.x, cam.width_px);
    f.y = ndc_to_pixel(ndc.y, cam.height_px);
    f.ka = (-0.5f * kLog2e) * conic.xx;
    f.kb = -kLog2e * conic.xy;
    f.kc = (-0.5f * kLog2e) * conic.yy;
    f.slope_x = -0.5f * f.kb / f.ka;
    f.slope_y = -0.5f * f.kb / f.kc;
    s.opacity = in.opacity;
    if (cam.antialiasing) s.opacity = s.opacity * Ops<F>::sqrt(squared_compensation(shape.cov2));
    f.cull = Ops<F>::select(s.opacity > 0.0f, Ops<F>::log2(s.opacity * 255.0f) + kCullSlack, F{} - 1.0f);
    // An indefinite Sigma2 (only cov3D_precomp can give one) has no ellipse to cut at: it keeps its whole rectangle.
    f.cull = Ops<F>::select(shape.cov2.det > 0.0f, f.cull, F{} + INFINITY);
    s.squares = squares_of(f, shape.cov2, s.opacity);
    s.z = view.z;
    s.radius_px = screen_radius_px(shape.cov2);
    const Mask<F> finite_input = finite(in.mean) & finite(in.opacity) & shape.finite_input;
    const Mask<F> in_front = view.z > kNearPlane;
    const Mask<F> finite_screen = finite(f.x) & finite(f.y) & finite(view) & finite(conic.xx) & finite(conic.xy) &
                                  finite(conic.yy) & finite(s.radius_px) & finite(color);
    s.visible = finite_input & in_front & finite_screen & (shape.cov2.det != 0.0f);
    s.dropped = Ops<F>::invert(finite_input) | (in_front & Ops<F>::invert(finite_screen));
    return s;
}

// Whether alpha < 1/255 for certain at every d in [dx_lo, dx_hi] x [dy_lo, dy_hi]. The minimum of the convex form over
// a box lies on the line through the box at the dx nearest to 0 or at the dy nearest to 0, so two one-dimensional
// minima do.
template <class F>
GM_FUNC Mask<F> misses_box(const Form<float>& f, const F& dx_lo, const F& dx_hi, const F& dy_lo, const F& dy_hi) {
    const F zero = F{};
    const F dx1 = smaller(larger(zero, dx_lo), dx_hi), dy2 = smaller(larger(zero, dy_lo), dy_hi);
    const F dy1 = smaller(larger(dx1 * f.slope_y, dy_lo), dy_hi);
    const F dx2 = smaller(larger(dy2 * f.slope_x, dx_lo), dx_hi);
    const float shrink = 1.0f - kFormRounding;
    const F q1 = -((f.ka * shrink) * dx1 * dx1 + f.kb * dx1 * dy1 + (f.kc * shrink) * dy1 * dy1);
    const F q2 = -((f.ka * shrink) * dx2 * dx2 + f.kb * dx2 * dy2 + (f.kc * shrink) * dy2 * dy2);
    return (q1 > f.cull) & (q2 > f.cull);
}

// ---------------------------------------------------------------------------------------------- gradients

// What the pixels contribute to the gradient of one Gaussian: moments of w = dL/dpower about the mean, colour, depth.
template <class F>
struct Moments {
    F w, wx, wy, wxx, wxy, wyy;
    F r, g, b, z;
};

constexpr int kMoments = 10;

template <class F>
struct GeometryGradients {
    Vec3<F> mean, scale;
    F ndc_x, ndc_y, quat[4], cov3[6];
};

// The gradient of log c, which is half that of log det(Sigma2 - 0.3 I) less half that of log det(Sigma2): adds to
// grad_cov2 what the second has, w/2 times the conic, and returns the part of w that reaches the first.
template <class F>
GM_FUNC F compensation_backward(const Cov2<F>& cov2, const Sym2<F>& q, F w, Sym2<F>* grad_cov2) {
    const F c2 = squared_compensation(cov2);
    w = Ops<F>::select((c2 > kCompensation2Min) & (c2 < 1.0f), w, F{});
    const F half = 0.5f * w;
    *grad_cov2 = {grad_cov2->xx - half * q.xx, grad_cov2->xy - w * q.xy, grad_cov2->yy - half * q.yy};
    return w;
}

// The other part, for covariances that are given: what half of log det(Sigma2 - 0.3 I) adds to grad_cov2.
template <class F>
GM_FUNC Sym2<F> log_sharp_det_backward(const Cov2<F>& c, F w, const Sym2<F>& g) {
    const F s = Ops<F>::select(c.sharp_det > 0.0f, w / c.sharp_det, F{});
    return {g.xx + 0.5f * s * (c.yy - kDilation_px2), g.xy - s * c.xy, g.yy + 0.5f * s * (c.xx - kDilation_px2)};
}

// Everything but colour, opacity and the depth's own z. With antialiasing m.w, which is dL/dlog(alpha), is also the
// gradient with respect to log c.
template <class F>
GM_FUNC void geometry_backward(const Camera& cam, const Inputs<F>& in, const Moments<F>& m, GeometryGradients<F>* out) {
    Shape<F> shape;
    shape_of(cam, in, to_view(cam, in.mean), &shape);
    const Sym2<F> q = conic_of(shape.cov2);
    const F grad_x_px = -(q.xx * m.wx + q.xy * m.wy), grad_y_px = -(q.xy * m.wx + q.yy * m.wy);
    out->ndc_x = grad_x_px * (0.5f * (float)cam.width_px);
    out->ndc_y = grad_y_px * (0.5f * (float)cam.height_px);
    Sym2<F> grad_cov2 = conic_backward(q, Sym2<F>{-0.5f * m.wxx, -m.wxy, -0.5f * m.wyy});
    F w_area = F{};
    if (cam.antialiasing) w_area = compensation_backward(shape.cov2, q, m.w, &grad_cov2);
    Vec3<F> grad_row_x, grad_row_y;
    if (in.has_cov3) {
        if (cam.antialiasing) grad_cov2 = log_sharp_det_backward(shape.cov2, w_area, grad_cov2);
        cov3_backward(shape.jac, in.cov3, grad_cov2, &grad_row_x, &grad_row_y, out->cov3);
    } else {
        Factor2<F> grad_factor = cov2_backward(shape.factor, grad_cov2);
        if (cam.antialiasing) {
            const Factor2<F> area = log_area_backward(shape.factor, shape.cov2.sharp_det, w_area);
            grad_factor = {plus(grad_factor.x, area.x), plus(grad_factor.y, area.y)};
        }
        factor_backward(shape.jac, shape.rotation, in.scale, in.quat, cam.scale_modifier, grad_factor, &grad_row_x,
                        &grad_row_y, &out->scale, out->quat);
    }
    out->mean = plus(ndc_backward(cam, to_ndc(cam, in.mean), out->ndc_x, out->ndc_y),
                     projection_jacobian_backward(cam, shape.jac, grad_row_x, grad_row_y));
}

}  // namespace gm
