/* The specification of every op: scalar, one thread, sums in double, nothing clever. The fast paths are held
 * to it within the tolerances of kernels.h. Reached with isa = "ref", and slow: for tests and for doubt. */

#include "kernels/cpu/ref.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/kv_layout.h"
#include "kernels/cpu/weight.h"

#include <math.h>

/* ---- norm ---------------------------------------------------------------------------------------------- */

void ref_norm_row(const struct norm *norm, const float *x, float *y, int32_t n)
{
    if (norm->kind == NORM_NONE) {
        memmove(y, x, (size_t)n * sizeof *y);
        return;
    }
    double mean = 0, squares = 0;
    if (norm->kind == NORM_LAYER) {
        for (int32_t i = 0; i < n; i++) mean += x[i];
        mean /= n;
    }
    for (int32_t i = 0; i < n; i++) squares += (x[i] - mean) * (x[i] - mean);
    const double scale = 1 / sqrt(squares / n + (double)norm->eps);
    for (int32_t i = 0; i < n; i++) {
        const double weight = norm->weight ? norm->weight[i] : 1, bias = norm->bias ? norm->bias[i] : 0;
        y[i] = (float)((x[i] - mean) * scale * weight + bias);
    }
}

static llm_status ref_norm(struct backend *be, const struct norm_args *a)
{
    float *row = (float *)(void *)cpu_of(be)->scratch.memory;
    for (int32_t i = 0; i < a->n_rows; i++) {
        const float *x = (const float *)a->x + i * a->x_stride;
        float *y = (float *)a->y + i * a->y_stride;
        ref_norm_row(&a->norm, x, row, a->n);
        for (int32_t j = 0; j < a->n; j++) y[j] = a->add ? y[j] + row[j] : row[j];
    }
    return LLM_OK;
}

/* ---- embed --------------------------------------------------------------------------------------------- */

static llm_status ref_embed(struct backend *be, const struct embed_args *a)
{
    float *position = (float *)(void *)cpu_of(be)->scratch.memory;
    for (int32_t i = 0; i < a->n_tokens; i++) {
        float *x = (float *)a->x + i * a->x_stride;
        dequantize_row(a->table, a->tokens[i], x);
        for (int32_t j = 0; j < a->n; j++) x[j] *= a->scale;
        if (!a->position_table) continue;
        dequantize_row(a->position_table, a->positions[i] + a->position_offset, position);
        for (int32_t j = 0; j < a->n; j++) x[j] += position[j];
    }
    return LLM_OK;
}

/* ---- linear -------------------------------------------------------------------------------------------- */

void ref_round_row(const float *x, float *out, int32_t n)
{
    for (; n > 0; n -= 32, x += 32, out += 32) {
        float largest = 0;
        for (int i = 0; i < 32; i++) largest = fmaxf(largest, fabsf(x[i]));
        const float d = largest / 127, inverse = largest > 1e-30f ? 127 / largest : 0;
        for (int i = 0; i < 32; i++) out[i] = d * rintf(x[i] * inverse);
    }
}

static float activate(enum activation act, float v)
{
    const double x = v;
    switch (act) {
    case ACT_NONE:
        break;
    case ACT_SILU:
        return (float)(x / (1 + exp(-x)));
    case ACT_GELU:
        return (float)(0.5 * x * (1 + erf(x * 0.70710678118654752)));
    case ACT_GELU_TANH:
        return (float)(0.5 * x * (1 + tanh(0.79788456080286536 * (x + 0.044715 * x * x * x))));
    case ACT_RELU:
        return v > 0 ? v : 0;
    }
    return v;
}

/* Row `row` of the stacked parts, as f32. */
static void weight_row(const struct weight *w, int32_t row, float *out)
{
    int32_t i = 0;
    while (row - w->part[i].first_out >= w->part[i].n_out) i++;
    const struct weight_part *p = &w->part[i];
    const struct tensor stored = {p->dtype, 2, {p->n_out, w->n_in}, p->panels};
    dequantize_row(&stored, row - p->first_out, out);
}

