// SPDX-License-Identifier: Apache-2.0
// The C ABI of the rasterizer: plain structs and functions, no torch. The Python side mirrors these structs with ctypes
// (diff_gaussian_rasterization/_abi.py); kAbi changes whenever one of them does.
#pragma once

#include <stdint.h>

#pragma GCC visibility push(default)
extern "C" {

enum { DGR_ABI = 3 };
enum { DGR_OK = 0, DGR_TOO_LARGE = 1, DGR_OUT_OF_MEMORY = 2 };
enum { DGR_DEPTH_Z_GRADIENT = 1, DGR_ANTIALIASING = 2 };  // flags

// Inputs of one view. n_threads counts for all views of a call. All arrays are float32, contiguous, row-major; absent ones are null.
typedef struct {
    int64_t n_gaussians;
    int32_t n_sh_coeffs, sh_degree;
    int32_t width_px, height_px;
    float tan_fov_x, tan_fov_y, scale_modifier;
    int32_t n_threads, flags;
    const float *means;       // [N,3]
    const float *shs;         // [N,M,3] or null
    const float *colors;      // [N,3] or null
    const float *opacities;   // [N]
    const float *scales;      // [N,3] or null
    const float *rotations;   // [N,4] or null
    const float *cov3;        // [N,6] or null
    const float *viewmatrix;  // [4,4] transposed
    const float *projmatrix;  // [4,4] transposed
    const float *campos;      // [3]
    const float *background;  // [3]
} DgrScene;

typedef struct {
    float *color;        // [3,H,W]
    int32_t *radii;      // [N]
    float *depth_alpha;  // [2,H,W]
    int64_t n_dropped;   // Gaussians with a non-finite position, shape, opacity or colour
    int64_t n_pairs;     // (Gaussian, tile) pairs
    int64_t state_bytes;
} DgrImages;

// Gradients coming in (null means zero) and going out; outgoing arrays have the shape of their input.
typedef struct {
    const float *color, *depth_alpha;
    float *means, *means2d, *shs, *colors, *opacities, *scales, *rotations, *cov3;
} DgrGradients;

int dgr_abi(void);
const char *dgr_isa(void);            // instruction set of the loops in use: "x86-64-v4", "x86-64-v3" or "base"
int dgr_force_isa(const char *name);  // for tests; 0 if this machine can run it
const char *dgr_last_error(void);     // of the calling thread

// Renders n_views scenes, side by side where there are threads, and keeps in states[v] what the backward pass of view v
// needs; the caller releases it. On failure all states are null.
int dgr_cpu_forward(int n_views, const DgrScene *scenes, DgrImages *images, void **states);
int dgr_cpu_backward(int n_views, const DgrScene *scenes, void **states, const DgrGradients *gradients);
void dgr_cpu_release(void *state);
void dgr_cpu_mark_visible(int64_t n, const float *means, const float *viewmatrix, uint8_t *visible);
}
#pragma GCC visibility pop
