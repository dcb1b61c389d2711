// SPDX-License-Identifier: Apache-2.0
// Stands in for CUDA's header, so that g++ compiles the .cu files of this project and a CPU executes their kernels.
//
// Each CUDA thread of a block is a fiber with a stack of its own (cuda_shim.cpp). A fiber runs until it waits for its
// warp or its block; the order of blocks, warps and lanes can be shuffled. Shared memory is poisoned at the start of
// every block. Only what the kernels use exists: full warp masks, blocks of whole warps, one thing at a time.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static __attribute__((section("cuda_shared")))

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace cuda_shim {

// Where in the source a thread waits. As a default argument it is the place of the call.
struct Site {
    const char* file;
    int line;
    bool operator==(const Site& o) const { return line == o.line && (file == o.file || !strcmp(file, o.file)); }
    bool operator!=(const Site& o) const { return !(*this == o); }
};
#define CUDA_SHIM_HERE {__builtin_FILE(), __builtin_LINE()}

extern dim3 thread_index, block_index, block_size, grid_size;  // of the running fiber

void launch(dim3 grid, dim3 block, const std::function<void()>& kernel);
int wait_for_block(bool predicate, bool counts, Site site);  // returns in how many threads the predicate held
const uint64_t* wait_for_warp(unsigned mask, uint64_t value, bool orders_memory, Site site);  // all lanes' values
int lane();

template <class T>
uint64_t to_bits(T value) {
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof value);
    return bits;
}
template <class T>
T from_bits(uint64_t bits) {
    T value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace cuda_shim

#define threadIdx cuda_shim::thread_index
#define blockIdx cuda_shim::block_index
#define blockDim cuda_shim::block_size
#define gridDim cuda_shim::grid_size

#define CUDA_LAUNCH(kernel, grid, block, stream, ...) \
    ((void)(stream), cuda_shim::launch(grid, block, [=] { kernel(__VA_ARGS__); }))

// ---------------------------------------------------------------------------------------------- device functions

inline void __syncthreads(cuda_shim::Site site = CUDA_SHIM_HERE) { cuda_shim::wait_for_block(false, false, site); }
inline int __syncthreads_count(int predicate, cuda_shim::Site site = CUDA_SHIM_HERE) {
    return cuda_shim::wait_for_block(predicate, true, site);
}
inline int __syncthreads_or(int predicate, cuda_shim::Site site = CUDA_SHIM_HERE) {
    return cuda_shim::wait_for_block(predicate, true, site) > 0;
}
inline void __syncwarp(cuda_shim::Site site = CUDA_SHIM_HERE) { cuda_shim::wait_for_warp(~0u, 0, true, site); }

template <class T>
T __shfl_sync(unsigned mask, T value, int from, cuda_shim::Site site = CUDA_SHIM_HERE) {
    return cuda_shim::from_bits<T>(cuda_shim::wait_for_warp(mask, cuda_shim::to_bits(value), false, site)[from & 31]);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, int by, cuda_shim::Site site = CUDA_SHIM_HERE) {
    const int from = cuda_shim::lane() - by;
    return __shfl_sync(mask, value, from < 0 ? cuda_shim::lane() : from, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, cuda_shim::Site site = CUDA_SHIM_HERE) {
    return __shfl_sync(mask, value, cuda_shim::lane() ^ bits, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, cuda_shim::Site site = CUDA_SHIM_HERE) {
    const uint64_t* all = cuda_shim::wait_for_warp(mask, predicate != 0, false, site);
    unsigned bits = 0;
    for (int l = 0; l < 32; ++l) bits |= (unsigned)all[l] << l;
    return bits;
}
inline int __all_sync(unsigned mask, int predicate, cuda_shim::Site site = CUDA_SHIM_HERE) {
    return __ballot_sync(mask, predicate, site) == ~0u;
}
inline int __any_sync(unsigned mask, int predicate, cuda_shim::Site site = CUDA_SHIM_HERE) {
    return __ballot_sync(mask, predicate, site) != 0;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs((int)x); }
inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
inline unsigned __float_as_uint(float x) { return (unsigned)cuda_shim::to_bits(x); }

template <class T>
T atomicAdd(T* at, T value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}
inline float atomicAdd(float* at, float value) {
    uint32_t *bits = reinterpret_cast<uint32_t*>(at), old = __atomic_load_n(bits, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(bits, &old, __float_as_uint(cuda_shim::from_bits<float>(old) + value), false,
                                        __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return cuda_shim::from_bits<float>(old);
}

// ---------------------------------------------------------------------------------------------- host functions

typedef int cudaError_t;
typedef void* cudaStream_t;
struct cudaFuncAttributes {};
enum { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorLaunchFailure = 719 };
enum cudaMemcpyKind { cudaMemcpyDeviceToHost = 2 };

cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t code);

inline cudaError_t cudaGetDevice(int* device) { return *device = 0; }
inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) { return cudaSuccess; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
    memset(to, value, bytes);
    return cudaSuccess;
}
inline cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
    memcpy(to, from, bytes);
    return cudaSuccess;
}
