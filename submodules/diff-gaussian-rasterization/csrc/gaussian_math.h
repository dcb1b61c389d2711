// SPDX-License-Identifier: Apache-2.0
// The mathematics of one Gaussian, forward and backward, for every backend.
//
// Nothing here knows about threads, tiles or memory. Each function is a template over the scalar type F: a CUDA
// kernel uses F = float, the CPU backend uses a vector of 16 floats (simd.h), so that one text serves both.
// Code is therefore branch-free; conditions go through Ops<F>::select.
//
// Symbols: V world-to-view matrix, P world-to-clip matrix (both stored transposed, for row vectors), W = rotation part
// of V as a 3x3 matrix acting on columns, J Jacobian of the perspective projection at the mean, M = R(q) diag(s),
// Sigma = M M^T (3x3), Sigma2 = J W Sigma W^T J^T + 0.3 I (2x2), conic = Sigma2^-1. With antialiasing the opacity counts
// times c = sqrt(det(Sigma2 - 0.3 I) / det(Sigma2)), so that the dilation spreads a Gaussian without adding to it
// (Mip-Splatting, Yu et al. 2024, Eq. 10).
#pragma once

#include <math.h>

#ifdef __CUDACC__
#define GM_FUNC static __host__ __device__ __forceinline__
#define GM_UNROLL _Pragma("unroll")  // keeps small arrays in registers
#else
#define GM_UNROLL
#define GM_FUNC static inline __attribute__((always_inline))
#endif

