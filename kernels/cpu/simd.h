#ifndef LLM_KERNELS_CPU_SIMD_H
#define LLM_KERNELS_CPU_SIMD_H

/* The vectors of the instruction set a file is compiled for, by one set of names, so that a kernel is written
 * once (in a *_impl.h) and compiled for each. VW lanes of f32 or i32; a panel of weights has as many rows as
 * a vector has lanes.
 *
 * The int8 products differ in kind between the two (see dot4_*): AVX2 sums pairs into 16 bits and has to
 * watch for overflow, VNNI sums fours into 32. */

#include "base/dtype.h"

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__)

#define VW      16
#define ISA(fn) fn##_avx512

typedef __m512 vf;
typedef __m512i vi;

INLINE vf vf_zero(void)
{
    return _mm512_setzero_ps();
}
INLINE vf vf_set1(float x)
{
    return _mm512_set1_ps(x);
}
INLINE vf vf_load(const float *p)
{
    return _mm512_loadu_ps(p);
}
INLINE void vf_store(float *p, vf v)
{
    _mm512_storeu_ps(p, v);
}
INLINE __mmask16 lanes(int n)
{
    return (__mmask16)((1u << n) - 1);
}
INLINE vf vf_load_n(const float *p, int n)
{
    return _mm512_maskz_loadu_ps(lanes(n), p);
}
INLINE void vf_store_n(float *p, vf v, int n)
{
    _mm512_mask_storeu_ps(p, lanes(n), v);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm512_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm512_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm512_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm512_div_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm512_fmadd_ps(a, b, c);
}
INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return _mm512_fnmadd_ps(a, b, c);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm512_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm512_min_ps(a, b);
}
INLINE vf vf_abs(vf a)
{
    return _mm512_abs_ps(a);
}
INLINE vf vf_round(vf a)
{
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/* a < b ? x : y */
INLINE vf vf_select_lt(vf a, vf b, vf x, vf y)
{
    return _mm512_mask_blend_ps(_mm512_cmp_ps_mask(a, b, _CMP_LT_OQ), y, x);
}
/* Sign of s on the magnitude of a. */
INLINE vf vf_copysign(vf a, vf s)
{
    const __m512i sign = _mm512_set1_epi32((int)0x80000000u);
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(sign, _mm512_castps_si512(s), _mm512_castps_si512(a), 0xca));
}
INLINE float vf_sum(vf a)
{
    return _mm512_reduce_add_ps(a);
}
INLINE float vf_largest(vf a)
{
    return _mm512_reduce_max_ps(a);
}

INLINE vi vi_zero(void)
{
    return _mm512_setzero_si512();
}
INLINE vi vi_set1(int32_t x)
{
    return _mm512_set1_epi32(x);
}
INLINE vi vi_set1_8(int8_t x)
{
    return _mm512_set1_epi8(x);
}
INLINE vi vi_load(const void *p)
{
    return _mm512_loadu_si512(p);
}
INLINE vi vi_and(vi a, vi b)
{
    return _mm512_and_si512(a, b);
}
INLINE vi vi_or(vi a, vi b)
{
    return _mm512_or_si512(a, b);
}
INLINE vi vi_add(vi a, vi b)
{
    return _mm512_add_epi32(a, b);
}
INLINE vi vi_iota(void)
{
    return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}
#define vi_sll(a, n)   _mm512_slli_epi32(a, n)
#define vi_srl(a, n)   _mm512_srli_epi32(a, n)
#define vi_srl16(a, n) _mm512_srli_epi16(a, n)
INLINE vf vf_from_vi(vi a)
{
    return _mm512_cvtepi32_ps(a);
}
INLINE vi vi_from_vf(vf a)
{
    return _mm512_cvtps_epi32(a);
}
INLINE vf vf_bits(vi a)
{
    return _mm512_castsi512_ps(a);
}

