// SPDX-License-Identifier: Apache-2.0
// The CPU entry points of the C ABI: stages in order, threads, a pool of frames, errors as codes.
#include <string.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels.h"
#include "workers.h"

namespace dgr {
namespace {

// About half a millisecond of work: a thread that must first be woken on a busy machine costs more than less than that.
constexpr int64_t kGaussiansPerThread = 16384, kPairsPerThread = 8192;
constexpr int64_t kGaussiansPerChunk = 512, kTilesPerChunk = 4;
constexpr size_t kPooledFrames = 4, kPooledScratches = 2;

thread_local std::string last_error;

// ---------------------------------------------------------------------------------------------- instruction sets

template <void (*project)(KernelTable*), void (*blend)(KernelTable*)>
KernelTable table_of(const char* isa) {
    KernelTable t = {};
    t.isa = isa;
    project(&t);
    blend(&t);
    return t;
}

// The tables that this machine can run, best first.
const std::vector<KernelTable>& tables() {
    static const std::vector<KernelTable> all = [] {
        std::vector<KernelTable> v;
#ifdef DGR_X86_LEVELS
        __builtin_cpu_init();
        const bool has_v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                            __builtin_cpu_supports("bmi2");
        const bool has_v4 = has_v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                            __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
                            __builtin_cpu_supports("avx512cd");
        if (has_v4) v.push_back(table_of<v4::add_project_kernels, v4::add_blend_kernels>("x86-64-v4"));
        if (has_v3) v.push_back(table_of<v3::add_project_kernels, v3::add_blend_kernels>("x86-64-v3"));
#endif
        v.push_back(table_of<base::add_project_kernels, base::add_blend_kernels>("base"));
        return v;
    }();
    return all;
}

const KernelTable*& current_table() {
    static const KernelTable* t = &tables().front();
    return t;
}

// ---------------------------------------------------------------------------------------------- frames

// Frames and scratch are reused: fresh memory of this size costs more in page faults than the arithmetic on it.
template <class T>
class Pool {
  public:
    explicit Pool(size_t limit) : limit_(limit) {}
    std::unique_ptr<T> take() {
        std::lock_guard<std::mutex> guard(lock_);
        if (idle_.empty()) return std::make_unique<T>();
        std::unique_ptr<T> item = std::move(idle_.back());
        idle_.pop_back();
        return item;
    }
    void give(std::unique_ptr<T> item) {
        std::lock_guard<std::mutex> guard(lock_);
        if (idle_.size() < limit_) idle_.push_back(std::move(item));
    }

