/* Products of a tile of T rows and a panel (layouts: pack.h). Included by isa_impl.h. T and kind are
 * constants wherever these are instantiated, so that accumulators are registers and the loops over t unroll.
 */

#define UNROLL _Pragma("GCC unroll 16")

/* How far ahead of their use weights are asked for, in bytes: panels are shorter than what the processor's
 * own prefetchers need to get up to speed (measured: twice the bandwidth for one row). */
enum { AHEAD = 3072 };

/* ---- float weights ------------------------------------------------------------------------------------- */

INLINE void gemm_float(const enum panel_kind kind, const int T, const uint8_t *panel, int32_t n_in,
                       const void *tile, float *out)
{
    const float *x = tile;
    vf acc[TILE_ROWS];
    UNROLL for (int t = 0; t < T; t++) acc[t] = vf_zero();
    for (int32_t k = 0; k < n_in; k++, x += T) {
        const vf w = kind == PANEL_F32   ? vf_load((const float *)(const void *)panel)
                     : kind == PANEL_F16 ? vf_load_f16(panel)
                                         : vf_load_bf16(panel);
        panel += kind == PANEL_F32 ? 4 * VW : 2 * VW;
        UNROLL for (int t = 0; t < T; t++) acc[t] = vf_fma(w, vf_set1(x[t]), acc[t]);
    }
    UNROLL for (int t = 0; t < T; t++) vf_store(out + t * VW, acc[t]);
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

/* sum[t] = products of a block of nibbles. */
INLINE void block_u4(const int T, const uint8_t *q, const uint8_t *x, vi *sum)
{
    const vi low = vi_set1_8(15);
    dot_acc acc[TILE_ROWS];
    UNROLL for (int t = 0; t < T; t++) acc[t] = vi_zero();
    UNROLL for (int j = 0; j < 4; j++)
    {
        const vi w = vi_load(q + j * 4 * VW), a = vi_and(w, low), b = vi_and(vi_srl16(w, 4), low);
        UNROLL for (int t = 0; t < T; t++)
        {
            acc[t] = dot4_u4(acc[t], a, four_bytes(x + 32 * t + 4 * j));
            acc[t] = dot4_u4(acc[t], b, four_bytes(x + 32 * t + 4 * j + 16));
        }
    }
    UNROLL for (int t = 0; t < T; t++) sum[t] = dot_sum_u4(acc[t]);
}

/* sum[t] += products of n groups from group j on, unsigned weights of at most `bits` bits. */
INLINE void groups_unsigned(const int T, const int bits, const int j, const int n, const uint8_t *q,
                            const uint8_t *x, vi *sum)
{
    const int run = bits <= 5 ? 4 : 2; /* groups whose sums fit dot_acc on every instruction set */
    UNROLL for (int i = j; i < j + n; i += run)
    {
        dot_acc acc[TILE_ROWS];
        UNROLL for (int t = 0; t < T; t++) acc[t] = vi_zero();
        UNROLL for (int g = i; g < i + run; g++)
        {
            const vi w = vi_load(q + g * 4 * VW);
            UNROLL for (int t = 0; t < T; t++) acc[t] = dot4_u4(acc[t], w, four_bytes(x + 32 * t + 4 * g));
        }
        UNROLL for (int t = 0; t < T; t++) sum[t] = vi_add(sum[t], dot_sum_u4(acc[t]));
    }
}

/* sum[t] = products of a block of signed weights. minus_sum: of the tile. */
INLINE void block_s8(const int T, const uint8_t *q, const uint8_t *x, vi *sum)
{
    UNROLL for (int t = 0; t < T; t++) sum[t] = dot_s8_seed(four_bytes(x + TILE_SUM(T) + 4 * t));
    UNROLL for (int g = 0; g < 8; g++)
    {
        const vi w = vi_load(q + g * 4 * VW), u = dot_s8_weight(w);
        UNROLL for (int t = 0; t < T; t++) sum[t] = dot4_s8(sum[t], u, w, four_bytes(x + 32 * t + 4 * g));
    }
}

/* Where block b of a panel lies: its numbers, and the scales: d for each half (equal but for PANEL_U6) and m.
 */
INLINE const uint8_t *panel_block(const enum panel_kind kind, const uint8_t *panel, int32_t b, vf *d, vf *m)
{
    const size_t i = (size_t)b;
    switch (kind) {
    case PANEL_Q4_0:
    case PANEL_Q8_0: {
        const uint8_t *p = panel + i * (kind == PANEL_Q4_0 ? 18 : 34) * VW;
        d[0] = vf_load_f16(p);
        return p + 2 * VW;
    }
    case PANEL_Q4_1: {
        const uint8_t *p = panel + i * 20 * VW;
        d[0] = vf_load_f16(p);
        m[0] = vf_load_f16(p + 2 * VW);
        return p + 4 * VW;
    }
    case PANEL_Q4_K: {
        const uint8_t *p = panel + i / 8 * (20 + 128) * VW;
        d[0] = vf_mul(vf_load_f16(p), vf_load_u8(p + (4 + i % 8) * VW));
        m[0] = vf_mul(vf_sub(vf_zero(), vf_load_f16(p + 2 * VW)), vf_load_u8(p + (12 + i % 8) * VW));
        return p + (20 + i % 8 * 16) * VW;
    }
    default: {
        const uint8_t *p = panel + i * 48 * VW;
        const float *scales = (const float *)(const void *)(p + 32 * VW);
        d[0] = vf_load(scales);
        d[1] = vf_load(scales + VW);
        m[0] = vf_load(scales + 2 * VW);
        m[1] = vf_load(scales + 3 * VW);
        return p;
    }
    }
}

/* Bytes of a block's numbers, of all rows. */
INLINE int block_bytes(const enum panel_kind kind)
{
    return (kind == PANEL_Q4_0 || kind == PANEL_Q4_1 || kind == PANEL_Q4_K ? 16 : 32) * VW;
}

INLINE void gemm_quantized(const enum panel_kind kind, const int T, const uint8_t *panel, int32_t n_in,
                           const void *tile, float *out)
{
    const int n_halves = kind == PANEL_U6 ? 2 : 1;
    const int has_min = kind == PANEL_Q4_1 || kind == PANEL_Q4_K || kind == PANEL_U5;
    const uint8_t *x = tile;
    vf acc[TILE_ROWS];
    UNROLL for (int t = 0; t < T; t++) acc[t] = vf_zero();
    for (int32_t b = 0; b < n_in / 32; b++, x += TILE_BLOCK_BYTES * T) {
        vf d[2], m[2];
        vi sum[TILE_ROWS];
        const uint8_t *q = panel_block(kind, panel, b, d, m);
        UNROLL for (int i = 0; i < block_bytes(kind); i += 64)
            _mm_prefetch((const char *)q + i + AHEAD, _MM_HINT_T0);
        UNROLL for (int h = 0; h < n_halves; h++)
        {
            if (kind == PANEL_Q8_0 || kind == PANEL_S8) {
                block_s8(T, q, x, sum);
            } else if (kind == PANEL_U5 || kind == PANEL_U6) {
                UNROLL for (int t = 0; t < T; t++) sum[t] = vi_zero();
                groups_unsigned(T, kind == PANEL_U5 ? 5 : 6, h * 4, 8 / n_halves, q, x, sum);
            } else {
                block_u4(T, q, x, sum);
            }
            UNROLL for (int t = 0; t < T; t++)
            {
                if (kind == PANEL_Q4_0) /* nibbles stand for q - 8 */
                    sum[t] = vi_add(sum[t], vi_sll(four_bytes(x + TILE_SUM(T) + 4 * t), 3));
                const vf v = vf_mul(vf_from_vi(sum[t]), broadcast(x + TILE_D(T) + 4 * t));
                acc[t] = vf_fma(v, d[h], acc[t]);
                if (kind == PANEL_U6)
                    acc[t] = vf_fma(m[h], broadcast(x + TILE_D_SUM16(T) + 8 * t + 4 * h), acc[t]);
                if (has_min) acc[t] = vf_fma(m[0], broadcast(x + TILE_D_SUM(T) + 4 * t), acc[t]);
            }
        }
    }
    UNROLL for (int t = 0; t < T; t++) vf_store(out + t * VW, acc[t]);
}

/* ---- instances ----------------------------------------------------------------------------------------- */

#define GEMM(body, kind, T)                                                                                  \
    static void gemm_##kind##_##T(const uint8_t *panel, int32_t n_in, const void *x, float *out)             \
    {                                                                                                        \
        body(PANEL_##kind, T, panel, n_in, x, out);                                                          \
    }
#define GEMM_ENTRY(body, kind, T) [PANEL_##kind][T] = gemm_##kind##_##T,

#if VW == 16
static const int8_t tile_sizes[] = {12, 8, 6, 4, 3, 2, 1};
#define FOR_TILE_SIZES(X, body, kind)                                                                        \
    X(body, kind, 1)                                                                                         \
    X(body, kind, 2) X(body, kind, 3) X(body, kind, 4) X(body, kind, 6) X(body, kind, 8) X(body, kind, 12)
#else
static const int8_t tile_sizes[] = {6, 4, 3, 2, 1};
#define FOR_TILE_SIZES(X, body, kind)                                                                        \
    X(body, kind, 1) X(body, kind, 2) X(body, kind, 3) X(body, kind, 4) X(body, kind, 6)
#endif

#define FOR_KINDS(X)                                                                                         \
    FOR_TILE_SIZES(X, gemm_float, F32)                                                                       \
    FOR_TILE_SIZES(X, gemm_float, F16)                                                                       \
    FOR_TILE_SIZES(X, gemm_float, BF16)                                                                      \
    FOR_TILE_SIZES(X, gemm_quantized, Q4_0)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q4_1)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q4_K)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, Q8_0)                                                                  \
    FOR_TILE_SIZES(X, gemm_quantized, U5)                                                                    \
    FOR_TILE_SIZES(X, gemm_quantized, U6)                                                                    \
    FOR_TILE_SIZES(X, gemm_quantized, S8)

FOR_KINDS(GEMM)