static float dot(const float *x, const float *w, int32_t n, double bias)
{
    double sum = bias;
    for (int32_t i = 0; i < n; i++) sum += (double)x[i] * w[i];
    return (float)sum;
}

static llm_status ref_linear(struct backend *be, const struct linear_args *a)
{
    const struct weight *w = a->w;
    const int gated = a->epilogue == LINEAR_GATED;
    const int32_t n_in = w->n_in, n_y = gated ? w->n_out / 2 : w->n_out;
    float *row = (float *)(void *)cpu_of(be)->scratch.memory, *up_row = row + n_in, *x = up_row + n_in;
    for (int32_t i = 0; i < a->n_rows; i++)
        ref_norm_row(&a->norm, (const float *)a->x + i * a->x_stride, x + (size_t)i * n_in, n_in);
    for (int32_t j = 0; j < n_y; j++) {
        weight_row(w, j, row);
        if (gated) weight_row(w, n_y + j, up_row);
        for (int32_t i = 0; i < a->n_rows; i++) {
            const float *xi = x + (size_t)i * n_in;
            float *y = (float *)a->y + i * a->y_stride + j;
            float v = dot(xi, row, n_in, a->bias ? a->bias[j] : 0);
            v = activate(a->act, v);
            if (gated) v *= dot(xi, up_row, n_in, a->bias ? a->bias[n_y + j] : 0);
            *y = a->epilogue == LINEAR_ADD ? *y + v : v;
        }
    }
    return LLM_OK;
}

/* ---- KV cache ------------------------------------------------------------------------------------------ */

static void kv_put(const struct kv_cache *kv, uint8_t *base, size_t i, float v)
{
    const uint16_t h = kv->dtype == DTYPE_F16 ? f32_to_f16(v) : f32_to_bf16(v);
    if (kv->dtype == DTYPE_F32)
        memcpy(base + 4 * i, &v, 4);
    else
        memcpy(base + 2 * i, &h, 2);
}

static float kv_get(const struct kv_cache *kv, const uint8_t *base, size_t i)
{
    float v;
    uint16_t h;
    if (kv->dtype == DTYPE_F32) {
        memcpy(&v, base + 4 * i, 4);
        return v;
    }
    memcpy(&h, base + 2 * i, 2);
    return kv->dtype == DTYPE_F16 ? f16_to_f32(h) : bf16_to_f32(h);
}

static void rotate(const struct rope_kv_args *a, const float *table, float *x)
{
    const int32_t half = a->rotary_dim / 2;
    if (a->rope == ROPE_NONE) return;
    for (int32_t i = 0; i < half; i++) {
        const int32_t first = a->rope == ROPE_NEOX ? i : 2 * i,
                      second = a->rope == ROPE_NEOX ? i + half : 2 * i + 1;
        const float c = table[i], s = table[half + i], u = x[first], v = x[second];
        x[first] = u * c - v * s;
        x[second] = u * s + v * c;
    }
}

static llm_status ref_rope_kv(struct backend *be, const struct rope_kv_args *a)
{
    (void)be;
    const struct kv_cache *kv = a->kv;
    const int32_t dim = kv->head_dim, n_kv = kv->n_kv_heads, page_size = kv->page_size;
    for (int32_t i = 0; i < a->n_tokens; i++) {
        float *row = (float *)a->qkv + i * a->qkv_stride;
        const float *table =
            a->rope == ROPE_NONE ? NULL : a->rope_table + (size_t)a->positions[i] * (size_t)a->rotary_dim;
        for (int32_t h = 0; h < a->n_heads + n_kv; h++) {
            float *x = row + (size_t)h * (size_t)dim;
            ref_norm_row(h < a->n_heads ? &a->q_norm : &a->k_norm, x, x, dim);
            rotate(a, table, x);
        }
        const float *k = row + (size_t)a->n_heads * (size_t)dim, *v = k + (size_t)n_kv * (size_t)dim;
        const int32_t page = a->slots[i] / page_size, token = a->slots[i] % page_size;
        for (int32_t h = 0; h < n_kv; h++) {
            uint8_t *to_k = kv_page_head(kv, page, a->layer, h);
            uint8_t *to_v = to_k + kv_head_elems(kv) * kv_elem_bytes(kv);
            for (int32_t d = 0; d < dim; d++) {
                kv_put(kv, to_k, (size_t)d * (size_t)page_size + (size_t)token, k[h * dim + d]);
                kv_put(kv, to_v, (size_t)token * (size_t)dim + (size_t)d, v[h * dim + d]);
            }
        }
    }
    return LLM_OK;
}

