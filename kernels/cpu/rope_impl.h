/* Rotation, and the writing of K and V to their page. Included by isa_impl.h. The loops are plain: the
 * compiler makes vectors of them, and they are a small part of a step. */

#include "kernels/cpu/kv_layout.h"

static void rotate_pairs_apart(float *restrict x, const float *restrict table, int32_t half)
{
    float *restrict y = x + half;
    const float *restrict sine = table + half;
    for (int32_t i = 0; i < half; i++) {
        const float u = x[i], v = y[i];
        x[i] = u * table[i] - v * sine[i];
        y[i] = u * sine[i] + v * table[i];
    }
}

static void rotate_pairs_beside(float *restrict x, const float *restrict table, int32_t half)
{
    const float *restrict sine = table + half;
    for (int32_t i = 0; i < half; i++) {
        const float u = x[2 * i], v = x[2 * i + 1];
        x[2 * i] = u * table[i] - v * sine[i];
        x[2 * i + 1] = u * sine[i] + v * table[i];
    }
}

static void rotate_head(enum rope_kind rope, float *x, const float *table, int32_t rotary_dim)
{
    if (rope == ROPE_NEOX) rotate_pairs_apart(x, table, rotary_dim / 2);
    if (rope == ROPE_INTERLEAVED) rotate_pairs_beside(x, table, rotary_dim / 2);
}

/* x [dim] to dst, `step` elements from one to the next. */
static void store_kv(enum llm_dtype dtype, const float *x, int32_t dim, uint8_t *dst, int32_t step)
{
    if (dtype == DTYPE_F32) {
        for (int32_t d = 0; d < dim; d++) ((float *)(void *)dst)[(size_t)d * (size_t)step] = x[d];
        return;
    }
    uint16_t *to = (uint16_t *)(void *)dst, halves[VW];
    for (int32_t d = 0; d < dim; d += VW) {
        const int n = dim - d < VW ? dim - d : VW;
        if (dtype == DTYPE_F16)
            vf_store_f16(halves, vf_load_n(x + d, n));
        else
            for (int i = 0; i < n; i++) halves[i] = f32_to_bf16(x[d + i]);
        for (int i = 0; i < n; i++) to[(size_t)(d + i) * (size_t)step] = halves[i];
    }
}

static void rope_kv_row(const struct rope_kv_args *a, int32_t i)
{
    const struct kv_cache *kv = a->kv;
    const int32_t dim = kv->head_dim, n_kv = kv->n_kv_heads, page_size = kv->page_size;
    float *row = (float *)a->qkv + i * a->qkv_stride;
    const float *table =
        a->rope == ROPE_NONE ? NULL : a->rope_table + (size_t)a->positions[i] * (size_t)a->rotary_dim;
    for (int32_t h = 0; h < a->n_heads + n_kv; h++) {
        float *x = row + (size_t)h * (size_t)dim;
        norm_row(h < a->n_heads ? &a->q_norm : &a->k_norm, x, x, dim);
        rotate_head(a->rope, x, table, a->rotary_dim);
    }
    const float *k = row + (size_t)a->n_heads * (size_t)dim, *v = k + (size_t)n_kv * (size_t)dim;
    const size_t token = (size_t)(a->slots[i] % page_size), size = kv_elem_bytes(kv);
    for (int32_t h = 0; h < n_kv; h++, k += dim, v += dim) {
        uint8_t *to_k = kv_page_head(kv, a->slots[i] / page_size, a->layer, h);
        uint8_t *to_v = to_k + kv_head_elems(kv) * size;
        store_kv(kv->dtype, k, dim, to_k + token * size, page_size);
        store_kv(kv->dtype, v, dim, to_v + token * (size_t)dim * size, 1);
    }
}
