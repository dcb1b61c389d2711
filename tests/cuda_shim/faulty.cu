// SPDX-License-Identifier: Apache-2.0
// Kernels with the faults that the shim must find.
#include <cuda_runtime.h>

__global__ void half_the_threads(int*) {
    if (threadIdx.x < 32) __syncthreads();
}

__global__ void two_places(int*) {
    if (threadIdx.x < 32)
        __syncthreads();
    else
        __syncthreads();
}

__global__ void half_a_warp(int* out) {
    if (threadIdx.x % 32 < 16) out[threadIdx.x] = __shfl_sync(~0u, 1, 0);
}

// Reads shared memory that nobody wrote.
__global__ void uninitialised(int* out) {
    __shared__ int values[64];
    out[threadIdx.x] = values[threadIdx.x];
}

// Right with its barrier; without it, most threads are too early in some order.
__global__ void reverse(int* out) {
    __shared__ int values[64];
    values[threadIdx.x] = (int)threadIdx.x;
    __syncthreads();
    out[threadIdx.x] = values[63 - threadIdx.x];
}

// Right with its barrier; without it, the neighbour in the warp is too early in some order.
__global__ void reverse_in_warp(int* out) {
    __shared__ int values[64];
    values[threadIdx.x] = (int)threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = values[threadIdx.x ^ 31];
}

// Runs one kernel on 64 threads; returns the message of the failure, or "".
extern "C" __attribute__((visibility("default"))) const char* run(const char* name, int* out) {
    const struct {
        const char* name;
        void (*kernel)(int*);
    } kernels[] = {{"half_the_threads", half_the_threads}, {"two_places", two_places}, {"half_a_warp", half_a_warp},
                   {"uninitialised", uninitialised}, {"reverse", reverse}, {"reverse_in_warp", reverse_in_warp}};
    for (const auto& k : kernels)
        if (!strcmp(k.name, name)) CUDA_LAUNCH(k.kernel, dim3(1), dim3(64), nullptr, out);
    const cudaError_t code = cudaGetLastError();
    return code == cudaSuccess ? "" : cudaGetErrorString(code);
}
