/* Products of a tile of T rows and a panel (layouts: pack.h). Included by isa_impl.h. T and kind are
 * constants wherever these are instantiated, so that accumulators are registers and the loops over t unroll.
 */

#define UNROLL_FOR(...) _Pragma("GCC unroll 16") for (__VA_ARGS__)

/* How far ahead of their use weights are asked for, in bytes: panels are shorter than what the processor's
 * own prefetchers need to get up to speed (measured: twice the bandwidth for one row). */
enum { AHEAD = 3072 };

/* ---- float weights ------------------------------------------------------------------------------------- */

/* Even and odd k accumulate apart, so that few tokens too keep enough multiply-adds in flight. */
INLINE void gemm_float(const enum llm_dtype dtype, const int T, const uint8_t *panel, int32_t n_in,
                       const void *tile, float *out)
{
    const int step = (dtype == DTYPE_F32 ? 4 : 2) * VW;
    const float *x = tile;
    vf even[TILE_ROWS], odd[TILE_ROWS];
    UNROLL_FOR (int t = 0; t < T; t++) even[t] = odd[t] = vf_zero();
    int32_t k = 0;
    for (; k + 1 < n_in; k += 2, x += 2 * T, panel += 2 * step) {
        const vf a = vf_load_as(dtype, panel), b = vf_load_as(dtype, panel + step);
        for (int i = 0; i < 2 * step; i += 64) _mm_prefetch((const char *)panel + i + AHEAD, _MM_HINT_T0);
        UNROLL_FOR (int t = 0; t < T; t++) even[t] = vf_fma(a, vf_set1(x[t]), even[t]);
        UNROLL_FOR (int t = 0; t < T; t++) odd[t] = vf_fma(b, vf_set1(x[T + t]), odd[t]);
    }
    if (k < n_in) {
        const vf a = vf_load_as(dtype, panel);
        UNROLL_FOR (int t = 0; t < T; t++) even[t] = vf_fma(a, vf_set1(x[t]), even[t]);
    }
    UNROLL_FOR (int t = 0; t < T; t++) vf_store(out + t * VW, vf_add(even[t], odd[t]));
}

/* ---- int8 products ------------------------------------------------------------------------------------- */

INLINE vi four_bytes(const uint8_t *x)
{
    int32_t v;
    __builtin_memcpy(&v, x, 4);
    return vi_set1(v);
}

INLINE vf broadcast(const uint8_t *x)
{
    float v;
    __builtin_memcpy(&v, x, 4);
    return vf_set1(v);
}

/* The numbers of group j of a block (layouts: pack.h). */
INLINE vi group_numbers(const enum llm_dtype dtype, const int j, const uint8_t *q)
{
    const struct quant_format f = quant_formats[dtype];
    vi v = vi_zero();
    if (f.bytes) return vi_load(q + j * 4 * VW);
    if (f.low) {
        const vi both = vi_load(q + j % 4 * 4 * VW);
        v = vi_and(j < 4 ? both : vi_srl16(both, 4), vi_set1_8(15));
        q += 16 * VW;
    }
    if (f.pairs) { /* from bit 2 (j % 4) to where they belong; what comes from other bytes is masked */
        const int from = j % 4 * 2, to = f.pairs - 1;
        const vi pairs = vi_load(q + j / 4 * 4 * VW);
        v = vi_or(v, vi_and(from < to ? vi_sll(pairs, to - from) : vi_srl(pairs, from - to),
                            vi_set1_8((int8_t)(3 << to))));
        q += 8 * VW;
    }
    if (f.bits) {
        const int to = f.bits - 1;
        const vi bits = vi_load(q);
        v = vi_or(v,
                  vi_and(j < to ? vi_sll(bits, to - j) : vi_srl(bits, j - to), vi_set1_8((int8_t)(1 << to))));
    }
    return dtype == DTYPE_IQ4_NL || dtype == DTYPE_IQ4_XS ? vi_lookup(iq4_values, v) : v;
}

