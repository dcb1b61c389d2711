// SPDX-License-Identifier: Apache-2.0
// Stands in for cub's header where a CPU executes the kernels: the one sort that the rasterizer calls, stable and by the
// same bits, like cub's; its scratch memory is used to its last byte, so that one cut too small is noticed.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <numeric>

#include "cuda_runtime.h"

namespace cub {

struct DeviceRadixSort {
    static cudaError_t SortPairs(void* scratch, size_t& bytes, const uint32_t* keys, uint32_t* sorted_keys,
                                 const uint32_t* values, uint32_t* sorted_values, int n, int first_bit, int end_bit,
                                 cudaStream_t = nullptr) {
        const size_t needed = sizeof(uint32_t) * (size_t)n + 1;
        if (!scratch) return bytes = needed, cudaSuccess;
        if (bytes < needed) return cudaErrorInvalidValue;
        static_cast<char*>(scratch)[needed - 1] = 0;
        uint32_t* order = static_cast<uint32_t*>(scratch);
        std::iota(order, order + n, 0u);
        const uint64_t mask = (1ull << end_bit) - 1;
        std::stable_sort(order, order + n, [&](uint32_t a, uint32_t b) {
            return (keys[a] & mask) >> first_bit < (keys[b] & mask) >> first_bit;
        });
        for (int k = 0; k < n; ++k) sorted_keys[k] = keys[order[k]], sorted_values[k] = values[order[k]];
        return cudaSuccess;
    }
};

}  // namespace cub