INLINE vf vf_load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256(p));
}
INLINE vf vf_load_bf16(const void *p)
{
    return vf_bits(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
INLINE vi vi_load_u8(const void *p)
{
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(p));
}
INLINE vf vf_load_u8(const void *p)
{
    return vf_from_vi(vi_load_u8(p));
}
INLINE vf vf_load_s8(const void *p)
{
    return vf_from_vi(_mm512_cvtepi8_epi32(_mm_loadu_si128(p)));
}
/* table [16] at each byte of v, which are below 16. */
INLINE vi vi_lookup(const int8_t *table, vi v)
{
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const void *)table)), v);
}
INLINE void vf_store_f16(void *p, vf v)
{
    _mm256_storeu_si256(p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
/* The 32 numbers of the vectors at v as signed bytes, saturated. */
INLINE __m256i pack_32(const vi *v)
{
    return _mm256_set_m128i(_mm512_cvtsepi32_epi8(v[1]), _mm512_cvtsepi32_epi8(v[0]));
}

/* Accumulators of int8 products: lane r holds a sum for weight row r over the four k of each 32-bit group. */
#define DOT_RUN(bits) 8 /* groups that an accumulator holds */
typedef vi dot_acc;
INLINE dot_acc dot4(dot_acc acc, vi w, vi x)
{
    return _mm512_dpbusd_epi32(acc, w, x);
}
INLINE vi dot_sum(dot_acc acc)
{
    return acc;
}
/* Signed weights as unsigned ones 128 larger; the seed takes 128 times the sum of x back. */
INLINE vi dot_s8_seed(vi minus_sum)
{
    return vi_sll(minus_sum, 7);
}
INLINE vi dot_s8_weight(vi w)
{
    return _mm512_xor_si512(w, vi_set1_8((int8_t)0x80));
}
INLINE vi dot4_s8(vi sum, vi u, vi w, vi x)
{
    (void)w;
    return _mm512_dpbusd_epi32(sum, u, x);
}

#else /* AVX2 */

/* Keeps the compiler from turning a chain of integer sums into a tree, which takes more registers than the 16
 * there are. */
#define IN_ORDER(v) __asm__("" : "+x"(v))

#define VW             8
#define ISA(fn)        fn##_avx2

typedef __m256 vf;
typedef __m256i vi;

INLINE vf vf_zero(void)
{
    return _mm256_setzero_ps();
}
INLINE vf vf_set1(float x)
{
    return _mm256_set1_ps(x);
}
INLINE vf vf_load(const float *p)
{
    return _mm256_loadu_ps(p);
}
INLINE void vf_store(float *p, vf v)
{
    _mm256_storeu_ps(p, v);
}
INLINE vi vi_iota(void)
{
    return _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
}
INLINE vi lanes(int n)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), vi_iota());
}
INLINE vf vf_load_n(const float *p, int n)
{
    return _mm256_maskload_ps(p, lanes(n));
}
INLINE void vf_store_n(float *p, vf v, int n)
{
    _mm256_maskstore_ps(p, lanes(n), v);
}
INLINE vf vf_add(vf a, vf b)
{
    return _mm256_add_ps(a, b);
}
INLINE vf vf_sub(vf a, vf b)
{
    return _mm256_sub_ps(a, b);
}
INLINE vf vf_mul(vf a, vf b)
{
    return _mm256_mul_ps(a, b);
}
INLINE vf vf_div(vf a, vf b)
{
    return _mm256_div_ps(a, b);
}
INLINE vf vf_fma(vf a, vf b, vf c)
{
    return _mm256_fmadd_ps(a, b, c);
}
INLINE vf vf_fnma(vf a, vf b, vf c)
{
    return _mm256_fnmadd_ps(a, b, c);
}
INLINE vf vf_max(vf a, vf b)
{
    return _mm256_max_ps(a, b);
}
INLINE vf vf_min(vf a, vf b)
{
    return _mm256_min_ps(a, b);
}
INLINE vf vf_abs(vf a)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}
INLINE vf vf_round(vf a)
{
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
INLINE vf vf_select_lt(vf a, vf b, vf x, vf y)
{
    return _mm256_blendv_ps(y, x, _mm256_cmp_ps(a, b, _CMP_LT_OQ));
}
INLINE vf vf_copysign(vf a, vf s)
{
    const vf sign = _mm256_set1_ps(-0.0f);
    return _mm256_or_ps(_mm256_and_ps(sign, s), _mm256_andnot_ps(sign, a));
}
INLINE float vf_sum(vf a)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
INLINE float vf_largest(vf a)
{
    __m128 s = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    s = _mm_max_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_max_ss(s, _mm_movehdup_ps(s)));
}

