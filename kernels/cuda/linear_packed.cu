/* Products of packed weights and many rows, on Hopper: choosing, dealing out and launching the kernels of
 * linear_packed.cuh, and what those cannot do in one pass. */

#include "kernels/cuda/linear_packed.cuh"

#include <algorithm>

enum { BAND = 4, LEAST_STEPS = 4 };

struct packed_state {
    struct cuda_backend *cu;
    float *partial;
    uint32_t *ready;
    struct packed_variant tiles[N_FORMATS][PACKED_WIDTHS];
};

/* ---- opening ---------------------------------------------------------------------------------------------
 */

static size_t partial_bytes(const struct cuda_backend *cu)
{
    return sizeof(float) * PACKED_PARTIAL * (size_t)cu->n_sms;
}

static llm_status fill_tiles(struct packed_state *s)
{
    const int half = s->cu->base.act_dtype == DTYPE_F16;
    llm_status st = LLM_OK;
    for (int f = FORMAT_DENSE + 1; f < N_FORMATS; f++) {
        (half ? packed_tiles_f16 : packed_tiles_bf16)(static_cast<enum weight_format>(f), s->tiles[f]);
        for (const struct packed_variant &v : s->tiles[f])
            if (!st)
                st = cuda_check(
                    s->cu,
                    cudaFuncSetAttribute(v.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v.shared),
                    "preparing linear layers");
    }
    return st;
}

llm_status packed_open(struct cuda_backend *cu, struct packed_state **out, struct llm_error *err)
{
    auto *s = static_cast<struct packed_state *>(mem_zalloc(sizeof(struct packed_state)));
    if (!s) return llm_fail(err, LLM_ENOMEM, "no memory for the state of quantized layers");
    s->cu = cu;
    s->partial = static_cast<float *>(cu->base.alloc(&cu->base, partial_bytes(cu)));
    s->ready = static_cast<uint32_t *>(cu->base.alloc(&cu->base, sizeof(uint32_t) * (size_t)cu->n_sms));
    llm_status st = fill_tiles(s);
    if (st)
        llm_fail(err, st, "%s", cu->failure);
    else if (!s->partial || !s->ready)
        st = llm_fail(err, LLM_ENOMEM, "no device memory for partial sums of quantized layers");
    if (st)
        packed_close(s);
    else
        *out = s;
    return st;
}

void packed_close(struct packed_state *s)
{
    if (!s) return;
    struct backend *be = &s->cu->base;
    be->free(be, s->partial, partial_bytes(s->cu));
    be->free(be, s->ready, sizeof(uint32_t) * (size_t)s->cu->n_sms);
    mem_free(s);
}

/* ---- choosing a width, and how tiles are dealt out -------------------------------------------------------
 */

/* By cycles, fitted to products of four shapes and 64 to 2,048 rows on an H200 (docs/performance.md), of
 * which it picks the fastest width or one 3 % slower: a step takes STEP and 5 / 2 a row of x; FINISH of a
 * tile; sums through memory and back. */
enum { STEP = 590, FINISH = 2000, EXCHANGE = 3000, EXCHANGE_A_ROW = 12 };

struct packed_plan {
    const struct packed_variant *v;
    int32_t n_column_tiles, n_tiles, n_whole, n_clusters;
    int64_t cycles;
};

static struct packed_plan plan_width(const struct packed_variant *v, int32_t m, int32_t n_row_tiles,
                                     int32_t k_steps, int32_t clusters)
{
    struct packed_plan p = {v, (m + v->n_tokens - 1) / v->n_tokens, 0, 0, 0, 0};
    p.n_tiles = n_row_tiles * p.n_column_tiles;
    const int32_t turns = p.n_tiles / clusters, left = p.n_tiles % clusters;
    const int64_t tile = (int64_t)k_steps * (STEP + 5 * v->n_tokens / 2) + FINISH;
    const int32_t sharers = 1 + clusters / std::max(p.n_tiles, clusters / 8);
    const int64_t dealt =
        p.n_tiles * tile / clusters + EXCHANGE + (int64_t)EXCHANGE_A_ROW * v->n_tokens * sharers;
    const int64_t whole = (turns + (left > 0)) * tile;
    p.n_whole = whole <= dealt ? p.n_tiles : std::max(turns - 1, 0) * clusters;
    p.cycles = std::min(whole, dealt);
    const int64_t least = whole <= dealt ? k_steps : LEAST_STEPS;
    p.n_clusters =
        (int32_t)std::max<int64_t>(1, std::min<int64_t>(clusters, (int64_t)p.n_tiles * k_steps / least));
    return p;
}