  private:
    size_t limit_;
    std::mutex lock_;
    std::vector<std::unique_ptr<T>> idle_;
};

// Never destroyed: a state may be given back while the process is shutting down.
Pool<Frame>& frames = *new Pool<Frame>(kPooledFrames);
Pool<Scratch>& scratches = *new Pool<Scratch>(kPooledScratches);

// Threads worth starting for this much work.
int threads_for(int64_t work, int64_t per_thread, int wanted) {
    const int64_t n = work / per_thread;
    return n < 1 ? 1 : n < wanted ? (int)n : wanted < 1 ? 1 : wanted;
}

void start_frame(Frame& f, const DgrScene& in) {
    gm::Camera& c = f.cam;
    memcpy(c.view, in.viewmatrix, sizeof c.view);
    memcpy(c.proj, in.projmatrix, sizeof c.proj);
    memcpy(c.position, in.campos, sizeof c.position);
    memcpy(f.background, in.background, sizeof f.background);
    c.tan_fov_x = in.tan_fov_x;
    c.tan_fov_y = in.tan_fov_y;
    c.width_px = in.width_px;
    c.height_px = in.height_px;
    c.focal_x_px = (float)in.width_px / (2.0f * in.tan_fov_x);
    c.focal_y_px = (float)in.height_px / (2.0f * in.tan_fov_y);
    c.scale_modifier = in.scale_modifier;
    c.sh_degree = in.sh_degree;
    c.antialiasing = in.flags & DGR_ANTIALIASING;
    f.n = in.n_gaussians;
    f.tiles_x = (in.width_px + gm::kTile_px - 1) / gm::kTile_px;
    f.tiles_y = (in.height_px + gm::kTile_px - 1) / gm::kTile_px;
    if (f.tiles_x > 0xffff || f.tiles_y > 0xffff || (int64_t)f.tiles_x * f.tiles_y > (1 << 24))
        throw std::length_error("image of more than 2^24 tiles");
    const size_t n_pixels = (size_t)f.tiles_x * f.tiles_y * gm::kTile_px * gm::kTile_px;
    f.splats.resize((size_t)f.n);
    f.spans.resize((size_t)f.n);
    f.final_t.resize(n_pixels);
    f.stop.resize(n_pixels);
}

// fn(begin, end) over chunks of Gaussians.
template <class Fn>
void for_gaussians(int64_t n, int n_threads, Fn fn) {
    const int64_t n_chunks = (n + kGaussiansPerChunk - 1) / kGaussiansPerChunk;
    run_chunks(n_chunks, threads_for(n, kGaussiansPerThread, n_threads), [&](int64_t c) {
        const int64_t begin = c * kGaussiansPerChunk, end = begin + kGaussiansPerChunk;
        fn(begin, end < n ? end : n);
    });
}

// fn(tile) over all tiles.
template <class Fn>
void for_tiles(const Frame& f, int n_threads, Fn fn) {
    const int64_t n_tiles = (int64_t)f.tiles_x * f.tiles_y;
    const int64_t n_chunks = (n_tiles + kTilesPerChunk - 1) / kTilesPerChunk;
    run_chunks(n_chunks, threads_for(f.n_pairs, kPairsPerThread, n_threads), [&](int64_t c) {
        for (int64_t t = c * kTilesPerChunk; t < n_tiles && t < (c + 1) * kTilesPerChunk; ++t) fn((int)t);
    });
}

void forward(const DgrScene& in, DgrImages& out, Frame& f, Scratch& scratch) {
    const KernelTable& k = *current_table();
    start_frame(f, in);
    std::atomic<int64_t> dropped{0};
    for_gaussians(f.n, in.n_threads, [&](int64_t begin, int64_t end) {
        dropped += k.project(in, f, out.radii, begin, end);
    });
    out.n_dropped = dropped;
    bin_gaussians(f, scratch, k, in.n_threads);
    for_tiles(f, in.n_threads, [&](int t) { k.blend(f, t, out.color, out.depth_alpha); });
    out.n_pairs = f.n_pairs;
    out.state_bytes = f.bytes();
}

void backward(const DgrScene& in, const Frame& f, const DgrGradients& g, Scratch& scratch) {
    const KernelTable& k = *current_table();
    scratch.partials.resize(f.n_pairs);
    scratch.any_partial.resize(f.n_pairs);
    const Partials partials = {scratch.partials.data(), scratch.any_partial.data()};
    const auto blend = k.blend_backward[(in.flags & DGR_DEPTH_Z_GRADIENT) ? 1 : 0];
    for_tiles(f, in.n_threads, [&](int t) { blend(f, t, g.color, g.depth_alpha, partials); });
    for_gaussians(f.n, in.n_threads, [&](int64_t begin, int64_t end) {
        k.project_backward(in, f, partials, g, begin, end);
    });
}

// Runs fn(view, scratch) for every view, views side by side, and turns what was thrown into a code and a message. A view
// may start threads of its own, which find work there when no view is left.
template <class Fn>
int for_views(int n_views, int n_threads, Fn fn) {
    std::mutex lock;
    int code = DGR_OK;
    std::string failure;
    const auto fail = [&](int why, const char* message) {
        std::lock_guard<std::mutex> guard(lock);
        code = why;
        failure = message;
    };
    run_chunks(n_views, n_threads, [&](int64_t v) {
        try {
            std::unique_ptr<Scratch> scratch = scratches.take();
            fn(v, *scratch);
            scratches.give(std::move(scratch));
        } catch (const std::length_error& e) {
            fail(DGR_TOO_LARGE, e.what());
        } catch (const std::bad_alloc&) {
            fail(DGR_OUT_OF_MEMORY, "out of memory");
        }
    });
    if (code) last_error = failure;
    return code;
}

}  // namespace
}  // namespace dgr

using namespace dgr;

extern "C" {

int dgr_abi(void) { return DGR_ABI; }
const char* dgr_isa(void) { return current_table()->isa; }
const char* dgr_last_error(void) { return last_error.c_str(); }

int dgr_force_isa(const char* name) {
    for (const KernelTable& t : tables()) {
        if (strcmp(t.isa, name)) continue;
        current_table() = &t;
        return 0;
    }
    return 1;
}

int dgr_cpu_forward(int n_views, const DgrScene* scenes, DgrImages* images, void** states) {
    for (int v = 0; v < n_views; ++v) states[v] = nullptr;
    const int code = for_views(n_views, scenes->n_threads, [&](int64_t v, Scratch& scratch) {
        std::unique_ptr<Frame> f = frames.take();
        forward(scenes[v], images[v], *f, scratch);
        states[v] = f.release();
    });
    if (!code) return code;
    for (int v = 0; v < n_views; ++v) {
        if (states[v]) dgr_cpu_release(states[v]);
        states[v] = nullptr;
    }
    return code;
}

int dgr_cpu_backward(int n_views, const DgrScene* scenes, void** states, const DgrGradients* gradients) {
    return for_views(n_views, scenes->n_threads, [&](int64_t v, Scratch& scratch) {
        backward(scenes[v], *static_cast<const Frame*>(states[v]), gradients[v], scratch);
    });
}

void dgr_cpu_release(void* state) { frames.give(std::unique_ptr<Frame>(static_cast<Frame*>(state))); }

void dgr_cpu_mark_visible(int64_t n, const float* means, const float* view, uint8_t* visible) {
    for (int64_t i = 0; i < n; ++i) {
        const float* p = means + 3 * i;
        visible[i] = view[2] * p[0] + view[6] * p[1] + view[10] * p[2] + view[14] > gm::kNearPlane;
    }
}
}