INLINE vi vi_zero(void)
{
    return _mm256_setzero_si256();
}
INLINE vi vi_set1(int32_t x)
{
    return _mm256_set1_epi32(x);
}
INLINE vi vi_set1_8(int8_t x)
{
    return _mm256_set1_epi8(x);
}
INLINE vi vi_load(const void *p)
{
    return _mm256_loadu_si256(p);
}
INLINE vi vi_and(vi a, vi b)
{
    return _mm256_and_si256(a, b);
}
INLINE vi vi_or(vi a, vi b)
{
    return _mm256_or_si256(a, b);
}
INLINE vi vi_add(vi a, vi b)
{
    return _mm256_add_epi32(a, b);
}
#define vi_sll(a, n)   _mm256_slli_epi32(a, n)
#define vi_srl(a, n)   _mm256_srli_epi32(a, n)
#define vi_srl16(a, n) _mm256_srli_epi16(a, n)
INLINE vf vf_from_vi(vi a)
{
    return _mm256_cvtepi32_ps(a);
}
INLINE vi vi_from_vf(vf a)
{
    return _mm256_cvtps_epi32(a);
}
INLINE vf vf_bits(vi a)
{
    return _mm256_castsi256_ps(a);
}

INLINE vf vf_load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128(p));
}
INLINE vf vf_load_bf16(const void *p)
{
    return vf_bits(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
}
INLINE vi vi_load_u8(const void *p)
{
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(p));
}
INLINE vf vf_load_u8(const void *p)
{
    return vf_from_vi(vi_load_u8(p));
}
INLINE vf vf_load_s8(const void *p)
{
    return vf_from_vi(_mm256_cvtepi8_epi32(_mm_loadl_epi64(p)));
}
/* table [16] at each byte of v, which are below 16. */
INLINE vi vi_lookup(const int8_t *table, vi v)
{
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table)), v);
}
INLINE void vf_store_f16(void *p, vf v)
{
    _mm_storeu_si128(p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE __m256i pack_32(const vi *v)
{
    const vi bytes = _mm256_packs_epi16(_mm256_packs_epi32(v[0], v[1]), _mm256_packs_epi32(v[2], v[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_set_epi32(7, 3, 6, 2, 5, 1, 4, 0));
}

/* 16-bit sums of pairs. They hold 8 groups of 4-bit weights (8 * 2 * 15 * 127 = 30480), 4 of 5 bits (31496),
 * 2 of 6 (32004); then dot_sum widens. */
#define DOT_RUN(bits)  ((bits) <= 4 ? 8 : (bits) == 5 ? 4 : 2)
typedef vi dot_acc;
INLINE dot_acc dot4(dot_acc acc, vi w, vi x)
{
    acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(w, x));
    IN_ORDER(acc);
    return acc;
}
INLINE vi dot_sum(dot_acc acc)
{
    return _mm256_madd_epi16(acc, _mm256_set1_epi16(1));
}
/* Signed weights: the sign moves to x, for one factor has to be unsigned; 2 * 128 * 127 fits 16 bits. */
INLINE vi dot_s8_seed(vi minus_sum)
{
    (void)minus_sum;
    return vi_zero();
}
INLINE vi dot_s8_weight(vi w)
{
    return _mm256_abs_epi8(w);
}
INLINE vi dot4_s8(vi sum, vi u, vi w, vi x)
{
    const vi pairs = _mm256_maddubs_epi16(u, _mm256_sign_epi8(x, w));
    sum = vi_add(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    IN_ORDER(sum);
    return sum;
}

#endif

/* VW stored elements of a float type. */
INLINE vf vf_load_as(const enum llm_dtype dtype, const uint8_t *p)
{
    return dtype == DTYPE_F32   ? vf_load((const float *)(const void *)p)
           : dtype == DTYPE_F16 ? vf_load_f16(p)
                                : vf_load_bf16(p);
}

#endif
