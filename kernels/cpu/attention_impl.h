/* Attention of a few query rows over one chunk of keys (attention.h). Included by isa_impl.h. */

#include "kernels/cpu/attention.h"

enum {
    TOKENS_MAX_VECTORS = VW == 16 ? 4 : 2, /* with 6 rows: 24 accumulators of 32, 12 of 16 */
    ROWS_MAX = 6
};

/* n <= VW elements at p. */
INLINE vf load_kv(const enum llm_dtype dtype, const uint8_t *p, int n)
{
    if (n < VW) {
        uint8_t copy[4 * VW] = {0};
        __builtin_memcpy(copy, p, (size_t)n * (dtype == DTYPE_F32 ? 4 : 2));
        return vf_load_as(dtype, copy);
    }
    return vf_load_as(dtype, p);
}

/* ---- scores: q . k for R rows and V vectors of tokens -------------------------------------------------- */

/* fetch, here and below: rows are so few that memory sets the pace, and pages so short that the processor's
 * prefetchers do not get going. What comes next is then asked for meanwhile: V of the same pages, and, when V
 * is at work, K of the next chunk's (measured: twice the bandwidth). v_offset: from a K to its V. */
INLINE void score_tile(const enum llm_dtype dtype, const int R, const int V, const int fetch,
                       const uint8_t *const *k, size_t stride, int tokens, int32_t dim, size_t v_offset,
                       const float *q, float *out)
{
    vf acc[ROWS_MAX][TOKENS_MAX_VECTORS];
    UNROLL_FOR (int r = 0; r < R; r++)
        UNROLL_FOR (int v = 0; v < V; v++) acc[r][v] = vf_zero();
    for (int32_t d = 0; d < dim; d++, q += ATTN_ROWS) {
        vf kd[TOKENS_MAX_VECTORS];
        UNROLL_FOR (int v = 0; v < V; v++) kd[v] = load_kv(dtype, k[v] + (size_t)d * stride, tokens);
        UNROLL_FOR (int v = 0; v < V && fetch; v++)
            _mm_prefetch((const char *)k[v] + (size_t)d * stride + v_offset, _MM_HINT_T0);
        UNROLL_FOR (int r = 0; r < R; r++) {
            const vf qd = vf_set1(q[r]);
            UNROLL_FOR (int v = 0; v < V; v++) acc[r][v] = vf_fma(qd, kd[v], acc[r][v]);
        }
    }
    UNROLL_FOR (int v = 0; v < V; v++) /* in order: with pages shorter than a vector, each overwrites */
        UNROLL_FOR (int r = 0; r < R; r++)
            vf_store(out + (size_t)r * ATTN_SCORE_STRIDE + v * tokens, acc[r][v]);
}

INLINE void score_rows(const enum llm_dtype dtype, const int R, const int fetch, const struct attn_chunk *c,
                       int32_t first_row)
{
    const struct kv_cache *kv = c->kv;
    const int page_size = kv->page_size, size = dtype == DTYPE_F32 ? 4 : 2;
    const int tokens = page_size < VW ? page_size : VW;
    const int32_t chunk_begin = c->begin / ATTN_CHUNK * ATTN_CHUNK;
    const float *q = c->q + first_row;
    float *scores = c->scores + (size_t)first_row * ATTN_SCORE_STRIDE;
    int32_t at = c->begin / tokens * tokens;
    while (at < c->end) {
        const uint8_t *k[TOKENS_MAX_VECTORS];
        int n = 0;
        float *out = scores + (at - chunk_begin);
        for (; n < TOKENS_MAX_VECTORS && at < c->end; n++, at += tokens)
            k[n] = (const uint8_t *)kv->base + (size_t)c->table[at / page_size] * kv->page_bytes +
                   c->head_offset + (size_t)(at % page_size * size);
        const size_t stride = (size_t)(page_size * size), v_offset = (size_t)kv->head_dim * stride;
        if (n == TOKENS_MAX_VECTORS && tokens == VW) {
            score_tile(dtype, R, TOKENS_MAX_VECTORS, fetch, k, stride, VW, kv->head_dim, v_offset, q, out);
            continue;
        }
        for (int i = 0; i < n; i++, out += tokens) {
            if (tokens == VW)
                score_tile(dtype, R, 1, fetch, k + i, stride, VW, kv->head_dim, v_offset, q, out);
            else
                score_tile(dtype, R, 1, fetch, k + i, stride, tokens, kv->head_dim, v_offset, q, out);
        }
    }
}

/* ---- softmax of one row's chunk ------------------------------------------------------------------------ */

