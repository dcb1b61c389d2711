// SPDX-License-Identifier: Apache-2.0
// The CUDA entry points: kernels launched in order on the caller's stream, in the caller's buffers. Three calls without
// waiting or allocation: codes, then the caller sorts them, then the search. Each returns 0, or 1 with a message.
#include <cuda_runtime.h>

#include "cuda_neighbours.cuh"

#ifndef CUDA_LAUNCH  // tests/cuda_shim has its own, which runs the kernel on a CPU
#define CUDA_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#endif
#ifndef CUDA_ARCHS
#define CUDA_ARCHS "unknown"
#endif
#define EXPORT extern "C" __attribute__((visibility("default")))

using namespace knn;

namespace {

thread_local const char* last_error = "";

int checked(cudaError_t code) {
    if (code == cudaSuccess) return 0;
    last_error = cudaGetErrorString(code);
    return 1;
}

// The caller's device for the length of a call.
class DeviceGuard {
  public:
    explicit DeviceGuard(int device) {
        error = cudaGetDevice(&before_);
        if (error == cudaSuccess && before_ != device) error = cudaSetDevice(device);
    }
    ~DeviceGuard() { cudaSetDevice(before_); }
    cudaError_t error;

  private:
    int before_ = 0;
};

dim3 blocks_for(int64_t n) { return dim3((unsigned)((n + kThreads - 1) / kThreads)); }

int64_t aligned(int64_t bytes) { return (bytes + 255) / 256 * 256; }

}  // namespace

EXPORT const char* knn_cuda_archs(void) { return CUDA_ARCHS; }
EXPORT const char* knn_cuda_last_error(void) { return last_error; }

// 0 if the kernels run on that device.
EXPORT int knn_cuda_probe(int device) {
    const DeviceGuard guard(device);
    cudaFuncAttributes attributes;
    const cudaError_t code = guard.error ? guard.error : cudaFuncGetAttributes(&attributes, (const void*)search);
    cudaGetLastError();  // must not be reported to a later caller
    return checked(code);
}

// points [n,3], bounds [2,3] smallest and largest coordinates, codes [n].
EXPORT int knn_cuda_codes(int64_t n, const float* points, const float* bounds, int64_t* codes, int device,
                          void* stream) {
    const DeviceGuard guard(device);
    if (guard.error || n <= 0) return checked(guard.error);
    CUDA_LAUNCH(curve_codes, blocks_for(n), dim3(kThreads), (cudaStream_t)stream, n, points, bounds, codes);
    return checked(cudaGetLastError());
}

EXPORT int64_t knn_cuda_scratch_bytes(int64_t n) {
    const int64_t n_leaves = (n + kFan - 1) / kFan, n_groups = (n_leaves + kFan - 1) / kFan;
    return aligned(n * sizeof(Point)) + aligned(n_leaves * sizeof(Box)) + aligned(n_groups * sizeof(Box));
}

// order [n]: the indices of the points by ascending code; out [n].
EXPORT int knn_cuda_mean_squared_distances(int64_t n, const float* points, const int64_t* order, float* out,
                                           void* scratch, int device, void* stream) {
    const DeviceGuard guard(device);
    if (guard.error || n <= 0) return checked(guard.error);
    const cudaStream_t s = (cudaStream_t)stream;
    Tree t;
    t.n = n;
    t.n_leaves = (n + kFan - 1) / kFan;
    t.n_groups = (t.n_leaves + kFan - 1) / kFan;
    t.points = static_cast<Point*>(scratch);
    t.leaves = reinterpret_cast<Box*>((char*)scratch + aligned(n * sizeof(Point)));
    t.groups = reinterpret_cast<Box*>((char*)t.leaves + aligned(t.n_leaves * sizeof(Box)));
    CUDA_LAUNCH(build_leaves, blocks_for(n), dim3(kThreads), s, t, points, order);
    CUDA_LAUNCH(build_groups, blocks_for(t.n_leaves), dim3(kThreads), s, t);
    CUDA_LAUNCH(search, blocks_for(n), dim3(kThreads), s, t, out);
    return checked(cudaGetLastError());
}