namespace gm {

constexpr float kNearPlane = 0.2f;       // view-space z at or below which a Gaussian is culled
constexpr float kWEpsilon = 1e-7f;       // added to the clip w before the division
constexpr float kJacobianClamp = 1.3f;   // times tan(fov/2): where t.x/t.z and t.y/t.z are clamped inside J
constexpr float kDilation_px2 = 0.3f;    // low-pass added to both diagonal entries of Sigma2
// c^2 is kept at least this: det(Sigma2 - 0.3 I) is 0 for a Gaussian seen edge on, and negative where a given covariance is
// indefinite. A c of 1/1000 draws nothing below an opacity of 3.9, so that no gradient that counts comes near it.
constexpr float kCompensation2Min = 1e-6f;
constexpr float kAlphaMin = 1.0f / 255.0f;
constexpr float kAlphaMax = 0.99f;
constexpr float kTransmittanceMin = 1e-4f;
constexpr int kTile_px = 16;             // the tile of the rectangle rule, which fixes the image

// What differs between one float and a vector of floats. simd.h specialises it for the CPU's vector type.
template <class F>
struct Ops;

template <>
struct Ops<float> {
    GM_FUNC float select(bool condition, float a, float b) { return condition ? a : b; }
    GM_FUNC float min(float a, float b) { return a < b ? a : b; }
    GM_FUNC float max(float a, float b) { return a > b ? a : b; }
    GM_FUNC float sqrt(float a) { return sqrtf(a); }
    GM_FUNC float ceil(float a) { return ceilf(a); }
    GM_FUNC float log2(float a) { return log2f(a); }  // to 1.5e-3 is enough
    GM_FUNC bool invert(bool a) { return !a; }
};

struct Camera {
    float view[16], proj[16];
    float position[3];
    float tan_fov_x, tan_fov_y;
    float focal_x_px, focal_y_px;
    float scale_modifier;
    int width_px, height_px;
    int sh_degree;
    bool antialiasing;
};

template <class F>
struct Vec3 {
    F x, y, z;
};

template <class F>
GM_FUNC F dot(const Vec3<F>& a, const Vec3<F>& b) {
    return a.x * b.x + a.y * b.y + a.z * b.z;
}

template <class F>
GM_FUNC Vec3<F> combine(F s, const Vec3<F>& a, F t, const Vec3<F>& b) {
    return {s * a.x + t * b.x, s * a.y + t * b.y, s * a.z + t * b.z};
}

template <class F>
GM_FUNC Vec3<F> cross(const Vec3<F>& a, const Vec3<F>& b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}

template <class F>
GM_FUNC F smaller(F a, F b) {
    return Ops<F>::min(a, b);
}

template <class F>
GM_FUNC F larger(F a, F b) {
    return Ops<F>::max(a, b);
}

// ---------------------------------------------------------------------------------------------- projection

// View-space point: [x y z 1] V.
template <class F>
GM_FUNC Vec3<F> to_view(const Camera& cam, const Vec3<F>& p) {
    const float* v = cam.view;
    return {v[0] * p.x + v[4] * p.y + v[8] * p.z + v[12], v[1] * p.x + v[5] * p.y + v[9] * p.z + v[13],
            v[2] * p.x + v[6] * p.y + v[10] * p.z + v[14]};
}

// Row r of W as a vector over world axes; W[r][c] = V[c][r].
template <class F>
GM_FUNC Vec3<F> view_row(const Camera& cam, int r) {
    return {F{} + cam.view[r], F{} + cam.view[4 + r], F{} + cam.view[8 + r]};
}

template <class F>
struct Ndc {
    F x, y, inv_w;
};

template <class F>
GM_FUNC Ndc<F> to_ndc(const Camera& cam, const Vec3<F>& p) {
    const float* m = cam.proj;
    const F w = m[3] * p.x + m[7] * p.y + m[11] * p.z + m[15];
    const F inv_w = 1.0f / (w + kWEpsilon);
    return {(m[0] * p.x + m[4] * p.y + m[8] * p.z + m[12]) * inv_w,
            (m[1] * p.x + m[5] * p.y + m[9] * p.z + m[13]) * inv_w, inv_w};
}

// Pixel coordinate of an NDC coordinate; pixel centres are integers.
template <class F>
GM_FUNC F ndc_to_pixel(F v, int size_px) {
    return ((v + 1.0f) * (float)size_px - 1.0f) * 0.5f;
}

// dL/dmean from the gradient with respect to the NDC position.
template <class F>
GM_FUNC Vec3<F> ndc_backward(const Camera& cam, const Ndc<F>& ndc, F grad_x, F grad_y) {
    const float* m = cam.proj;
    const F gx = grad_x * ndc.inv_w, gy = grad_y * ndc.inv_w;
    const F gw = -(gx * ndc.x + gy * ndc.y);
    return {m[0] * gx + m[1] * gy + m[3] * gw, m[4] * gx + m[5] * gy + m[7] * gw, m[8] * gx + m[9] * gy + m[11] * gw};
}

// ---------------------------------------------------------------------------------------------- J W

// The two rows of J W, with what the backward pass needs of the clamp.
template <class F>
struct ProjectionJacobian {
    Vec3<F> row_x, row_y;
    F tx, ty, inv_z;         // clamped view-space x and y; 1/z
    F passes_x, passes_y;    // 1 where the clamp lets the gradient of that coordinate through, else 0
};

template <class F>
GM_FUNC ProjectionJacobian<F> projection_jacobian(const Camera& cam, const Vec3<F>& t) {
    ProjectionJacobian<F> j;
    const F zero = F{}, one = zero + 1.0f;
    const F limit_x = zero + kJacobianClamp * cam.tan_fov_x, limit_y = zero + kJacobianClamp * cam.tan_fov_y;
    j.inv_z = 1.0f / t.z;
    const F ux = t.x / t.z, uy = t.y / t.z;
    const F cx = smaller(limit_x, larger(-limit_x, ux)), cy = smaller(limit_y, larger(-limit_y, uy));
    j.passes_x = Ops<F>::select(cx == ux, one, zero);
    j.passes_y = Ops<F>::select(cy == uy, one, zero);
    j.tx = cx * t.z;
    j.ty = cy * t.z;
    const F jxx = cam.focal_x_px * j.inv_z, jyy = cam.focal_y_px * j.inv_z;
    const F jxz = -(jxx * j.tx) * j.inv_z, jyz = -(jyy * j.ty) * j.inv_z;
    const Vec3<F> w0 = view_row<F>(cam, 0), w1 = view_row<F>(cam, 1), w2 = view_row<F>(cam, 2);
    j.row_x = combine(jxx, w0, jxz, w2);
    j.row_y = combine(jyy, w1, jyz, w2);
    return j;
}

// dL/dmean through J. The clamped coordinate is held constant when z varies, as in the original.
template <class F>
GM_FUNC Vec3<F> projection_jacobian_backward(const Camera& cam, const ProjectionJacobian<F>& j, const Vec3<F>& grad_x,
                                             const Vec3<F>& grad_y) {
    const Vec3<F> w0 = view_row<F>(cam, 0), w1 = view_row<F>(cam, 1), w2 = view_row<F>(cam, 2);
    const F gxx = dot(grad_x, w0), gxz = dot(grad_x, w2), gyy = dot(grad_y, w1), gyz = dot(grad_y, w2);
    const F sx = cam.focal_x_px * j.inv_z * j.inv_z, sy = cam.focal_y_px * j.inv_z * j.inv_z;
    const F gtx = -sx * gxz * j.passes_x, gty = -sy * gyz * j.passes_y;
    const F gtz = -sx * gxx - sy * gyy + 2.0f * j.inv_z * (sx * j.tx * gxz + sy * j.ty * gyz);
    return {w0.x * gtx + w1.x * gty + w2.x * gtz, w0.y * gtx + w1.y * gty + w2.y * gtz,
            w0.z * gtx + w1.z * gty + w2.z * gtz};
}

// ---------------------------------------------------------------------------------------------- covariance

// Rows of R(q) for q = (w, x, y, z) as given: it is not normalised.
template <class F>
struct Mat3 {
    Vec3<F> row[3];
};

template <class F>
GM_FUNC Mat3<F> rotation_matrix(F w, F x, F y, F z) {
    return {{{1.0f - 2.0f * (y * y + z * z), 2.0f * (x * y - w * z), 2.0f * (x * z + w * y)},
             {2.0f * (x * y + w * z), 1.0f - 2.0f * (x * x + z * z), 2.0f * (y * z - w * x)},
             {2.0f * (x * z - w * y), 2.0f * (y * z + w * x), 1.0f - 2.0f * (x * x + y * y)}}};
}

template <class F>
GM_FUNC void rotation_matrix_backward(F w, F x, F y, F z, const Mat3<F>& g, F* grad_q) {
    const Vec3<F>&a = g.row[0], &b = g.row[1], &c = g.row[2];
    grad_q[0] = 2.0f * (z * (b.x - a.y) + y * (a.z - c.x) + x * (c.y - b.z));
    grad_q[1] = 2.0f * (y * (a.y + b.x) + z * (a.z + c.x) + w * (c.y - b.z) - 2.0f * x * (b.y + c.z));
    grad_q[2] = 2.0f * (x * (a.y + b.x) + z * (b.z + c.y) + w * (a.z - c.x) - 2.0f * y * (a.x + c.z));
    grad_q[3] = 2.0f * (x * (a.z + c.x) + y * (b.z + c.y) + w * (b.x - a.y) - 2.0f * z * (a.x + b.y));
}

// M = R(q) diag(scale * modifier); Sigma = M M^T.
template <class F>
GM_FUNC Mat3<F> scaled_rotation(const Mat3<F>& r, const Vec3<F>& s) {
    Mat3<F> m;
    for (int k = 0; k < 3; ++k) m.row[k] = {r.row[k].x * s.x, r.row[k].y * s.y, r.row[k].z * s.z};
    return m;
}

// Sigma2 with the dilation on its diagonal, its determinant, and the determinant without the dilation.
template <class F>
struct Cov2 {
    F xx, xy, yy, det, sharp_det;
};

// The 2x3 matrix A = J W M, so that Sigma2 = A A^T + 0.3 I.
template <class F>
struct Factor2 {
    Vec3<F> x, y;
};

template <class F>
GM_FUNC Vec3<F> row_times(const Vec3<F>& t, const Mat3<F>& m) {
    return {t.x * m.row[0].x + t.y * m.row[1].x + t.z * m.row[2].x,
            t.x * m.row[0].y + t.y * m.row[1].y + t.z * m.row[2].y,
            t.x * m.row[0].z + t.y * m.row[1].z + t.z * m.row[2].z};
}

template <class F>
GM_FUNC Factor2<F> covariance_factor(const ProjectionJacobian<F>& j, const Mat3<F>& m) {
    return {row_times(j.row_x, m), row_times(j.row_y, m)};
}

// Sigma2 from A. det(A A^T) is the squared norm of the cross product of A's rows (Lagrange), which loses no digits for
// needle-shaped Gaussians where xx*yy - xy*xy would.
template <class F>
GM_FUNC Cov2<F> cov2_from_factor(const Factor2<F>& a) {
    const F xx = dot(a.x, a.x), yy = dot(a.y, a.y), xy = dot(a.x, a.y);
    const Vec3<F> n = cross(a.x, a.y);
    const F sharp_det = dot(n, n);
    const F det = sharp_det + kDilation_px2 * (xx + yy) + kDilation_px2 * kDilation_px2;
    return {xx + kDilation_px2, xy, yy + kDilation_px2, det, sharp_det};
}

// Sigma times a vector, Sigma stored as xx, xy, xz, yy, yz, zz.
template <class F>
GM_FUNC Vec3<F> sym_times(const F* s, const Vec3<F>& v) {
    return {s[0] * v.x + s[1] * v.y + s[2] * v.z, s[1] * v.x + s[3] * v.y + s[4] * v.z,
            s[2] * v.x + s[4] * v.y + s[5] * v.z};
}

template <class F>
GM_FUNC Cov2<F> cov2_from_cov3(const ProjectionJacobian<F>& j, const F* cov3) {
    const Vec3<F> vx = sym_times(cov3, j.row_x), vy = sym_times(cov3, j.row_y);
    const F sharp_xx = dot(j.row_x, vx), sharp_yy = dot(j.row_y, vy), xy = dot(j.row_x, vy);
    const F xx = sharp_xx + kDilation_px2, yy = sharp_yy + kDilation_px2;
    return {xx, xy, yy, xx * yy - xy * xy, sharp_xx * sharp_yy - xy * xy};
}

// c^2, between kCompensation2Min and 1; 1 where both determinants are infinite.
template <class F>
GM_FUNC F squared_compensation(const Cov2<F>& c) {
    const F ratio = c.sharp_det / c.det;
    return Ops<F>::select(ratio < 1.0f, larger(F{} + kCompensation2Min, ratio), F{} + 1.0f);
}

// Gradients with respect to the entries of a symmetric 2x2 matrix, the off-diagonal one counted once.
template <class F>
struct Sym2 {
    F xx, xy, yy;
};

template <class F>
GM_FUNC Sym2<F> conic_of(const Cov2<F>& c) {
    const F inv_det = 1.0f / c.det;
    return {c.yy * inv_det, -c.xy * inv_det, c.xx * inv_det};
}

// dL/dSigma2 = -Q G Q with Q the conic and G the gradient with respect to Q as a full symmetric matrix.
template <class F>
GM_FUNC Sym2<F> conic_backward(const Sym2<F>& q, const Sym2<F>& grad) {
    const F gxy = 0.5f * grad.xy;
    const F a = grad.xx * q.xx + gxy * q.xy, b = grad.xx * q.xy + gxy * q.yy;
    const F c = gxy * q.xx + grad.yy * q.xy, d = gxy * q.xy + grad.yy * q.yy;
    return {-(q.xx * a + q.xy * c), -2.0f * (q.xx * b + q.xy * d), -(q.xy * b + q.yy * d)};
}

// dL/dA through Sigma2 = A A^T + 0.3 I.
template <class F>
GM_FUNC Factor2<F> cov2_backward(const Factor2<F>& a, const Sym2<F>& g) {
    return {combine(2.0f * g.xx, a.x, g.xy, a.y), combine(2.0f * g.yy, a.y, g.xy, a.x)};
}

// dL/dA through the logarithm of |n|, n = cross product of A's rows: of the root of det(A A^T). The gradient with
// respect to it is w, taken as 0 where det(A A^T) is not above 0.
template <class F>
GM_FUNC Factor2<F> log_area_backward(const Factor2<F>& a, F sharp_det, F w) {
    const Vec3<F> n = cross(a.x, a.y);
    const F zero = F{}, s = Ops<F>::select(sharp_det > 0.0f, w / sharp_det, zero);
    return {combine(s, cross(a.y, n), zero, n), combine(s, cross(n, a.x), zero, n)};
}

// dL/dJW rows, dL/dscale and dL/dq from the gradient g with respect to A = J W M.
template <class F>
GM_FUNC void factor_backward(const ProjectionJacobian<F>& j, const Mat3<F>& rot, const Vec3<F>& scale, const F* q,
                             float modifier, const Factor2<F>& g, Vec3<F>* grad_row_x, Vec3<F>* grad_row_y,
                             Vec3<F>* grad_scale, F* grad_q) {
    const Vec3<F> s = {scale.x * modifier, scale.y * modifier, scale.z * modifier};
    const Mat3<F> m = scaled_rotation(rot, s);
    const Vec3<F>&gx = g.x, &gy = g.y;
    *grad_row_x = {dot(m.row[0], gx), dot(m.row[1], gx), dot(m.row[2], gx)};
    *grad_row_y = {dot(m.row[0], gy), dot(m.row[1], gy), dot(m.row[2], gy)};
    const Mat3<F> gm = {{combine(j.row_x.x, gx, j.row_y.x, gy), combine(j.row_x.y, gx, j.row_y.y, gy),
                         combine(j.row_x.z, gx, j.row_y.z, gy)}};
    const Mat3<F>& r = rot;
    *grad_scale = {(r.row[0].x * gm.row[0].x + r.row[1].x * gm.row[1].x + r.row[2].x * gm.row[2].x) * modifier,
                   (r.row[0].y * gm.row[0].y + r.row[1].y * gm.row[1].y + r.row[2].y * gm.row[2].y) * modifier,
                   (r.row[0].z * gm.row[0].z + r.row[1].z * gm.row[1].z + r.row[2].z * gm.row[2].z) * modifier};
    rotation_matrix_backward(q[0], q[1], q[2], q[3], scaled_rotation(gm, s), grad_q);
}

// dL/dJW rows and dL/dcov3 (six entries, each off-diagonal one standing for both places).
template <class F>
GM_FUNC void cov3_backward(const ProjectionJacobian<F>& j, const F* cov3, const Sym2<F>& g, Vec3<F>* grad_row_x,
                           Vec3<F>* grad_row_y, F* grad_cov3) {
    const Vec3<F>&u = j.row_x, &v = j.row_y;
    const Vec3<F> su = sym_times(cov3, u), sv = sym_times(cov3, v);
    *grad_row_x = combine(2.0f * g.xx, su, g.xy, sv);
    *grad_row_y = combine(2.0f * g.yy, sv, g.xy, su);
    grad_cov3[0] = g.xx * u.x * u.x + g.xy * u.x * v.x + g.yy * v.x * v.x;
    grad_cov3[3] = g.xx * u.y * u.y + g.xy * u.y * v.y + g.yy * v.y * v.y;
    grad_cov3[5] = g.xx * u.z * u.z + g.xy * u.z * v.z + g.yy * v.z * v.z;
    grad_cov3[1] = 2.0f * (g.xx * u.x * u.y + g.yy * v.x * v.y) + g.xy * (u.x * v.y + u.y * v.x);
    grad_cov3[2] = 2.0f * (g.xx * u.x * u.z + g.yy * v.x * v.z) + g.xy * (u.x * v.z + u.z * v.x);
    grad_cov3[4] = 2.0f * (g.xx * u.y * u.z + g.yy * v.y * v.z) + g.xy * (u.y * v.z + u.z * v.y);
}

// Three sigma of the longer axis, rounded up; mid^2 - det written as the sum of squares that it is.
template <class F>
GM_FUNC F screen_radius_px(const Cov2<F>& c) {
    const F mid = 0.5f * (c.xx + c.yy), half = 0.5f * (c.xx - c.yy);
    const F root = Ops<F>::sqrt(larger(F{} + 0.1f, half * half + c.xy * c.xy));
    return Ops<F>::ceil(3.0f * Ops<F>::sqrt(mid + root));
}

// ---------------------------------------------------------------------------------------------- tiles

// Tiles [x0, x1) x [y0, y1) that the square of the radius touches, cut to the grid.
struct TileRect {
    int x0, y0, x1, y1;
};

GM_FUNC int clamp_tile(float v, int n) {
    return v >= (float)n ? n : (v > 0.0f ? (int)v : 0);
}

GM_FUNC TileRect tile_rect(float x_px, float y_px, float radius_px, int tiles_x, int tiles_y) {
    const float t = (float)kTile_px;
    return {clamp_tile((x_px - radius_px) / t, tiles_x), clamp_tile((y_px - radius_px) / t, tiles_y),
            clamp_tile((x_px + radius_px + (t - 1.0f)) / t, tiles_x),
            clamp_tile((y_px + radius_px + (t - 1.0f)) / t, tiles_y)};
}

}  // namespace gm