/* sum[t] = products of half h of a block of unsigned numbers (n_scales 1: of all of it). */
INLINE void sum_unsigned(const enum llm_dtype dtype, const int T, const int h, const uint8_t *q,
                         const uint8_t *x, vi *sum)
{
    const struct quant_format f = quant_formats[dtype];
    const int n = 8 / f.n_scales, run = DOT_RUN(f.width) < n ? DOT_RUN(f.width) : n;
    UNROLL_FOR (int i = 0; i < n; i += run) {
        dot_acc acc[TILE_ROWS];
        UNROLL_FOR (int t = 0; t < T; t++) acc[t] = vi_zero();
        UNROLL_FOR (int k = i; k < i + run; k++) {
            /* of a whole block: j and j + 4, which share a vector, one after the other */
            const int j = n == 8 ? k / 2 + k % 2 * 4 : h * 4 + k;
            const vi w = group_numbers(dtype, j, q);
            UNROLL_FOR (int t = 0; t < T; t++) acc[t] = dot4(acc[t], w, four_bytes(x + 32 * t + 4 * j));
        }
        UNROLL_FOR (int t = 0; t < T; t++)
            sum[t] = i == 0 ? dot_sum(acc[t]) : vi_add(sum[t], dot_sum(acc[t]));
    }
}

/* sum[t] = products of a block of signed bytes. */
INLINE void sum_signed(const enum llm_dtype dtype, const int T, const uint8_t *q, const uint8_t *x, vi *sum)
{
    UNROLL_FOR (int t = 0; t < T; t++) sum[t] = dot_s8_seed(four_bytes(x + TILE_SUM(T) + 4 * t));
    UNROLL_FOR (int j = 0; j < 8; j++) {
        const vi w = group_numbers(dtype, j, q), u = dot_s8_weight(w);
        UNROLL_FOR (int t = 0; t < T; t++) sum[t] = dot4_s8(sum[t], u, w, four_bytes(x + 32 * t + 4 * j));
    }
}

/* Scales of block j of the header at p: value = d[h] * q + m[h] for half h. Where a constant is taken from
 * all numbers it is either in m, or 0 here and in minus_sum's shift (number_offset). */
INLINE void block_scales(const enum llm_dtype dtype, const uint8_t *p, int j, vf d[2], vf m[2])
{
    d[0] = vf_load_f16(p);
    switch (dtype) {
    case DTYPE_Q4_1:
    case DTYPE_Q5_1:
        m[0] = vf_load_f16(p + 2 * VW);
        break;
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
        d[0] = vf_mul(d[0], vf_load_u8(p + (4 + j) * VW));
        m[0] = vf_mul(vf_sub(vf_zero(), vf_load_f16(p + 2 * VW)), vf_load_u8(p + (12 + j) * VW));
        break;
    case DTYPE_Q2_K: {
        const vf both = d[0], minus_dmin = vf_sub(vf_zero(), vf_load_f16(p + 2 * VW));
        UNROLL_FOR (int h = 0; h < 2; h++) {
            const vi scale = vi_load_u8(p + (4 + 2 * j + h) * VW);
            d[h] = vf_mul(both, vf_from_vi(vi_and(scale, vi_set1(15))));
            m[h] = vf_mul(minus_dmin, vf_from_vi(vi_srl(scale, 4)));
        }
        break;
    }
    case DTYPE_Q3_K:
    case DTYPE_Q6_K: {
        const vf both = d[0], minus_offset = vf_set1(dtype == DTYPE_Q3_K ? -4.0f : -32.0f);
        UNROLL_FOR (int h = 0; h < 2; h++) {
            d[h] = vf_mul(both, vf_load_s8(p + (2 + 2 * j + h) * VW));
            m[h] = vf_mul(minus_offset, d[h]);
        }
        break;
    }
    case DTYPE_IQ4_XS:
        d[0] = vf_mul(d[0], vf_load_s8(p + (2 + j) * VW));
        break;
    default:
        break;
    }
}

/* Unsigned numbers that stand for q - 2^n: n, exact in integers; 0: they do not. */
INLINE int number_offset(const enum llm_dtype dtype)
{
    return dtype == DTYPE_Q4_0 ? 3 : dtype == DTYPE_Q5_0 ? 4 : 0;
}

