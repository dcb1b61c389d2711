// SPDX-License-Identifier: Apache-2.0
// A vector of 16 floats for the CPU backend, in the compiler's own vector extension.
//
// One 4x4 block of pixels, or 16 Gaussians, is one value: one register of 16 lanes (AVX-512), a pair of 8 (AVX) or a
// pair of pairs of 4 (SSE, NEON), by the flags of the translation unit. The compiler's vectors are only used at sizes
// that the machine has; it takes wider ones apart lane by lane. The loops over pixels go register by register instead
// (vr, kParts to a block): pairs would live in memory there. Every operation is IEEE single precision and the compiler
// contracts nothing; where a product and a sum are to be rounded once, fma() says so, on every instruction set. So the
// results are the same on all of them.
#pragma once

#include <stdint.h>
#include <string.h>

#include <type_traits>

#include "gaussian_math.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace simd {

constexpr int kLanes = 16;

typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x4 __attribute__((vector_size(16)));
typedef float f32x8 __attribute__((vector_size(32)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef float f32x16 __attribute__((vector_size(64)));
typedef int32_t i32x16 __attribute__((vector_size(64)));

template <class H>
struct Pair {
    H lo, hi;
};

#if defined(__AVX512F__) && defined(__AVX512DQ__)
typedef f32x16 vf, vr;
typedef i32x16 vi, vri;
#elif defined(__AVX2__)
typedef Pair<f32x8> vf;
typedef Pair<i32x8> vi;
typedef f32x8 vr;
typedef i32x8 vri;
#else
typedef Pair<Pair<f32x4>> vf;
typedef Pair<Pair<i32x4>> vi;
typedef f32x4 vr;
typedef i32x4 vri;
#endif

constexpr int kWidth = sizeof(vr) / sizeof(float);  // lanes of one register
constexpr int kParts = kLanes / kWidth;

// ---------------------------------------------------------------------------------------------- pairs

#define SIMD_OPERATOR(op)                                                                     \
    template <class H>                                                                        \
    GM_FUNC auto operator op(const Pair<H>& a, const Pair<H>& b)->Pair<decltype(a.lo op b.lo)> { \
        return {a.lo op b.lo, a.hi op b.hi};                                                  \
    }                                                                                         \
    template <class H, class S, class = std::enable_if_t<std::is_arithmetic<S>::value>>       \
    GM_FUNC auto operator op(const Pair<H>& a, S b)->Pair<decltype(a.lo op b)> {              \
        return {a.lo op b, a.hi op b};                                                        \
    }                                                                                         \
    template <class H, class S, class = std::enable_if_t<std::is_arithmetic<S>::value>>       \
    GM_FUNC auto operator op(S a, const Pair<H>& b)->Pair<decltype(a op b.lo)> {              \
        return {a op b.lo, a op b.hi};                                                        \
    }
SIMD_OPERATOR(+)
SIMD_OPERATOR(-)
SIMD_OPERATOR(*)
SIMD_OPERATOR(/)
SIMD_OPERATOR(&)
SIMD_OPERATOR(|)
SIMD_OPERATOR(<<)
SIMD_OPERATOR(>>)
SIMD_OPERATOR(<)
SIMD_OPERATOR(<=)
SIMD_OPERATOR(>)
SIMD_OPERATOR(>=)
SIMD_OPERATOR(==)
SIMD_OPERATOR(!=)
#undef SIMD_OPERATOR

template <class H>
GM_FUNC Pair<H> operator-(const Pair<H>& a) { return {-a.lo, -a.hi}; }
template <class H>
GM_FUNC Pair<H> operator~(const Pair<H>& a) { return {~a.lo, ~a.hi}; }
template <class H, class T>
GM_FUNC Pair<H>& operator+=(Pair<H>& a, const T& b) { return a = a + b; }
template <class H, class T>
GM_FUNC Pair<H>& operator&=(Pair<H>& a, const T& b) { return a = a & b; }

// ---------------------------------------------------------------------------------------------- registers

GM_FUNC f32x4 select(i32x4 c, f32x4 a, f32x4 b) { return c ? a : b; }
GM_FUNC f32x8 select(i32x8 c, f32x8 a, f32x8 b) { return c ? a : b; }
GM_FUNC f32x16 select(i32x16 c, f32x16 a, f32x16 b) { return c ? a : b; }
GM_FUNC i32x4 select(i32x4 c, i32x4 a, i32x4 b) { return c ? a : b; }
GM_FUNC i32x8 select(i32x8 c, i32x8 a, i32x8 b) { return c ? a : b; }
GM_FUNC i32x16 select(i32x16 c, i32x16 a, i32x16 b) { return c ? a : b; }

GM_FUNC f32x4 to_float(i32x4 a) { return __builtin_convertvector(a, f32x4); }
GM_FUNC f32x8 to_float(i32x8 a) { return __builtin_convertvector(a, f32x8); }
GM_FUNC f32x16 to_float(i32x16 a) { return __builtin_convertvector(a, f32x16); }

// a < b ? a : b and a > b ? a : b, which is what x86's min and max compute; the compiler does not see it by itself.
// lane_bits: one bit per lane of a comparison result (0 or -1 per lane).
#if defined(__SSE2__)
GM_FUNC f32x4 vmin(f32x4 a, f32x4 b) { return (f32x4)_mm_min_ps((__m128)a, (__m128)b); }
GM_FUNC f32x4 vmax(f32x4 a, f32x4 b) { return (f32x4)_mm_max_ps((__m128)a, (__m128)b); }
GM_FUNC f32x4 vsqrt(f32x4 a) { return (f32x4)_mm_sqrt_ps((__m128)a); }
GM_FUNC unsigned lane_bits(i32x4 m) { return (unsigned)_mm_movemask_ps((__m128)m); }
#else
GM_FUNC f32x4 vmin(f32x4 a, f32x4 b) { return a < b ? a : b; }
GM_FUNC f32x4 vmax(f32x4 a, f32x4 b) { return a > b ? a : b; }
GM_FUNC f32x4 vsqrt(f32x4 a) {
    return f32x4{__builtin_sqrtf(a[0]), __builtin_sqrtf(a[1]), __builtin_sqrtf(a[2]), __builtin_sqrtf(a[3])};
}
GM_FUNC unsigned lane_bits(i32x4 m) {
    return (unsigned)((m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8));
}
#endif
GM_FUNC f32x4 vceil(f32x4 a) {
    return f32x4{__builtin_ceilf(a[0]), __builtin_ceilf(a[1]), __builtin_ceilf(a[2]), __builtin_ceilf(a[3])};
}

#if defined(__AVX2__)
GM_FUNC f32x8 vmin(f32x8 a, f32x8 b) { return (f32x8)_mm256_min_ps((__m256)a, (__m256)b); }
GM_FUNC f32x8 vmax(f32x8 a, f32x8 b) { return (f32x8)_mm256_max_ps((__m256)a, (__m256)b); }
GM_FUNC f32x8 vsqrt(f32x8 a) { return (f32x8)_mm256_sqrt_ps((__m256)a); }
GM_FUNC f32x8 vceil(f32x8 a) { return (f32x8)_mm256_ceil_ps((__m256)a); }
GM_FUNC unsigned lane_bits(i32x8 m) { return (unsigned)_mm256_movemask_ps((__m256)m); }
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__)
GM_FUNC f32x16 vmin(f32x16 a, f32x16 b) { return (f32x16)_mm512_min_ps((__m512)a, (__m512)b); }
GM_FUNC f32x16 vmax(f32x16 a, f32x16 b) { return (f32x16)_mm512_max_ps((__m512)a, (__m512)b); }
GM_FUNC f32x16 vsqrt(f32x16 a) { return (f32x16)_mm512_sqrt_ps((__m512)a); }
GM_FUNC f32x16 vceil(f32x16 a) { return (f32x16)_mm512_ceil_ps((__m512)a); }
GM_FUNC unsigned lane_bits(i32x16 m) { return _mm512_movepi32_mask((__m512i)m); }
GM_FUNC unsigned bits_less(f32x16 a, f32x16 b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_LT_OQ); }
#else
// One bit per lane where a < b.
GM_FUNC unsigned bits_less(vr a, vr b) { return lane_bits(a < b); }
#endif