/* ---- attention ----------------------------------------------------------------------------------------- */

/* One query of head `kv_head`'s group at position p. scores: scratch, [p + 1]. */
static void attend(const struct attention_args *a, const int32_t *table, int32_t kv_head, int32_t p,
                   const float *q, float *out, float *scores)
{
    const struct kv_cache *kv = a->kv;
    const int32_t dim = kv->head_dim, page_size = kv->page_size;
    const int32_t first = a->window > 0 && p - a->window + 1 > 0 ? p - a->window + 1 : 0;
    float largest = -INFINITY;
    for (int32_t t = first; t <= p; t++) {
        const uint8_t *k = kv_page_head(kv, table[t / page_size], a->layer, kv_head);
        double s = 0;
        for (int32_t d = 0; d < dim; d++)
            s += (double)q[d] * kv_get(kv, k, (size_t)d * (size_t)page_size + (size_t)(t % page_size));
        s *= a->scale;
        if (a->softcap > 0) s = a->softcap * tanh(s / a->softcap);
        scores[t] = (float)s;
        largest = fmaxf(largest, scores[t]);
    }
    double sum = 0;
    for (int32_t t = first; t <= p; t++) sum += scores[t] = expf(scores[t] - largest);
    for (int32_t d = 0; d < dim; d++) {
        double v = 0;
        for (int32_t t = first; t <= p; t++) {
            const uint8_t *page = kv_page_head(kv, table[t / page_size], a->layer, kv_head);
            const uint8_t *from = page + kv_head_elems(kv) * kv_elem_bytes(kv);
            v += (double)scores[t] * kv_get(kv, from, (size_t)(t % page_size) * (size_t)dim + (size_t)d);
        }
        out[d] = (float)(v / sum);
    }
}

static llm_status ref_attention(struct backend *be, const struct attention_args *a)
{
    float *scores = (float *)(void *)cpu_of(be)->scratch.memory;
    const int32_t dim = a->kv->head_dim, group = a->n_heads / a->kv->n_kv_heads;
    for (int32_t s = 0; s < a->n_seqs; s++) {
        const int32_t *table = a->block_table + (size_t)s * (size_t)a->block_table_stride;
        const int32_t first = a->kv_len[s] - (a->seq_start[s + 1] - a->seq_start[s]); /* position of row 0 */
        for (int32_t row = a->seq_start[s]; row < a->seq_start[s + 1]; row++)
            for (int32_t h = 0; h < a->n_heads; h++)
                attend(a, table, h / group, first + row - a->seq_start[s],
                       (const float *)a->q + row * a->q_stride + (size_t)h * (size_t)dim,
                       (float *)a->out + row * a->out_stride + (size_t)h * (size_t)dim, scores);
    }
    return LLM_OK;
}

/* ---- */

static llm_status ref_reserve(struct backend *be, const struct backend_limits *limits, struct llm_error *err)
{
    const size_t rows = (size_t)limits->max_rows + 2, widest = (size_t)limits->max_n;
    size_t floats = rows * widest;
    if (floats < (size_t)limits->max_model_len) floats = (size_t)limits->max_model_len;
    cpu_of(be)->limits = *limits;
    return cpu_renew_scratch(cpu_of(be), floats * sizeof(float), err);
}

void ref_install(struct backend *be)
{
    be->reserve = ref_reserve;
    be->embed = ref_embed;
    be->norm = ref_norm;
    be->linear = ref_linear;
    be->rope_kv = ref_rope_kv;
    be->attention = ref_attention;
}
