// SPDX-License-Identifier: Apache-2.0
// The C ABI of the CUDA backend: no torch, no allocation, no waiting. Python (diff_gaussian_rasterization/_cuda.py)
// mirrors these structs with ctypes; DGR_CUDA_ABI changes whenever one of them does.
//
// Every call renders B views of N Gaussians at once. The caller asks for the sizes of the buffers, allocates them and
// names device and stream. All pointers are device pointers unless said otherwise; arrays are contiguous, row-major.
#pragma once

#include "abi.h"

#pragma GCC visibility push(default)
extern "C" {

enum { DGR_CUDA_ABI = 1, DGR_MAX_VIEWS = 16 };
enum { DGR_CUDA_FAILED = 3 };  // beside the codes of abi.h

typedef struct {
    const float *viewmatrix, *projmatrix;  // [4,4] transposed
    const float *campos, *background;      // [3]
    float tan_fov_x, tan_fov_y, scale_modifier;
    int32_t sh_degree;
} DgrView;

// per_view: bit k is set when array k (means = 0, shs = 1, ...) has a leading dimension [B]; else all views share it.
typedef struct {
    int64_t n_gaussians;
    int64_t pair_capacity;  // (Gaussian, tile) pairs that fit into the buffers; at least B*N
    int32_t n_views, n_sh_coeffs, width_px, height_px, flags, per_view;
    const float *means;      // [N,3]
    const float *shs;        // [N,M,3] or null
    const float *colors;     // [N,3] or null
    const float *opacities;  // [N]
    const float *scales;     // [N,3] or null
    const float *rotations;  // [N,4] or null
    const float *cov3;       // [N,6] or null
    DgrView views[DGR_MAX_VIEWS];
} DgrBatch;

typedef struct {
    int64_t state;     // what the backward pass needs; begins with int64 n_pairs, n_dropped of the whole batch
    int64_t forward;   // free after the call, like `backward`
    int64_t backward;
} DgrBufferBytes;

typedef struct {
    float *color;          // [B,3,H,W]
    int32_t *radii;        // [B,N]
    float *depth_alpha;    // [B,2,H,W]
    int64_t *host_counts;  // pinned host memory, or null: n_pairs and n_dropped arrive here some time later
} DgrBatchImages;

int dgr_cuda_abi(void);
const char *dgr_cuda_archs(void);  // what the library was compiled for, as "75 80 90 90-ptx"
const char *dgr_cuda_last_error(void);
int dgr_cuda_probe(int device);    // 0 if the kernels run on that device
int dgr_cuda_buffer_bytes(const DgrBatch *batch, DgrBufferBytes *bytes);
int dgr_cuda_forward(const DgrBatch *batch, const DgrBatchImages *images, void *state, void *scratch, int device,
                     void *stream);
// Gradients of every view on its own: incoming [B,...], outgoing [B,N,...].
int dgr_cuda_backward(const DgrBatch *batch, const DgrGradients *gradients, void *state, void *scratch, int device,
                      void *stream);
int dgr_cuda_mark_visible(int64_t n, const float *means, const float *viewmatrix, uint8_t *visible, int device,
                          void *stream);
}
#pragma GCC visibility pop