INLINE void gemm_quantized(const enum llm_dtype dtype, const int T, const uint8_t *panel, int32_t n_in,
                           const void *tile, float *out)
{
    const struct quant_format f = quant_formats[dtype];
    const int has_min =
        dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1 || dtype == DTYPE_Q4_K || dtype == DTYPE_Q5_K;
    const int offset = number_offset(dtype);
    const uint8_t *x = tile, *header = panel;
    vf acc[TILE_ROWS];
    UNROLL_FOR (int t = 0; t < T; t++) acc[t] = vf_zero();
    for (int32_t b = 0; b < n_in / 32; b++, x += TILE_BLOCK_BYTES * T) {
        const int j = b % f.n_blocks;
        const uint8_t *q = header + (f.header + j * f.numbers) * VW;
        vf d[2], m[2];
        vi sum[TILE_ROWS];
        block_scales(dtype, header, j, d, m);
        UNROLL_FOR (int i = 0; i < f.numbers * VW; i += 64)
            _mm_prefetch((const char *)q + i + AHEAD, _MM_HINT_T0);
        UNROLL_FOR (int h = 0; h < f.n_scales; h++) {
            if (f.width == 8)
                sum_signed(dtype, T, q, x, sum);
            else
                sum_unsigned(dtype, T, h, q, x, sum);
            UNROLL_FOR (int t = 0; t < T; t++) {
                if (offset > 0) sum[t] = vi_add(sum[t], vi_sll(four_bytes(x + TILE_SUM(T) + 4 * t), offset));
                const vf v = vf_mul(vf_from_vi(sum[t]), broadcast(x + TILE_D(T) + 4 * t));
                acc[t] = vf_fma(v, d[h], acc[t]);
                if (f.n_scales == 2)
                    acc[t] = vf_fma(m[h], broadcast(x + TILE_D_SUM16(T) + 8 * t + 4 * h), acc[t]);
                if (has_min) acc[t] = vf_fma(m[0], broadcast(x + TILE_D_SUM(T) + 4 * t), acc[t]);
            }
        }
        if (j == f.n_blocks - 1) header = q + f.numbers * VW;
    }
    UNROLL_FOR (int t = 0; t < T; t++) vf_store(out + t * VW, acc[t]);
}

/* ---- instances ----------------------------------------------------------------------------------------- */

#define GEMM(body, dtype, T)                                                                                 \
    static void gemm_##dtype##_##T(const uint8_t *panel, int32_t n_in, const void *x, float *out)            \
    {                                                                                                        \
        body(DTYPE_##dtype, T, panel, n_in, x, out);                                                         \
    }
#define GEMM_ENTRY(body, dtype, T) [DTYPE_##dtype][T] = gemm_##dtype##_##T,

#if VW == 16
static const int8_t tile_sizes[] = {12, 8, 6, 4, 3, 2, 1};
#define FOR_TILE_SIZES(X, body, dtype)                                                                       \
    X(body, dtype, 1)                                                                                        \
    X(body, dtype, 2)                                                                                        \
    X(body, dtype, 3) X(body, dtype, 4) X(body, dtype, 6) X(body, dtype, 8) X(body, dtype, 12)
#else
static const int8_t tile_sizes[] = {6, 4, 3, 2, 1};
#define FOR_TILE_SIZES(X, body, dtype)                                                                       \
    X(body, dtype, 1) X(body, dtype, 2) X(body, dtype, 3) X(body, dtype, 4) X(body, dtype, 6)
#endif

#define FOR_DTYPES(X)                                                                                        \
    FOR_TILE_SIZES(X, gemm_float, F32)                                                                       \
    FOR_TILE_SIZES(X, gemm_float, F16)                                                                       \
    FOR_TILE_SIZES(X, gemm_float, BF16)                                                                      \
    FOR_TILE_SIZES(X, gemm_quantized, Q4_0)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q4_1)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q5_0)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q5_1)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q8_0)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q2_K)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q3_K)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q4_K)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q5_K)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q6_K)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, IQ4_NL)                                                                \
    FOR_TILE_SIZES(X, gemm_quantized, IQ4_XS)

FOR_DTYPES(GEMM)
