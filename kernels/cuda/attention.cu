/* The attention op: memory, plans, and which kernel computes what. */

#include "kernels/cuda/attention.cuh"

#include <cstring>

static size_t aligned(size_t bytes)
{
    return (bytes + 255) & ~static_cast<size_t>(255);
}

/* Gives the next piece of a block of memory; with base null only counts. */
template <typename T> static T *carve(char *base, size_t *used, size_t count)
{
    T *p = reinterpret_cast<T *>(base + *used);
    *used += aligned(count * sizeof(T));
    return base ? p : nullptr;
}

static size_t carve_all(struct cuda_attention *at, char *base)
{
    size_t used = 0;
    const struct backend_limits *l = &at->limits;
    const size_t seqs = static_cast<size_t>(l->max_seqs), heads = static_cast<size_t>(l->n_heads);
    for (int i = 0; i < MAX_PLANS; i++) {
        struct attention_plan *p = &at->plans[i];
        p->n_tiles = carve<int32_t>(base, &used, 1);
        p->bins = carve<struct decode_bin>(base, &used, static_cast<size_t>(at->max_bins));
        p->tiles = carve<struct prefill_tile>(base, &used, static_cast<size_t>(at->max_tiles));
    }
    const size_t rows = static_cast<size_t>(l->n_heads < DECODE_MAX_GROUP ? l->n_heads : DECODE_MAX_GROUP);
    const size_t slots = 2 * static_cast<size_t>(at->max_bins);
    at->partials.sums = carve<float>(base, &used, slots * rows * static_cast<size_t>(l->head_dim));
    at->partials.stats = carve<float2>(base, &used, slots * rows);
    at->partials.arrived = carve<int32_t>(base, &used, seqs * heads);
    return used;
}

/* Tiles of PREFILL_ROWS that n_seqs chunks with n_rows rows in all can have. */
static int32_t most_tiles(int32_t n_rows, int32_t n_seqs, int32_t tile_rows)
{
    return n_rows / tile_rows + n_seqs;
}

llm_status attention_open(struct cuda_backend *cu, struct llm_error *err)
{
    struct cuda_attention *at = cu->attention;
    if (!at) {
        at = static_cast<struct cuda_attention *>(mem_zalloc(sizeof *at));
        if (!at) return llm_fail(err, LLM_ENOMEM, "no host memory for attention");
        cu->attention = at;
        attention_maps_open(at);
    }
    if (at->memory) {
        cudaFree(at->memory);
        at->memory = nullptr;
    }
    at->limits = cu->limits;
    at->max_bins = 8 * cu->n_sms;
    at->max_tiles = most_tiles(cu->limits.max_rows, cu->limits.max_seqs, PREFILL_ROWS);
    const size_t bytes = carve_all(at, nullptr);
    if (cudaMalloc(&at->memory, bytes) != cudaSuccess) {
        at->memory = nullptr;
        cudaGetLastError();
        return llm_fail(err, LLM_ENOMEM, "no device memory for attention: %zu MiB of workspace", bytes >> 20);
    }
    carve_all(at, static_cast<char *>(at->memory));
    if (cudaMemset(at->memory, 0, bytes) != cudaSuccess)
        return llm_fail(err, LLM_EFAILED, "cannot clear the workspace of attention: %s",
                        cudaGetErrorString(cudaGetLastError()));
    return LLM_OK;
}

void attention_close(struct cuda_backend *cu)
{
    if (!cu->attention) return;
    cudaFree(cu->attention->memory);
    mem_free(cu->attention);
    cu->attention = nullptr;
}

llm_status attention_begin(struct cuda_backend *cu, const struct step_shape *shape)
{
    cu->attention->shape = *shape;
    cu->attention->n_plans = 0;
    return cu->failed ? LLM_EFAILED : LLM_OK;
}

/* The plan for `key`: made at the first call of a step that asks for it. A ninth is made anew each
 * time, in the last one's place; the stream keeps the order. */
