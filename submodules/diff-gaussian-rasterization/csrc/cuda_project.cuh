// SPDX-License-Identifier: Apache-2.0
// Per-Gaussian kernels: inputs to splats, and the tiles' sums to the gradients of the inputs. blockIdx.y is the view.
#pragma once

#include "cuda_common.cuh"

namespace dgr {

constexpr uint32_t kBehindAll = 0xffffffffu;  // depth key of a Gaussian that no tile takes

// Fills the shared camera; the block is in step afterwards.
GM_DEVICE void load_camera(const DgrScene& in, gm::Camera& cam) {
    if (threadIdx.x < 16) {
        cam.view[threadIdx.x] = in.viewmatrix[threadIdx.x];
        cam.proj[threadIdx.x] = in.projmatrix[threadIdx.x];
    }
    if (threadIdx.x < 3) cam.position[threadIdx.x] = in.campos[threadIdx.x];
    if (threadIdx.x == 0) {
        cam.tan_fov_x = in.tan_fov_x;
        cam.tan_fov_y = in.tan_fov_y;
        cam.width_px = in.width_px;
        cam.height_px = in.height_px;
        cam.focal_x_px = (float)in.width_px / (2.0f * in.tan_fov_x);
        cam.focal_y_px = (float)in.height_px / (2.0f * in.tan_fov_y);
        cam.scale_modifier = in.scale_modifier;
        cam.sh_degree = in.sh_degree;
        cam.antialiasing = in.flags & DGR_ANTIALIASING;
    }
    __syncthreads();
}

GM_DEVICE gm::Inputs<float> load_inputs(const DgrScene& in, int64_t i) {
    gm::Inputs<float> g;
    g.mean = load3(in.means + 3 * i);
    g.opacity = in.opacities[i];
    g.has_cov3 = in.cov3 != nullptr;
    if (g.has_cov3) {
        for (int k = 0; k < 6; ++k) g.cov3[k] = in.cov3[6 * i + k];
        return g;
    }
    g.scale = load3(in.scales + 3 * i);
    for (int k = 0; k < 4; ++k) g.quat[k] = in.rotations[4 * i + k];
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

GM_DEVICE LoadSh sh_loader(const DgrScene& in, int64_t i) { return {in.shs + 3 * in.n_sh_coeffs * i}; }

GM_DEVICE gm::Vec3<float> color_of(const DgrScene& in, const gm::Camera& cam, int64_t i, const gm::Vec3<float>& mean) {
    if (in.colors) return load3(in.colors + 3 * i);
    return gm::clamp_at_zero(gm::sh_color(cam, mean, sh_loader(in, i)));
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

// Adds the number of lanes for which `holds` to a counter.
template <class T>
GM_DEVICE void count_lanes(bool holds, T* counter) {
    const int n = __popc(__ballot_sync(kAllLanes, holds));
    if (lane_of() == 0 && n) atomicAdd(counter, (T)n);
}

// keys [B,N]: the bits of z, which is positive, so that they sort as numbers; values [B,N]: the index into [B,N].
__global__ void __launch_bounds__(kThreads) project(const __grid_constant__ Scenes scenes, const Frame f,
                                                    const __grid_constant__ PerView<DgrImages> images, uint32_t* keys,
                                                    uint32_t* values) {
    __shared__ gm::Camera cam;
    const int v = blockIdx.y;
    const DgrScene& scene = scenes.at[v];
    load_camera(scene, cam);
    const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x, at = v * f.n + i;
    const bool exists = i < f.n;
    gm::Screen<float> s = {};
    Rect rect = {0, 0, 0, 0};
    if (exists) {
        const gm::Inputs<float> in = load_inputs(scene, i);
        const gm::Vec3<float> color = color_of(scene, cam, i, in.mean);
        s = gm::screen_of(cam, in, color);
        f.splats[at] = {s.form, s.opacity, color.x, color.y, color.z, s.z, {0, 0, 0}};
        const gm::TileRect r = gm::tile_rect(s.form.x, s.form.y, s.radius_px, f.tiles_x, f.tiles_y);
        if (s.visible && r.x1 > r.x0 && r.y1 > r.y0)
            rect = {(uint16_t)r.x0, (uint16_t)r.y0, (uint16_t)r.x1, (uint16_t)r.y1};
    }
    const uint32_t n_tiles = count_tiles(s.form, rect);
    count_lanes(s.dropped, &f.header->n_dropped);
    count_lanes(n_tiles > kSerialSlots, &f.header->n_wide);
    if (!exists) return;
    f.rects[at] = rect;
    f.tile_count[at] = n_tiles;
    images.at[v].radii[i] = rect.x1 == rect.x0 ? 0 : s.radius_px < 2e9f ? (int32_t)s.radius_px : 2000000000;
    keys[at] = n_tiles ? __float_as_uint(s.z) : kBehindAll;
    values[at] = (uint32_t)at;
}

__global__ void __launch_bounds__(kThreads) mark_visible(int64_t n, const float* means, const float* view,
                                                         uint8_t* visible) {
    const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x;
    if (i >= n) return;
    const float* p = means + 3 * i;
    visible[i] = view[2] * p[0] + view[6] * p[1] + view[10] * p[2] + view[14] > gm::kNearPlane;
}

// ---------------------------------------------------------------------------------------------- backward

struct SlotSum {
    gm::Moments<float> moments;
    bool any;
};

// Adds up the sums at begin, begin + stride, ... below end, in this order.
GM_DEVICE SlotSum sum_slots(const Partials& partials, uint32_t begin, uint32_t end, uint32_t stride) {
    SlotSum sum = {};
    for (uint32_t k = begin; k < end; k += stride) {
        if (!partials.any[k]) continue;
        const Partial p = partials.sums[k];
#pragma unroll
        for (int c = 0; c < gm::kMoments; ++c) (&sum.moments.w)[c] += (&p.moments.w)[c];
        sum.any = true;
    }
    return sum;
}

// One level of the tree that adds up the slots of wide Gaussians: of their sums, which are `stride` slots apart, every
// kSerialSlots neighbours become one, in the place of the first. Levels follow each other with stride 1, kSerialSlots, ...
// Which sums meet, and in which order, depends on nothing but the number of tiles: the bits are the same in every call.
__global__ void __launch_bounds__(kThreads) sum_wide(const Frame f, const Partials partials, uint32_t stride) {
    if (f.header->n_wide == 0 || f.header->one_list) return;
    const int64_t n = f.header->n_entries;
    const uint32_t step = stride * kSerialSlots;
    for (int64_t k = (int64_t)blockIdx.x * kThreads + threadIdx.x; k < n; k += (int64_t)gridDim.x * kThreads) {
        const uint32_t slot = (uint32_t)k, who = f.owner[slot], begin = f.slot_begin[who], n_tiles = f.tile_count[who];
        if (n_tiles <= step || (slot - begin) % step) continue;
        const uint32_t left = begin + n_tiles - slot;
        const SlotSum sum = sum_slots(partials, slot, slot + (left < step ? left : step), stride);
        partials.any[slot] = sum.any;
        if (sum.any) partials.sums[slot] = {sum.moments};
    }
}

// The sum of a Gaussian's slots, once sum_wide has left at most kSerialSlots of them.
GM_DEVICE SlotSum sum_of_gaussian(const Frame& f, const Partials& partials, int64_t at) {
    const uint32_t begin = f.slot_begin[at], n = f.header->one_list ? 1 : f.tile_count[at];
    uint32_t stride = 1;
    while (n > stride * kSerialSlots) stride *= kSerialSlots;
    return sum_slots(partials, begin, begin + n, stride);
}

GM_DEVICE void store_geometry(const DgrGradients& out, int64_t i, const gm::GeometryGradients<float>& g,
                              float grad_opacity) {
    store3(out.means + 3 * i, g.mean);
    store3(out.means2d + 3 * i, {g.ndc_x, g.ndc_y, 0.0f});
    out.opacities[i] = grad_opacity;
    if (out.cov3) {
        for (int k = 0; k < 6; ++k) out.cov3[6 * i + k] = g.cov3[k];
    } else {
        store3(out.scales + 3 * i, g.scale);
        for (int k = 0; k < 4; ++k) out.rotations[4 * i + k] = g.quat[k];
    }
}

__global__ void __launch_bounds__(kThreads) project_backward(const __grid_constant__ Scenes scenes, const Frame f,
                                                             const Partials partials,
                                                             const __grid_constant__ PerView<DgrGradients> gradients) {
    __shared__ gm::Camera cam;
    const int v = blockIdx.y;
    const DgrScene& scene = scenes.at[v];
    const DgrGradients& out = gradients.at[v];
    load_camera(scene, cam);
    const int64_t i = (int64_t)blockIdx.x * kThreads + threadIdx.x, at = v * f.n + i;
    if (i >= f.n) return;
    SlotSum sum = {};
    if (f.tile_count[at]) sum = sum_of_gaussian(f, partials, at);
    const StoreSh store_sh = {out.shs ? out.shs + 3 * scene.n_sh_coeffs * i : nullptr};
    if (out.shs)  // coefficients above the active degree, and all of a Gaussian that no pixel shows
        for (int k = sum.any ? gm::sh_coeffs(cam.sh_degree) : 0; k < scene.n_sh_coeffs; ++k) store_sh(k, {0, 0, 0});
    if (!sum.any) {
        store_geometry(out, i, {}, 0.0f);
        if (out.colors) store3(out.colors + 3 * i, {0, 0, 0});
        return;
    }
    const gm::Moments<float>& m = sum.moments;
    const gm::Inputs<float> in = load_inputs(scene, i);
    gm::GeometryGradients<float> g = {};
    gm::geometry_backward(cam, in, m, &g);
    const gm::Vec3<float> grad_color = {m.r, m.g, m.b};
    if (out.colors)
        store3(out.colors + 3 * i, grad_color);
    else
        g.mean = gm::plus(g.mean, gm::sh_color_backward(cam, in.mean, grad_color, sh_loader(scene, i), store_sh));
    if (scene.flags & DGR_DEPTH_Z_GRADIENT) g.mean = gm::combine(1.0f, g.mean, m.z, gm::view_row<float>(cam, 2));
    store_geometry(out, i, g, m.w / in.opacity);
}

}  // namespace dgr
