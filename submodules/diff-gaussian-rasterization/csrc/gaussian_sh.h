// SPDX-License-Identifier: Apache-2.0
// Real spherical harmonics up to degree 3 as the colour of a Gaussian, forward and backward; host and device.
//
// colour = max(0, 0.5 + sum_k b_k(d) c_k) with d the unit vector from the camera to the mean. The part of
// gaussian_math.h that deals with colour, in a file of its own for length.
#pragma once

#include "gaussian_math.h"

namespace gm {

constexpr int kMaxShCoeffs = 16;

GM_FUNC int sh_coeffs(int degree) { return (degree + 1) * (degree + 1); }

// Basis values b_k(d), k < (degree+1)^2.
template <class F>
GM_FUNC void sh_basis(int degree, const Vec3<F>& d, F* b) {
    const F x = d.x, y = d.y, z = d.z;
    b[0] = F{} + 0.28209479177387814f;
    if (degree < 1) return;
    const float c1 = 0.4886025119029199f;
    b[1] = -c1 * y;
    b[2] = c1 * z;
    b[3] = -c1 * x;
    if (degree < 2) return;
    const F xx = x * x, yy = y * y, zz = z * z;
    b[4] = 1.0925484305920792f * x * y;
    b[5] = -1.0925484305920792f * y * z;
    b[6] = 0.31539156525252005f * (2.0f * zz - xx - yy);
    b[7] = -1.0925484305920792f * x * z;
    b[8] = 0.5462742152960396f * (xx - yy);
    if (degree < 3) return;
    b[9] = -0.5900435899266435f * y * (3.0f * xx - yy);
    b[10] = 2.890611442640554f * x * y * z;
    b[11] = -0.4570457994644658f * y * (4.0f * zz - xx - yy);
    b[12] = 0.3731763325901154f * z * (2.0f * zz - 3.0f * xx - 3.0f * yy);
    b[13] = -0.4570457994644658f * x * (4.0f * zz - xx - yy);
    b[14] = 1.445305721320277f * z * (xx - yy);
    b[15] = -0.5900435899266435f * x * (xx - 3.0f * yy);
}

// Gradients of the basis as polynomials in x, y, z (the projection onto the sphere follows in direction_backward).
template <class F>
GM_FUNC void sh_basis_gradient(int degree, const Vec3<F>& d, Vec3<F>* g) {
    const F x = d.x, y = d.y, z = d.z, zero = F{};
    g[0] = {zero, zero, zero};
    if (degree < 1) return;
    const F c1 = zero + 0.4886025119029199f;
    g[1] = {zero, -c1, zero};
    g[2] = {zero, zero, c1};
    g[3] = {-c1, zero, zero};
    if (degree < 2) return;
    const float c2 = 1.0925484305920792f, c20 = 0.31539156525252005f, c22 = 0.5462742152960396f;
    g[4] = {c2 * y, c2 * x, zero};
    g[5] = {zero, -c2 * z, -c2 * y};
    g[6] = {-2.0f * c20 * x, -2.0f * c20 * y, 4.0f * c20 * z};
    g[7] = {-c2 * z, zero, -c2 * x};
    g[8] = {2.0f * c22 * x, -2.0f * c22 * y, zero};
    if (degree < 3) return;
    const F xx = x * x, yy = y * y, zz = z * z;
    const float c33 = -0.5900435899266435f, c32 = 2.890611442640554f, c31 = -0.4570457994644658f;
    const float c30 = 0.3731763325901154f, c3e = 1.445305721320277f;
    g[9] = {6.0f * c33 * x * y, 3.0f * c33 * (xx - yy), zero};
    g[10] = {c32 * y * z, c32 * x * z, c32 * x * y};
    g[11] = {-2.0f * c31 * x * y, c31 * (4.0f * zz - xx - 3.0f * yy), 8.0f * c31 * y * z};
    g[12] = {-6.0f * c30 * x * z, -6.0f * c30 * y * z, c30 * (6.0f * zz - 3.0f * xx - 3.0f * yy)};
    g[13] = {c31 * (4.0f * zz - 3.0f * xx - yy), -2.0f * c31 * x * y, 8.0f * c31 * x * z};
    g[14] = {2.0f * c3e * x * z, -2.0f * c3e * y * z, c3e * (xx - yy)};
    g[15] = {3.0f * c33 * (xx - yy), -6.0f * c33 * x * y, zero};
}

template <class F>
struct Direction {
    Vec3<F> unit;
    F inv_length;
};

template <class F>
GM_FUNC Direction<F> view_direction(const Camera& cam, const Vec3<F>& mean) {
    const Vec3<F> v = {mean.x - cam.position[0], mean.y - cam.position[1], mean.z - cam.position[2]};
    const F inv = 1.0f / Ops<F>::sqrt(dot(v, v));
    return {{v.x * inv, v.y * inv, v.z * inv}, inv};
}

// dL/dmean from dL/d(unit direction): (I - d d^T) g / |v|.
template <class F>
GM_FUNC Vec3<F> direction_backward(const Direction<F>& d, const Vec3<F>& grad) {
    const F along = dot(d.unit, grad);
    return {(grad.x - along * d.unit.x) * d.inv_length, (grad.y - along * d.unit.y) * d.inv_length,
            (grad.z - along * d.unit.z) * d.inv_length};
}

}  // namespace gm
