// SPDX-License-Identifier: Apache-2.0
// Which cells of a 4x4 grid of squares a Gaussian can reach with alpha >= 1/255: exact up to a rounding margin.
#pragma once

#include "frame.h"
#include "simd.h"

namespace dgr {

alignas(64) constexpr float kLaneColumn[simd::kLanes] = {0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3};
alignas(64) constexpr float kLaneRow[simd::kLanes] = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
// Columns and rows of the lanes of one register of the 16.
GM_FUNC simd::vr lane_column() { return simd::bit_cast<simd::vr>(*(const float(*)[simd::kWidth])kLaneColumn); }
GM_FUNC simd::vr lane_row(int part) {
    return simd::bit_cast<simd::vr>(*(const float(*)[simd::kWidth])(kLaneRow + part * simd::kWidth));
}

// Bit c + 4r: the cell of pixels [x0 + c*cell, +cell) x [y0 + r*cell, +cell).
GM_FUNC unsigned cells_reached(const gm::Form<float>& f, float x0_px, float y0_px, float cell_px) {
    using simd::vr;
    const vr dx_hi = (f.x - x0_px) - cell_px * lane_column();
    unsigned missed = 0;
    for (int p = 0; p < simd::kParts; ++p) {
        const vr dy_hi = (f.y - y0_px) - cell_px * lane_row(p);
        const auto misses = gm::misses_box(f, dx_hi - (cell_px - 1.0f), dx_hi, dy_hi - (cell_px - 1.0f), dy_hi);
        missed |= simd::lane_bits(misses) << (p * simd::kWidth);
    }
    return ~missed & 0xffffu;
}

}  // namespace dgr