static llm_status find_plan(struct cuda_backend *cu, struct attention_call *a, const struct plan_key *key,
                            const struct attention_plan **out)
{
    struct cuda_attention *at = cu->attention;
    for (int i = 0; i < at->n_plans; i++)
        if (!memcmp(&at->keys[i], key, sizeof *key)) {
            *out = &at->plans[i];
            a->planned = 1;
            return LLM_OK;
        }
    const int i = at->n_plans < MAX_PLANS ? at->n_plans++ : MAX_PLANS - 1;
    at->keys[i] = *key;
    a->planned = 0;
    *out = &at->plans[i];
    return attention_make_plan(cu, *out, key, a);
}

static struct attention_call call_of(const struct attention_args *a)
{
    const float log2_e = 1.4426950408889634f;
    const struct kv_cache *kv = a->kv;
    const int64_t element = dtype_table[kv->dtype].bytes;
    struct attention_call c = {};
    c.q = a->q, c.q_stride = a->q_stride;
    c.out = a->out, c.out_stride = a->out_stride;
    c.seq_start = a->seq_start, c.kv_len = a->kv_len;
    c.block_table = a->block_table, c.block_table_stride = a->block_table_stride;
    c.k = static_cast<const char *>(kv->base) + kv_offset(kv, a->layer, 0, 0) * element;
    c.page_bytes = static_cast<int64_t>(kv->page_bytes);
    c.head_bytes = static_cast<int64_t>(kv->page_size) * kv->head_dim * element;
    c.v_bytes = c.head_bytes * kv->n_kv_heads;
    c.page_shift = __builtin_ctz(static_cast<unsigned>(kv->page_size));
    c.n_seqs = a->n_seqs, c.n_heads = a->n_heads;
    c.n_kv_heads = kv->n_kv_heads, c.group = a->n_heads / kv->n_kv_heads;
    c.head_dim = kv->head_dim;
    c.window = a->window;
    c.scale_log2 = a->scale * log2_e;
    if (a->softcap != 0) {
        c.cap_log2 = a->softcap * log2_e;
        c.cap_scale = a->scale / a->softcap;
    }
    return c;
}

/* The sequences of one row, rows [0, n_decode). */
static llm_status attend_decodes(struct cuda_backend *cu, struct attention_call *c, const struct kv_cache *kv)
{
    const int32_t n = cu->attention->shape.n_decode;
    const struct plan_key key = {c->block_table, c->window, c->n_kv_heads,
                                 attention_decode_bins(cu, kv, c->group), 0};
    if (!key.n_bins) return attention_any(cu, c, kv->dtype, 0, n);
    const struct attention_plan *plan;
    if (find_plan(cu, c, &key, &plan)) return LLM_EFAILED;
    return attention_decode(cu, c, kv, plan);
}

/* The others. */
static llm_status attend_chunks(struct cuda_backend *cu, struct attention_call *c, const struct kv_cache *kv,
                                int32_t layer)
{
    const struct step_shape *shape = &cu->attention->shape;
    const int32_t n_rows = shape->n_tokens - shape->n_decode, n_seqs = shape->n_seqs - shape->n_decode;
    const int hopper = attention_hopper_fits(cu, c, kv);
    if (!hopper && !attention_prefill_fits(cu, kv))
        return attention_any(cu, c, kv->dtype, shape->n_decode, n_rows);
    const struct plan_key key = {c->block_table, c->window, 0, 0, hopper ? HOPPER_ROWS : PREFILL_ROWS};
    const int32_t max_tiles = most_tiles(n_rows, n_seqs, key.tile_rows);
    const struct attention_plan *plan;
    if (find_plan(cu, c, &key, &plan)) return LLM_EFAILED;
    if (hopper) return attention_hopper(cu, c, kv, layer, plan, max_tiles);
    return attention_prefill(cu, c, kv, plan, max_tiles);
}

llm_status cuda_attention(struct backend *be, const struct attention_args *a)
{
    struct cuda_backend *cu = cuda_of(be);
    const struct step_shape *shape = &cu->attention->shape;
    struct attention_call c = call_of(a);
    if (shape->n_decode > 0 && attend_decodes(cu, &c, a->kv)) return LLM_EFAILED;
    if (shape->n_seqs > shape->n_decode && attend_chunks(cu, &c, a->kv, a->layer)) return LLM_EFAILED;
    return cu->failed ? LLM_EFAILED : LLM_OK;
}
