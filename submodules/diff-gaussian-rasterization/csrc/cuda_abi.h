// SPDX-License-Identifier: Apache-2.0
// The C ABI of the CUDA backend: no torch, no allocation, no waiting. Python (diff_gaussian_rasterization/_cuda.py)
// mirrors these structs with ctypes; DGR_CUDA_ABI changes whenever one of them does.
//
// Every call renders B views at once: views[v], an array on the host, is view v as the CPU backend takes it (abi.h). All
// views have one number of Gaussians, image size, flags and kind of inputs; arrays of several views may be the same. The
// caller asks for the sizes of the buffers, allocates them and names device and stream. Arrays lie on the device.
#pragma once

#include "abi.h"

#pragma GCC visibility push(default)
extern "C" {

enum { DGR_CUDA_ABI = 3, DGR_MAX_VIEWS = 16 };
enum { DGR_CUDA_FAILED = 3 };  // beside the codes of abi.h

typedef struct {
    int64_t pair_capacity;  // (Gaussian, tile) pairs that fit into the buffers; at least B*N
    int32_t n_views, device;
    const DgrScene *views;  // n_threads is not read
} DgrBatch;

typedef struct {
    int64_t state;     // what the backward pass needs; begins with int64 n_pairs, n_dropped of the whole batch
    int64_t forward;   // free after the call, like `backward`
    int64_t backward;
} DgrBufferBytes;

int dgr_cuda_abi(void);
const char *dgr_cuda_archs(void);  // what the library was compiled for, as "75 80 90 90-ptx"
const char *dgr_cuda_last_error(void);
int dgr_cuda_probe(int device);    // 0 if the kernels run on that device
int dgr_cuda_buffer_bytes(const DgrBatch *batch, DgrBufferBytes *bytes);
// images[v]: arrays only, the counts are not filled. host_counts: pinned host memory, or null: n_pairs and n_dropped
// arrive there some time later.
int dgr_cuda_forward(const DgrBatch *batch, const DgrImages *images, int64_t *host_counts, void *state, void *scratch,
                     void *stream);
int dgr_cuda_backward(const DgrBatch *batch, const DgrGradients *gradients, void *state, void *scratch, void *stream);
int dgr_cuda_mark_visible(int64_t n, const float *means, const float *viewmatrix, uint8_t *visible, int device,
                          void *stream);
}
#pragma GCC visibility pop
