// SPDX-License-Identifier: Apache-2.0
// A vector of 16 floats for the CPU backend, in the compiler's own vector extension.
//
// One 4x4 block of pixels, or 16 Gaussians, is one value. The compiler turns it into one AVX-512 register, two AVX2 or
// four SSE/NEON registers by the flags of the translation unit; every operation is IEEE single precision and nothing
// is contracted, so the results are the same on all of them.
#pragma once

#include <stdint.h>
#include <string.h>

#include "gaussian_math.h"

#if defined(__AVX2__) || defined(__SSE2__)
#include <immintrin.h>
#endif

namespace simd {

constexpr int kLanes = 16;

typedef float vf __attribute__((vector_size(64)));
typedef int32_t vi __attribute__((vector_size(64)));
typedef float vf8 __attribute__((vector_size(32)));
typedef float vf4 __attribute__((vector_size(16)));
typedef int32_t vi4 __attribute__((vector_size(16)));

GM_FUNC vf splat(float a) { return vf{} + a; }
GM_FUNC vi splat(int32_t a) { return vi{} + a; }

GM_FUNC vi bits_of(vf a) {
    vi r;
    memcpy(&r, &a, sizeof r);
    return r;
}

GM_FUNC vf float_of(vi a) {
    vf r;
    memcpy(&r, &a, sizeof r);
    return r;
}

// One bit per lane from a comparison result (0 or -1 per lane).
GM_FUNC unsigned lane_bits(vi mask) {
#if defined(__AVX512DQ__)
    return _mm512_movepi32_mask((__m512i)mask);
#elif defined(__AVX2__)
    __m256 h[2];
    memcpy(h, &mask, sizeof h);
    return (unsigned)_mm256_movemask_ps(h[0]) | (unsigned)_mm256_movemask_ps(h[1]) << 8;
#elif defined(__SSE2__)
    __m128 h[4];
    memcpy(h, &mask, sizeof h);
    return (unsigned)_mm_movemask_ps(h[0]) | (unsigned)_mm_movemask_ps(h[1]) << 4 |
           (unsigned)_mm_movemask_ps(h[2]) << 8 | (unsigned)_mm_movemask_ps(h[3]) << 12;
#else
    unsigned r = 0;
    for (int l = 0; l < kLanes; ++l) r |= (unsigned)(mask[l] & 1) << l;
    return r;
#endif
}

// One bit per lane where a < b.
GM_FUNC unsigned bits_less(vf a, vf b) {
#if defined(__AVX512F__)
    return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ);
#else
    return lane_bits(a < b);
#endif
}

// a < b ? a : b and a > b ? a : b, which is what x86's min and max compute; the compiler does not see it by itself.
GM_FUNC vf vmin(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_min_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    __m256 p[2], q[2];
    memcpy(p, &a, sizeof p);
    memcpy(q, &b, sizeof q);
    for (int i = 0; i < 2; ++i) p[i] = _mm256_min_ps(p[i], q[i]);
    memcpy(&a, p, sizeof p);
    return a;
#else
    return a < b ? a : b;
#endif
}

GM_FUNC vf vmax(vf a, vf b) {
#if defined(__AVX512F__)
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    __m256 p[2], q[2];
    memcpy(p, &a, sizeof p);
    memcpy(q, &b, sizeof q);
    for (int i = 0; i < 2; ++i) p[i] = _mm256_max_ps(p[i], q[i]);
    memcpy(&a, p, sizeof p);
    return a;
#else
    return a > b ? a : b;
#endif
}

GM_FUNC vf vsqrt(vf a) {
    vf r;
    for (int l = 0; l < kLanes; ++l) r[l] = __builtin_sqrtf(a[l]);
    return r;
}

GM_FUNC vf vceil(vf a) {
    vf r;
    for (int l = 0; l < kLanes; ++l) r[l] = __builtin_ceilf(a[l]);
    return r;
}

// 2^x for x in [-120, 0]; relative error below 2e-7. Degree-5 minimax polynomial on [-1/2, 1/2]: the nearest
// integer comes from adding 1.5 * 2^23, whose low bits then hold it ready to be moved into the exponent.
GM_FUNC vf exp2_nonpositive(vf x) {
    const float magic = 12582912.0f;
    const vf shifted = x + magic;
    const vf f = x - (shifted - magic);
    const vf f2 = f * f;  // Estrin's grouping: a shorter chain than Horner's
    const vf low = 1.0f + 6.93147e-1f * f, middle = 2.4022242e-1f + 5.5507336e-2f * f;
    const vf high = 9.671513e-3f + 1.3264727e-3f * f;
    const vf p = low + f2 * (middle + f2 * high);
    return float_of(bits_of(p) + (bits_of(shifted) << 23));
}

GM_FUNC vf4 fold_to_4(vf a) {
    vf8 h[2];
    memcpy(h, &a, sizeof h);
    const vf8 s = h[0] + h[1];
    vf4 q[2];
    memcpy(q, &s, sizeof q);
    return q[0] + q[1];
}

// Horizontal sums of four vectors at once, in one fixed order.
GM_FUNC vf4 sum_lanes(vf a, vf b, vf c, vf d) {
    const vf4 fa = fold_to_4(a), fb = fold_to_4(b), fc = fold_to_4(c), fd = fold_to_4(d);
    const vf4 ab = __builtin_shuffle(fa, fb, vi4{0, 4, 1, 5}) + __builtin_shuffle(fa, fb, vi4{2, 6, 3, 7});
    const vf4 cd = __builtin_shuffle(fc, fd, vi4{0, 4, 1, 5}) + __builtin_shuffle(fc, fd, vi4{2, 6, 3, 7});
    return __builtin_shuffle(ab, cd, vi4{0, 1, 4, 5}) + __builtin_shuffle(ab, cd, vi4{2, 3, 6, 7});
}

}  // namespace simd

namespace gm {

template <>
struct Ops<simd::vf> {
    GM_FUNC simd::vf select(simd::vi condition, simd::vf a, simd::vf b) { return condition ? a : b; }
    GM_FUNC simd::vf min(simd::vf a, simd::vf b) { return simd::vmin(a, b); }
    GM_FUNC simd::vf max(simd::vf a, simd::vf b) { return simd::vmax(a, b); }
    GM_FUNC simd::vf sqrt(simd::vf a) { return simd::vsqrt(a); }
    GM_FUNC simd::vf ceil(simd::vf a) { return simd::vceil(a); }
};

}  // namespace gm
