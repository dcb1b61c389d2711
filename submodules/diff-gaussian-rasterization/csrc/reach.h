// SPDX-License-Identifier: Apache-2.0
// Which cells of a 4x4 grid of squares a Gaussian can reach with alpha >= 1/255: exact up to a rounding margin.
#pragma once

#include "frame.h"
#include "simd.h"

namespace dgr {

alignas(64) constexpr float kLaneColumn[simd::kLanes] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
alignas(64) constexpr float kLaneRow[simd::kLanes] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
GM_FUNC simd::vf lane_column() { return simd::load16(kLaneColumn); }
GM_FUNC simd::vf lane_row() { return simd::load16(kLaneRow); }

// Bit c + 4r: the cell of pixels [x0 + c*cell, +cell) x [y0 + r*cell, +cell).
GM_FUNC unsigned cells_reached(const gm::Form<float>& f, float x0_px, float y0_px, float cell_px) {
    using simd::vf;
    const vf dx_hi = (f.x - x0_px) - cell_px * lane_column(), dy_hi = (f.y - y0_px) - cell_px * lane_row();
    return ~simd::lane_bits(gm::misses_box(f, dx_hi - (cell_px - 1.0f), dx_hi, dy_hi - (cell_px - 1.0f), dy_hi)) &
           0xffffu;
}

}  // namespace dgr
