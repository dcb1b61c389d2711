// SPDX-License-Identifier: Apache-2.0
// Per-Gaussian kernels: inputs to splats, and the tiles' sums to the gradients of the inputs. blockIdx.y is the view.
#pragma once

#include "cuda_common.cuh"

namespace dgr {

constexpr uint32_t kBehindAll = 0xffffffffu;  // depth key of a Gaussian that no tile takes

// Fills the shared camera; the block is in step afterwards.
GM_DEVICE void load_camera(const DgrBatch& batch, int v, gm::Camera& cam) {
    const DgrView& view = batch.views[v];
    if (threadIdx.x < 16) {
        cam.view[threadIdx.x] = view.viewmatrix[threadIdx.x];
        cam.proj[threadIdx.x] = view.projmatrix[threadIdx.x];
    }
    if (threadIdx.x < 3) cam.position[threadIdx.x] = view.campos[threadIdx.x];
    if (threadIdx.x == 0) {
        cam.tan_fov_x = view.tan_fov_x;
        cam.tan_fov_y = view.tan_fov_y;
        cam.width_px = batch.width_px;
        cam.height_px = batch.height_px;
        cam.focal_x_px = (float)batch.width_px / (2.0f * view.tan_fov_x);
        cam.focal_y_px = (float)batch.height_px / (2.0f * view.tan_fov_y);
        cam.scale_modifier = view.scale_modifier;
        cam.sh_degree = view.sh_degree;
    }
    __syncthreads();
}

GM_DEVICE gm::Inputs<float> load_inputs(const DgrBatch& batch, int v, int64_t i) {
    gm::Inputs<float> g;
    g.mean = load3(seen_by(batch, batch.means, 0, v, 3) + 3 * i);
    g.opacity = seen_by(batch, batch.opacities, 3, v, 1)[i];
    g.has_cov3 = batch.cov3 != nullptr;
    if (g.has_cov3) {
        const float* c = seen_by(batch, batch.cov3, 6, v, 6) + 6 * i;
        for (int k = 0; k < 6; ++k) g.cov3[k] = c[k];
        return g;
    }
    g.scale = load3(seen_by(batch, batch.scales, 4, v, 3) + 3 * i);
    const float* q = seen_by(batch, batch.rotations, 5, v, 4) + 4 * i;
    for (int k = 0; k < 4; ++k) g.quat[k] = q[k];
    return g;
}

struct LoadSh {
    const float* coeffs;
    GM_FUNC_MEMBER gm::Vec3<float> operator()(int k) const {
        return {coeffs[3 * k], coeffs[3 * k + 1], coeffs[3 * k + 2]};
    }
};

struct StoreSh {
    float* grad;
    GM_FUNC_MEMBER void operator()(int k, const gm::Vec3<float>& g) const {
        grad[3 * k] = g.x, grad[3 * k + 1] = g.y, grad[3 * k + 2] = g.z;
    }
};

GM_DEVICE LoadSh sh_loader(const DgrBatch& batch, int v, int64_t i) {
    return {seen_by(batch, batch.shs, 1, v, 3 * batch.n_sh_coeffs) + 3 * batch.n_sh_coeffs * i};
}

GM_DEVICE gm::Vec3<float> color_of(const DgrBatch& batch, const gm::Camera& cam, int v, int64_t i,
                                   const gm::Vec3<float>& mean) {
    if (batch.colors) return load3(seen_by(batch, batch.colors, 2, v, 3) + 3 * i);
    return gm::clamp_at_zero(gm::sh_color(cam, mean, sh_loader(batch, v, i)));
}

// Tiles reached by the Gaussian of each lane; the warp takes the lanes in turn, so a large one has 32 lanes at work.
GM_DEVICE uint32_t count_tiles(const gm::Form<float>& own, Rect own_rect) {
    const int lane = lane_of();
    uint32_t count = 0;
    for (unsigned left = __ballot_sync(kAllLanes, own_rect.x1 > own_rect.x0); left; left &= left - 1) {
        const int from = __ffs(left) - 1;
        gm::Form<float> f;
        const float* values = &own.x;
        float* taken = &f.x;
#pragma unroll
        for (int k = 0; k < (int)(sizeof f / sizeof(float)); ++k)
            taken[k] = __shfl_sync(kAllLanes, values[k], from);
        const uint32_t low = __shfl_sync(kAllLanes, own_rect.x0 | (uint32_t)own_rect.y0 << 16, from);
        const uint32_t high = __shfl_sync(kAllLanes, own_rect.x1 | (uint32_t)own_rect.y1 << 16, from);
        const Rect r = {(uint16_t)low, (uint16_t)(low >> 16), (uint16_t)high, (uint16_t)(high >> 16)};
        const uint32_t n = walk_tiles(f, r, [](int, int, uint32_t) {});
        if (lane == from) count = n;
    }
    return count;
}

// depth_keys [B,N]: the bits of z, which is positive, so that they sort as numbers.
__global__ void __launch_bounds__(kThreads) project(const __grid_constant__ DgrBatch batch, const Frame f,
                                                    int32_t* radii, uint32_t* depth_keys) {
    __shared__ gm::Camera cam;
    const int v = blockIdx.y;
    load_camera(batch, v, cam);
    const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x, at = v * f.n + i;
    const bool exists = i < f.n;
    gm::Screen<float> s = {};
    Rect rect = {0, 0, 0, 0};
    if (exists) {
        const gm::Inputs<float> in = load_inputs(batch, v, i);
        const gm::Vec3<float> color = color_of(batch, cam, v, i, in.mean);
        s = gm::screen_of(cam, in, color);
        f.splats[at] = {s.form, in.opacity, color.x, color.y, color.z, s.z, {0, 0, 0}};
        const gm::TileRect r = gm::tile_rect(s.form.x, s.form.y, s.radius_px, f.tiles_x, f.tiles_y);
        if (s.visible && r.x1 > r.x0 && r.y1 > r.y0)
            rect = {(uint16_t)r.x0, (uint16_t)r.y0, (uint16_t)r.x1, (uint16_t)r.y1};
    }
    const uint32_t n_tiles = count_tiles(s.form, rect);
    const int n_dropped = __popc(__ballot_sync(kAllLanes, s.dropped));
    if (lane_of() == 0 && n_dropped) atomicAdd(&f.header->n_dropped, (unsigned long long)n_dropped);
    if (!exists) return;
    f.rects[at] = rect;
    f.tile_count[at] = n_tiles;
    radii[at] = rect.x1 == rect.x0 ? 0 : s.radius_px < 2e9f ? (int32_t)s.radius_px : 2000000000;
    depth_keys[at] = n_tiles ? __float_as_uint(s.z) : kBehindAll;
}

__global__ void __launch_bounds__(kThreads) mark_visible(int64_t n, const float* means, const float* view,
                                                         uint8_t* visible) {
    const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    if (i >= n) return;
    const float* p = means + 3 * i;
    visible[i] = view[2] * p[0] + view[6] * p[1] + view[10] * p[2] + view[14] > gm::kNearPlane;
}

// ---------------------------------------------------------------------------------------------- backward

// One thread adds up a Gaussian's slots in order.
GM_DEVICE gm::Moments<float> sum_partials(const Frame& f, const Partial* partials, int64_t at) {
    gm::Moments<float> sum = {};
    const uint32_t begin = f.slot_begin[at], n = f.header->one_list ? 1 : f.tile_count[at];
    for (uint32_t k = begin; k < begin + n; ++k) {
        const Partial p = partials[k];
#pragma unroll
        for (int c = 0; c < gm::kMoments; ++c) (&sum.w)[c] += (&p.moments.w)[c];
    }
    return sum;
}

GM_DEVICE void store_geometry(const DgrGradients& out, int64_t at, const gm::GeometryGradients<float>& g,
                              float grad_opacity) {
    store3(out.means + 3 * at, g.mean);
    store3(out.means2d + 3 * at, {g.ndc_x, g.ndc_y, 0.0f});
    out.opacities[at] = grad_opacity;
    if (out.cov3) {
        for (int k = 0; k < 6; ++k) out.cov3[6 * at + k] = g.cov3[k];
    } else {
        store3(out.scales + 3 * at, g.scale);
        for (int k = 0; k < 4; ++k) out.rotations[4 * at + k] = g.quat[k];
    }
}

__global__ void __launch_bounds__(kThreads) project_backward(const __grid_constant__ DgrBatch batch, const Frame f,
                                                             const Partial* partials, const DgrGradients out) {
    __shared__ gm::Camera cam;
    const int v = blockIdx.y;
    load_camera(batch, v, cam);
    const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x, at = v * f.n + i;
    if (i >= f.n) return;
    const bool touched = f.tile_count[at] != 0;
    const StoreSh store_sh = {out.shs ? out.shs + 3 * batch.n_sh_coeffs * at : nullptr};
    if (out.shs)  // coefficients above the active degree, and all of a Gaussian that nobody sees
        for (int k = touched ? gm::sh_coeffs(cam.sh_degree) : 0; k < batch.n_sh_coeffs; ++k) store_sh(k, {0, 0, 0});
    if (!touched) {
        store_geometry(out, at, {}, 0.0f);
        if (out.colors) store3(out.colors + 3 * at, {0, 0, 0});
        return;
    }
    const gm::Moments<float> m = sum_partials(f, partials, at);
    const gm::Inputs<float> in = load_inputs(batch, v, i);
    gm::GeometryGradients<float> g = {};
    gm::geometry_backward(cam, in, m, &g);
    const gm::Vec3<float> grad_color = {m.r, m.g, m.b};
    if (out.colors)
        store3(out.colors + 3 * at, grad_color);
    else
        g.mean = gm::plus(g.mean, gm::sh_color_backward(cam, in.mean, grad_color, sh_loader(batch, v, i), store_sh));
    if (batch.flags & DGR_DEPTH_Z_GRADIENT) g.mean = gm::combine(1.0f, g.mean, m.z, gm::view_row<float>(cam, 2));
    store_geometry(out, at, g, m.w / in.opacity);
}

}  // namespace dgr