INLINE vf visible_or_nothing(vf s, vf position, float first, float last)
{
    const vf nothing = vf_set1(-INFINITY);
    s = vf_select_lt(position, vf_set1(first), nothing, s);
    return vf_select_lt(vf_set1(last), position, nothing, s);
}

static void soften_row(const struct attn_chunk *c, int32_t row, float *m, float *l)
{
    float *s = c->scores + (size_t)row * ATTN_SCORE_STRIDE;
    const int32_t chunk_begin = c->begin / ATTN_CHUNK * ATTN_CHUNK;
    const int32_t from = (c->begin - chunk_begin) / VW * VW, to = c->end - chunk_begin, p = c->position[row];
    const int32_t first = c->window > 0 ? p - c->window + 1 : 0;
    const int all_visible = first <= chunk_begin + from && p >= chunk_begin + (to + VW - 1) / VW * VW - 1;
    const vf lane = vf_from_vi(vi_iota()), cap = vf_set1(c->softcap);
    vf largest = vf_set1(ATTN_NOTHING), sum = vf_zero();
    for (int32_t i = from; i < to; i += VW) {
        vf v = vf_load(s + i);
        if (c->softcap > 0) v = vf_mul(cap, vf_tanh(vf_div(v, cap)));
        if (!all_visible)
            v = visible_or_nothing(v, vf_add(lane, vf_set1((float)(chunk_begin + i))), (float)first,
                                   (float)p);
        vf_store(s + i, v);
        largest = vf_max(largest, v);
    }
    *m = vf_largest(largest);
    const vf top = vf_set1(*m);
    for (int32_t i = from; i < to; i += VW) {
        const vf v = vf_exp(vf_sub(vf_load(s + i), top));
        vf_store(s + i, v);
        sum = vf_add(sum, v);
    }
    *l = vf_sum(sum);
}

/* ---- weighted sums of V: R rows, V vectors of coordinates ---------------------------------------------- */

/* K of the page that holds position `at` a chunk further; where the sequence ends before, of the same page.
 */
INLINE const uint8_t *next_chunk_keys(const struct attn_chunk *c, int32_t at)
{
    const int32_t next = at + ATTN_CHUNK < c->kv_len ? at + ATTN_CHUNK : at;
    return (const uint8_t *)c->kv->base + (size_t)c->table[next / c->kv->page_size] * c->kv->page_bytes +
           c->head_offset;
}

INLINE void value_tile(const enum llm_dtype dtype, const int R, const int V, const int fetch,
                       const struct attn_chunk *c, int32_t first_row, int32_t d, int lanes_here, float *o)
{
    const struct kv_cache *kv = c->kv;
    const int32_t dim = kv->head_dim, page_size = kv->page_size;
    const size_t size = dtype == DTYPE_F32 ? 4 : 2;
    const size_t v_offset = c->head_offset + ((size_t)dim * (size_t)page_size + (size_t)d) * size;
    const float *p = c->scores + (size_t)first_row * ATTN_SCORE_STRIDE + c->begin % ATTN_CHUNK;
    vf acc[ROWS_MAX][TOKENS_MAX_VECTORS];
    UNROLL_FOR (int r = 0; r < R; r++)
        UNROLL_FOR (int v = 0; v < V; v++) acc[r][v] = vf_zero();
    for (int32_t at = c->begin; at < c->end;) {
        const int32_t in_page = at % page_size, left = c->end - at;
        const int32_t n = page_size - in_page < left ? page_size - in_page : left;
        const uint8_t *value = (const uint8_t *)kv->base + (size_t)c->table[at / page_size] * kv->page_bytes +
                               v_offset + (size_t)in_page * (size_t)dim * size;
        const uint8_t *next = fetch ? next_chunk_keys(c, at) + (size_t)in_page * (size_t)dim * size : NULL;
        for (int32_t t = 0; t < n; t++, p++, value += (size_t)dim * size) {
            vf vd[TOKENS_MAX_VECTORS];
            UNROLL_FOR (int v = 0; v < V && fetch; v++)
                _mm_prefetch((const char *)next + ((size_t)t * (size_t)dim + (size_t)(d + v * VW)) * size,
                             _MM_HINT_T0);
            UNROLL_FOR (int v = 0; v < V; v++)
                vd[v] = load_kv(dtype, value + (size_t)(v * VW) * size, lanes_here);
            UNROLL_FOR (int r = 0; r < R; r++) {
                const vf pt = vf_set1(p[r * ATTN_SCORE_STRIDE]);
                UNROLL_FOR (int v = 0; v < V; v++) acc[r][v] = vf_fma(pt, vd[v], acc[r][v]);
            }
        }
        at += n;
    }
    UNROLL_FOR (int r = 0; r < R; r++)
        UNROLL_FOR (int v = 0; v < V; v++)
            vf_store_n(o + (size_t)(first_row + r) * (size_t)dim + (size_t)(d + v * VW), acc[r][v],
                       lanes_here);
}

