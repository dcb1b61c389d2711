// SPDX-License-Identifier: Apache-2.0
// Runs every kernel of the rasterizer on a small random scene, for ThreadSanitizer (tsan.py).
//
// Arguments: the barrier to leave out ("file:line", or ""), the order of execution, and whether the pairs fit.
// Prints the barriers that were passed.
#include <stdio.h>
#include <stdlib.h>

#include <algorithm>
#include <random>
#include <vector>

#include "cuda_abi.h"

extern "C" {
void cuda_shim_shuffle(uint64_t seed);
void cuda_shim_skip(const char* site);
const char* cuda_shim_barriers();
}

namespace {

constexpr int kGaussians = 300, kViews = 2, kWidth_px = 24, kHeight_px = 18, kCoeffs = 4;
constexpr int kPixels = kWidth_px * kHeight_px;
typedef std::vector<float> Floats;

std::mt19937 random_bits(1);

Floats uniform(int n, float low, float high) {
    std::uniform_real_distribution<float> draw(low, high);
    Floats values(n);
    for (float& v : values) v = draw(random_bits);
    return values;
}

void expect_ok(int code) {
    if (!code) return;
    fprintf(stderr, "%s\n", dgr_cuda_last_error());
    exit(3);
}

void render(bool pairs_fit) {
    const int n = kGaussians;
    // Three units in front of a camera that looks along z.
    const float view[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 3, 1}, proj[16] = {3, 0, 0, 0, 0, 3, 0, 0, 0, 0, 1, 1, 0, 0, 3, 3};
    const float position[3] = {0, 0, -3}, background[3] = {0.2f, 0.4f, 0.6f};
    const Floats means = uniform(3 * n, -0.6f, 0.6f), shs = uniform(3 * kCoeffs * n, -0.5f, 0.5f);
    const Floats opacities = uniform(n, 0.05f, 0.9f), scales = uniform(3 * n, 0.02f, 0.2f);
    const Floats rotations = uniform(4 * n, -1, 1);
    DgrScene in = {};
    in.n_gaussians = n;
    in.n_sh_coeffs = kCoeffs;
    in.sh_degree = 1;
    in.width_px = kWidth_px;
    in.height_px = kHeight_px;
    in.tan_fov_x = in.tan_fov_y = 0.33f;
    in.means = means.data();
    in.shs = shs.data();
    in.opacities = opacities.data();
    in.scales = scales.data();
    in.rotations = rotations.data();
    in.viewmatrix = view;
    in.projmatrix = proj;
    in.campos = position;
    in.background = background;
    DgrScene views[kViews];
    for (int v = 0; v < kViews; ++v) views[v] = in, views[v].scale_modifier = 1.0f - 0.3f * v;
    const DgrBatch b = {(pairs_fit ? 8 : 1) * n * kViews, kViews, 0, views};
    DgrBufferBytes bytes;
    expect_ok(dgr_cuda_buffer_bytes(&b, &bytes));
    std::vector<char> state(bytes.state), scratch(std::max(bytes.forward, bytes.backward));
    Floats color(kViews * 3 * kPixels), depth_alpha(kViews * 2 * kPixels);
    std::vector<int32_t> radii(kViews * n);
    DgrImages images[kViews] = {};
    for (int v = 0; v < kViews; ++v) {
        images[v].color = &color[v * 3 * kPixels];
        images[v].depth_alpha = &depth_alpha[v * 2 * kPixels];
        images[v].radii = &radii[v * n];
    }
    expect_ok(dgr_cuda_forward(&b, images, nullptr, state.data(), scratch.data(), nullptr));
    const Floats grad_color = uniform(3 * kPixels, -1, 1), grad_depth = uniform(2 * kPixels, -1, 1);
    Floats out[kViews][6];
    const int sizes[6] = {3, 3, 3 * kCoeffs, 1, 3, 4};
    DgrGradients g[kViews] = {};
    for (int v = 0; v < kViews; ++v) {
        for (int k = 0; k < 6; ++k) out[v][k].resize(n * sizes[k]);
        g[v] = {grad_color.data(), grad_depth.data(), out[v][0].data(), out[v][1].data(), out[v][2].data(), nullptr,
                out[v][3].data(), out[v][4].data(), out[v][5].data(), nullptr};
    }
    expect_ok(dgr_cuda_backward(&b, g, state.data(), scratch.data(), nullptr));
    std::vector<uint8_t> visible(n);
    expect_ok(dgr_cuda_mark_visible(n, means.data(), view, visible.data(), 0, nullptr));
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 4) return 2;
    cuda_shim_skip(argv[1]);
    cuda_shim_shuffle(strtoull(argv[2], nullptr, 10));
    render(argv[3][0] == '1');
    fputs(cuda_shim_barriers(), stdout);
    return 0;
}
