// SPDX-License-Identifier: Apache-2.0
// Which cells of a 4x4 grid of squares a Gaussian can reach with alpha >= 1/255: exact up to a rounding margin.
#pragma once

#include "frame.h"
#include "simd.h"

namespace dgr {

// Relative error allowed for in the quadratic form, and absolute slack of the threshold in Splat::cull.
constexpr float kFormRounding = 4e-6f;

alignas(64) constexpr float kLaneColumn[simd::kLanes] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
alignas(64) constexpr float kLaneRow[simd::kLanes] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
GM_FUNC simd::vf lane_column() { return simd::load16(kLaneColumn); }
GM_FUNC simd::vf lane_row() { return simd::load16(kLaneRow); }

// Bit c + 4r: the cell of pixels [x0 + c*cell, +cell) x [y0 + r*cell, +cell). The minimum of the convex form over a box
// lies on the line through the box at the dx nearest to 0 or at the dy nearest to 0, so two one-dimensional minima do.
GM_FUNC unsigned cells_reached(const Splat& s, float x0_px, float y0_px, float cell_px) {
    using simd::vf;
    const vf zero = vf{};
    const vf dx_hi = (s.x - x0_px) - cell_px * lane_column(), dx_lo = dx_hi - (cell_px - 1.0f);
    const vf dy_hi = (s.y - y0_px) - cell_px * lane_row(), dy_lo = dy_hi - (cell_px - 1.0f);
    const vf dx1 = gm::smaller(gm::larger(zero, dx_lo), dx_hi), dy2 = gm::smaller(gm::larger(zero, dy_lo), dy_hi);
    const vf dy1 = gm::smaller(gm::larger(dx1 * s.slope_y, dy_lo), dy_hi);
    const vf dx2 = gm::smaller(gm::larger(dy2 * s.slope_x, dx_lo), dx_hi);
    const float shrink = 1.0f - kFormRounding;
    const vf q1 = -((s.ka * shrink) * dx1 * dx1 + s.kb * dx1 * dy1 + (s.kc * shrink) * dy1 * dy1);
    const vf q2 = -((s.ka * shrink) * dx2 * dx2 + s.kb * dx2 * dy2 + (s.kc * shrink) * dy2 * dy2);
    return ~simd::lane_bits((q1 > s.cull) & (q2 > s.cull)) & 0xffffu;
}

}  // namespace dgr