INLINE void value_rows(const enum llm_dtype dtype, const int R, const int fetch, const struct attn_chunk *c,
                       int32_t first_row, float *o)
{
    const int32_t dim = c->kv->head_dim;
    int32_t d = 0;
    for (; d + TOKENS_MAX_VECTORS * VW <= dim; d += TOKENS_MAX_VECTORS * VW)
        value_tile(dtype, R, TOKENS_MAX_VECTORS, fetch, c, first_row, d, VW, o);
    for (; d + VW <= dim; d += VW) value_tile(dtype, R, 1, fetch, c, first_row, d, VW, o);
    if (d < dim) value_tile(dtype, R, 1, fetch, c, first_row, d, dim - d, o);
}

/* ---- a chunk ------------------------------------------------------------------------------------------- */

#define FOR_ROWS(R, n, call)                                                                                 \
    switch (n) {                                                                                             \
    case 1: {                                                                                                \
        enum { R = 1 };                                                                                      \
        call;                                                                                                \
        break;                                                                                               \
    }                                                                                                        \
    case 2: {                                                                                                \
        enum { R = 2 };                                                                                      \
        call;                                                                                                \
        break;                                                                                               \
    }                                                                                                        \
    case 3: {                                                                                                \
        enum { R = 3 };                                                                                      \
        call;                                                                                                \
        break;                                                                                               \
    }                                                                                                        \
    case 4: {                                                                                                \
        enum { R = 4 };                                                                                      \
        call;                                                                                                \
        break;                                                                                               \
    }                                                                                                        \
    case 5: {                                                                                                \
        enum { R = 5 };                                                                                      \
        call;                                                                                                \
        break;                                                                                               \
    }                                                                                                        \
    default: {                                                                                               \
        enum { R = 6 };                                                                                      \
        call;                                                                                                \
        break;                                                                                               \
    }                                                                                                        \
    }

INLINE void attend(const enum llm_dtype dtype, const int fetch, const struct attn_chunk *c,
                   const struct attn_rows *out)
{
    for (int32_t row = 0; row < c->n_rows; row += ROWS_MAX) {
        const int32_t n = c->n_rows - row;
        FOR_ROWS(R, n, score_rows(dtype, R, fetch, c, row))
    }
    for (int32_t row = 0; row < c->n_rows; row++) soften_row(c, row, &out->m[row], &out->l[row]);
    for (int32_t row = 0; row < c->n_rows; row += ROWS_MAX) {
        const int32_t n = c->n_rows - row;
        FOR_ROWS(R, n, value_rows(dtype, R, fetch, c, row, out->o))
    }
}

INLINE void attend_chunk(const enum llm_dtype dtype, const struct attn_chunk *c, const struct attn_rows *out)
{
    if (c->n_rows <= ROWS_MAX)
        attend(dtype, 1, c, out);
    else
        attend(dtype, 0, c, out);
}

static void attend_f32(const struct attn_chunk *c, const struct attn_rows *out)
{
    attend_chunk(DTYPE_F32, c, out);
}

static void attend_f16(const struct attn_chunk *c, const struct attn_rows *out)
{
    attend_chunk(DTYPE_F16, c, out);
}

static void attend_bf16(const struct attn_chunk *c, const struct attn_rows *out)
{
    attend_chunk(DTYPE_BF16, c, out);
}

static void attend_merge(const struct attn_rows *into, const struct attn_rows *from, int32_t dim)
{
    for (int32_t r = 0; r < into->n_rows; r++) {
        const float m = into->m[r] > from->m[r] ? into->m[r] : from->m[r];
        const vf a = vf_exp(vf_set1(into->m[r] - m)), b = vf_exp(vf_set1(from->m[r] - m));
        float *o = into->o + (size_t)r * (size_t)dim;
        const float *p = from->o + (size_t)r * (size_t)dim;
        for (int32_t d = 0; d < dim; d += VW) {
            const int n = dim - d < VW ? dim - d : VW;
            vf_store_n(o + d, vf_fma(vf_load_n(p + d, n), b, vf_mul(vf_load_n(o + d, n), a)), n);
        }
        const vf l = vf_fma(vf_set1(from->l[r]), b, vf_mul(vf_set1(into->l[r]), a));
        vf_store_n(&into->l[r], l, 1);
        into->m[r] = m;
    }
}