// a*b + c, rounded once.
#if defined(__AVX512F__) && defined(__AVX512DQ__)
GM_FUNC vr fma(vr a, vr b, vr c) { return (vr)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
#elif defined(__AVX2__)
GM_FUNC vr fma(vr a, vr b, vr c) { return (vr)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
#else
GM_FUNC vr fma(vr a, vr b, vr c) {
    return vr{__builtin_fmaf(a[0], b[0], c[0]), __builtin_fmaf(a[1], b[1], c[1]), __builtin_fmaf(a[2], b[2], c[2]),
              __builtin_fmaf(a[3], b[3], c[3])};
}
#endif

template <class C, class H>
GM_FUNC Pair<H> select(const Pair<C>& c, const Pair<H>& a, const Pair<H>& b) {
    return {select(c.lo, a.lo, b.lo), select(c.hi, a.hi, b.hi)};
}
template <class H>
GM_FUNC auto to_float(const Pair<H>& a) -> Pair<decltype(to_float(a.lo))> { return {to_float(a.lo), to_float(a.hi)}; }
template <class H>
GM_FUNC Pair<H> vmin(const Pair<H>& a, const Pair<H>& b) { return {vmin(a.lo, b.lo), vmin(a.hi, b.hi)}; }
template <class H>
GM_FUNC Pair<H> vmax(const Pair<H>& a, const Pair<H>& b) { return {vmax(a.lo, b.lo), vmax(a.hi, b.hi)}; }
template <class H>
GM_FUNC Pair<H> vsqrt(const Pair<H>& a) { return {vsqrt(a.lo), vsqrt(a.hi)}; }
template <class H>
GM_FUNC Pair<H> vceil(const Pair<H>& a) { return {vceil(a.lo), vceil(a.hi)}; }
template <class H>
GM_FUNC unsigned lane_bits(const Pair<H>& m) { return lane_bits(m.lo) | lane_bits(m.hi) << (sizeof(H) / 4); }

// ---------------------------------------------------------------------------------------------- sixteen lanes

GM_FUNC vr splat(float a) { return vr{} + a; }
GM_FUNC vri splat(int32_t a) { return vri{} + a; }

template <class To, class From>
GM_FUNC To bit_cast(const From& a) {
    To r;
    memcpy(&r, &a, sizeof r);
    return r;
}

GM_FUNC vi bits_of(const vf& a) { return bit_cast<vi>(a); }
GM_FUNC vf float_of(const vi& a) { return bit_cast<vf>(a); }
GM_FUNC vf load16(const float* p) { return bit_cast<vf>(*(const float(*)[kLanes])p); }

// a*b + c with scalars among the factors.
GM_FUNC vr fma(float a, vr b, vr c) { return fma(splat(a), b, c); }
GM_FUNC vr fma(float a, vr b, float c) { return fma(splat(a), b, splat(c)); }

// 2^-x for x in [0, 120]; relative error below 2e-7. Degree-5 minimax polynomial on [-1/2, 1/2]: the nearest integer
// comes from subtracting from 1.5 * 2^23, whose low bits then hold it ready to be moved into the exponent.
GM_FUNC vr exp2_of_minus(vr x) {
    const float magic = 12582912.0f;
    const vr shifted = magic - x;
    const vr f = (magic - shifted) - x;
    const vr f2 = f * f;  // Estrin's grouping: a shorter chain than Horner's
    const vr low = fma(6.93147e-1f, f, 1.0f), middle = fma(5.5507336e-2f, f, 2.4022242e-1f);
    const vr high = fma(1.3264727e-3f, f, 9.671513e-3f);
    const vr p = fma(f2, fma(f2, high, middle), low);
    return bit_cast<vr>(bit_cast<vri>(p) + (bit_cast<vri>(shifted) << 23));
}

// log2 of a positive number to 1.5e-3.
GM_FUNC vf log2_of(const vf& a) {
    const vi bits = bits_of(a);
    const vf m = float_of((bits & 0x007fffff) | 0x3f800000) - 1.0f;
    const vf e = to_float((bits >> 23) - 127);
    return e + m + m * (1.0f - m) * (0.4203f - 0.1545f * m);
}

GM_FUNC f32x4 load4(const float* p) { return bit_cast<f32x4>(*(const float(*)[4])p); }

// Lanes of a (0 to 3) and of b (4 to 7). g++ 11 has only the first builtin, clang only the second.
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ < 12
#define SIMD_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, i32x4{__VA_ARGS__})
#else
#define SIMD_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif

// Sums of 16 numbers each, four at once, in one fixed order.
GM_FUNC f32x4 fold_to_4(const float* a) { return (load4(a) + load4(a + 8)) + (load4(a + 4) + load4(a + 12)); }
GM_FUNC f32x4 sum_lanes(const float* a, const float* b, const float* c, const float* d) {
    const f32x4 fa = fold_to_4(a), fb = fold_to_4(b), fc = fold_to_4(c), fd = fold_to_4(d);
    const f32x4 ab = SIMD_SHUFFLE(fa, fb, 0, 4, 1, 5) + SIMD_SHUFFLE(fa, fb, 2, 6, 3, 7);
    const f32x4 cd = SIMD_SHUFFLE(fc, fd, 0, 4, 1, 5) + SIMD_SHUFFLE(fc, fd, 2, 6, 3, 7);
    return SIMD_SHUFFLE(ab, cd, 0, 1, 4, 5) + SIMD_SHUFFLE(ab, cd, 2, 3, 6, 7);
}

// Lane l of a vector in memory.
GM_FUNC float lane(const vf& a, int l) { return ((const float*)&a)[l]; }
GM_FUNC int32_t lane(const vi& a, int l) { return ((const int32_t*)&a)[l]; }

}  // namespace simd

namespace gm {

template <class F>
struct VectorOps {
    typedef decltype(F{} < F{}) Condition;
    GM_FUNC F select(const Condition& condition, const F& a, const F& b) { return simd::select(condition, a, b); }
    GM_FUNC F min(const F& a, const F& b) { return simd::vmin(a, b); }
    GM_FUNC F max(const F& a, const F& b) { return simd::vmax(a, b); }
    GM_FUNC F sqrt(const F& a) { return simd::vsqrt(a); }
    GM_FUNC F ceil(const F& a) { return simd::vceil(a); }
    GM_FUNC F log2(const F& a) { return simd::log2_of(a); }
    GM_FUNC Condition invert(const Condition& a) { return ~a; }
};

template <>
struct Ops<simd::vr> : VectorOps<simd::vr> {};
template <class H>
struct Ops<simd::Pair<H>> : VectorOps<simd::Pair<H>> {};

}  // namespace gm