static struct packed_plan plan_product(const struct cuda_backend *cu, const struct packed_state *s,
                                       enum weight_format format, int32_t m, int32_t n_row_tiles,
                                       int32_t k_steps)
{
    const int forced = (int)cu->linear->path - PATH_PACKED;
    struct packed_plan best = {};
    for (int i = 0; i < PACKED_WIDTHS; i++) {
        const struct packed_plan p =
            plan_width(&s->tiles[format][i], m, n_row_tiles, k_steps, cu->n_sms / PACKED_CLUSTER);
        if (i == forced) return p;
        if (!best.v || p.cycles <= best.cycles) best = p;
    }
    return best;
}

/* ---- a product -------------------------------------------------------------------------------------------
 */

static struct packed_args args_of(const struct packed_state *s, const struct product *p,
                                  const struct weight_block *b)
{
    struct packed_args a = {};
    a.n_tokens = p->m;
    a.n_out = p->n_out;
    a.k_steps = (p->k + 63) / 64;
    a.k_tiles = b->k_tiles;
    a.n_row_tiles = (p->n + PACKED_CLUSTER * PACKED_ROWS - 1) / (PACKED_CLUSTER * PACKED_ROWS);
    a.band = BAND;
    a.w = static_cast<const uint8_t *>(b->data);
    a.partial = s->partial;
    a.ready = s->ready;
    a.bias = p->bias;
    a.up_bias = p->up_bias;
    a.epilogue = p->epilogue;
    a.act = p->act;
    a.y = p->f32_out ? static_cast<float *>(p->y) : nullptr;
    a.y_stride = p->y_stride;
    return a;
}

static llm_status launch_packed(struct cuda_backend *cu, const struct packed_state *s,
                                const struct weight_block *b, const struct product *p)
{
    struct packed_args a = args_of(s, p, b);
    const struct packed_plan plan = plan_product(cu, s, b->format, p->m, a.n_row_tiles, a.k_steps);
    a.n_column_tiles = plan.n_column_tiles;
    a.n_whole = plan.n_whole;
    CUtensorMap x_map, y_map = {};
    llm_status st = stream_map(cu, &x_map, p->x, p->m, p->k, p->x_stride, plan.v->n_tokens / PACKED_CLUSTER);
    if (!st && !a.y) st = stream_map(cu, &y_map, p->y, p->m, p->n_out, p->y_stride, plan.v->n_tokens);
    if (st) return st;
    return cuda_launch(cu, "linear", plan.v->kernel, dim3((unsigned)plan.n_clusters * PACKED_CLUSTER),
                       dim3(384), (size_t)plan.v->shared, x_map, y_map, a);
}

/* Whether the kernels can finish this themselves. */
static int is_one_pass(const struct product *p)
{
    const int known_act =
        p->epilogue == LINEAR_GATED ? p->act == ACT_SILU || p->act == ACT_GELU_TANH : p->act == ACT_NONE;
    const int to_map =
        reinterpret_cast<uintptr_t>(p->y) % 16 == 0 && p->n_out % 8 == 0 && p->y_stride % 8 == 0;
    return known_act && (p->f32_out || to_map);
}

/* Into the wide buffer, or f32 results where they belong, with a pass after it. */
static llm_status two_passes(struct cuda_backend *cu, const struct packed_state *s,
                             const struct weight_block *b, const struct product *whole)
{
    struct cuda_linear *l = cu->linear;
    const int32_t rows = rows_at_once(cu, whole->m, whole->n);
    llm_status st = LLM_OK;
    for (int32_t row = 0; row < whole->m && !st; row += rows) {
        struct product p = *whole;
        p.m = std::min(rows, whole->m - row);
        p.x = static_cast<const char *>(whole->x) + row * whole->x_stride * 2;
        p.y = static_cast<char *>(whole->y) + row * whole->y_stride * (whole->f32_out ? 4 : 2);
        struct product wide = p;
        wide.epilogue = LINEAR_STORE;
        wide.act = ACT_NONE;
        wide.bias = wide.up_bias = nullptr;
        wide.y = p.f32_out ? p.y : l->wide;
        wide.y_stride = p.f32_out ? p.y_stride : (p.n + 7) / 8 * 8;
        wide.n_out = p.f32_out ? p.n_out : (p.n + 7) / 8 * 8;
        st = launch_packed(cu, s, b, &wide);
        if (st) break;
        st = p.epilogue == LINEAR_GATED ? gated_rows(cu, &p, wide.y, wide.y_stride)
                                        : finish_rows(cu, &p, wide.y, wide.y_stride);
    }
    return st;
}

llm_status packed_product(struct cuda_backend *cu, const struct packed_state *s, const struct weight_block *b,
                          const struct product *p)
{
    return (is_one_pass(p) ? launch_packed : two_passes)(cu, s, b, p);
}
