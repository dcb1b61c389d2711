// SPDX-License-Identifier: Apache-2.0
// The sums over a Gaussian's slots (cuda_project.cuh) on their own, for numbers of tiles that no test image has.
#include <cuda_runtime.h>

#include <vector>

#include "../../submodules/diff-gaussian-rasterization/csrc/cuda_project.cuh"

using namespace dgr;

__global__ void sum_all(const Frame f, const Partials partials, int n, float* out, uint8_t* any) {
    for (int i = threadIdx.x; i < n; i += kThreads) {
        const SlotSum sum = sum_of_gaussian(f, partials, i);
        any[i] = sum.any;
        memcpy(out + i * gm::kMoments, &sum.moments, sizeof sum.moments);
    }
}

// n Gaussians of n_tiles[i] tiles each; sums [slots,10] and any [slots] by slot, which are overwritten; out [n,10].
extern "C" __attribute__((visibility("default"))) void sum_slots_of(int n, uint32_t* n_tiles, float* sums, uint8_t* any,
                                                                    float* out, uint8_t* any_out) {
    std::vector<uint32_t> begin(n), owner;
    Header header = {};
    int64_t most = 0;
    for (int i = 0; i < n; ++i) {
        begin[i] = (uint32_t)owner.size();
        owner.insert(owner.end(), n_tiles[i], (uint32_t)i);
        header.n_wide += n_tiles[i] > kSerialSlots;
        if (n_tiles[i] > most) most = n_tiles[i];
    }
    header.n_entries = (uint32_t)owner.size();
    Frame f = {};
    f.n = n;
    f.header = &header;
    f.tile_count = n_tiles;
    f.slot_begin = begin.data();
    f.owner = owner.data();
    const Partials partials = {reinterpret_cast<Partial*>(sums), any};
    for (int64_t stride = 1; most > stride * kSerialSlots; stride *= kSerialSlots)
        CUDA_LAUNCH(sum_wide, dim3(4), dim3(kThreads), nullptr, f, partials, (uint32_t)stride);
    CUDA_LAUNCH(sum_all, dim3(1), dim3(kThreads), nullptr, f, partials, n, out, any_out);
}
