/* Products of 65 to some 512 rows by kernels of our own, on Hopper: which there are, and launching them. */

#include "kernels/cuda/linear_split.cuh"

#include <algorithm>

typedef void split_fn(const CUtensorMap, const CUtensorMap, const split_args);

#define SPLIT(columns, above, parts) (10000 * (above) + 1000 * (parts) + (columns))

/* number: columns, 1000 for each part, 10000 for each tile of a cluster. */
struct split_variant {
    int32_t number, columns, above, parts, shared;
    split_fn *kernel;
};

template <typename T, int COLUMNS, int ABOVE, int PARTS> static struct split_variant variant_of()
{
    return {
        SPLIT(COLUMNS, ABOVE, PARTS),          COLUMNS, ABOVE, PARTS, split<COLUMNS, ABOVE, PARTS>::SHARED,
        split_kernel<T, COLUMNS, ABOVE, PARTS>};
}

#define EACH_SPLIT(f)                                                                                        \
    f(64, 1, 2), f(96, 1, 2), f(128, 1, 2), f(128, 1, 1), f(192, 1, 1), f(224, 1, 1), f(256, 1, 1),          \
        f(96, 2, 1), f(128, 2, 1), f(192, 2, 1), f(224, 2, 1), f(256, 2, 1)

const int32_t split_kernels[] = {EACH_SPLIT(SPLIT), 0};

enum { N_SPLITS = sizeof split_kernels / sizeof *split_kernels - 1, ROWS = 128 };

template <typename T> static const struct split_variant *variants_of()
{
#define VARIANT(columns, above, parts) variant_of<T, columns, above, parts>()
    static const struct split_variant all[N_SPLITS] = {EACH_SPLIT(VARIANT)};
#undef VARIANT
    return all;
}

static const struct split_variant *variants(const struct cuda_backend *cu)
{
    return cu->base.act_dtype == DTYPE_F16 ? variants_of<__half>() : variants_of<__nv_bfloat16>();
}

static int has_splits(const struct cuda_backend *cu)
{
    return cu->major == 9 && cu->base.act_dtype != DTYPE_F32;
}

llm_status split_open(struct cuda_backend *cu, struct llm_error *err)
{
    if (!has_splits(cu)) return LLM_OK;
    for (int i = 0; i < N_SPLITS; i++) {
        const struct split_variant *v = &variants(cu)[i];
        llm_status st = cuda_check(
            cu, cudaFuncSetAttribute(v->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v->shared),
            "preparing linear layers");
        if (st) return llm_fail(err, st, "%s", cu->failure);
    }
    return LLM_OK;
}

static int is_aligned(const void *p, int64_t stride)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0 && stride % 8 == 0;
}

static const struct split_variant *find_variant(const struct cuda_backend *cu, int32_t number)
{
    const struct split_variant *v = variants(cu), *end = v + N_SPLITS;
    while (v < end && v->number != number) v++;
    return v < end ? v : nullptr;
}

int split_able(const struct cuda_backend *cu, const struct product *p, int32_t kernel)
{
    const struct split_variant *v = has_splits(cu) ? find_variant(cu, kernel) : nullptr;
    return v && p->k % 8 == 0 && p->n_out % 2 == 0 && p->y_stride % 2 == 0 && (p->k + 63) / 64 >= v->parts &&
           is_aligned(p->x, p->x_stride) && is_aligned(p->w, p->w_stride) &&
           reinterpret_cast<uintptr_t>(p->y) % 8 == 0 && (!p->f32_out || p->act == ACT_NONE);
}

/* Rows of a block's tile: all alike, so that no box reaches beyond x, which the TMA unit is slow at. */
static int32_t tile_rows(const struct split_variant *v, const struct product *p)
{
    const int32_t clusters = (p->m + v->above * ROWS - 1) / (v->above * ROWS), tiles = clusters * v->above;
    return (p->m + tiles * 8 - 1) / (tiles * 8) * 8;
}

/* Microseconds on an H200, roughly: a step of a block takes as long as its products, or as its bytes on their
 * way to and from shared memory. */
static float estimate(const struct cuda_backend *cu, const struct split_variant *v, const struct product *p)
{
    const float flop_us = 6e6f, byte_us = 220e3f, ends_us = v->parts > 1 ? 5 : 4;
    const int32_t cluster = v->above * v->parts, slots = cu->n_sms / cluster,
                  clusters = (p->m + v->above * ROWS - 1) / (v->above * ROWS) *
                             ((p->n + v->columns - 1) / v->columns),
                  waves = (clusters + slots - 1) / slots;
    const float columns = (float)v->columns, flop = 2.0f * ROWS * 64 * columns,
                bytes = 128.0f * ((float)(tile_rows(v, p) + ROWS) + 3 * columns), /* wgmma reads w twice */
        steps = (float)((p->k + 63) / 64) / (float)v->parts;
    return (float)waves * (steps * std::max(flop / flop_us, bytes / byte_us) + ends_us);
}

int split_worth(const struct cuda_backend *cu, const struct product *p, int32_t kernel)
{
    enum { MOST_ROWS = 512 };
    const struct split_variant *all = variants(cu);
    float least = INFINITY;
    for (int i = 0; i < N_SPLITS; i++)
        if (split_able(cu, p, all[i].number)) least = std::min(least, estimate(cu, &all[i], p));
    return p->m <= MOST_ROWS && estimate(cu, find_variant(cu, kernel), p) < 1.3f * least;
}

llm_status split_product(struct cuda_backend *cu, const struct product *p, int32_t kernel)
{
    const struct split_variant *v = find_variant(cu, kernel);
    const int32_t n_column_tiles = (p->n + v->columns - 1) / v->columns;
    struct split_args a = {};
    a.m = p->m;
    a.n_out = p->n_out;
    a.n_rows = tile_rows(v, p);
    a.n_row_tiles = (p->m + v->above * a.n_rows - 1) / (v->above * a.n_rows);
    a.k_steps = (p->k + 63) / 64;
    a.bias = p->bias;
    a.up_bias = p->up_bias;
    a.y = p->y;
    a.y_stride = p->y_stride;
    a.epilogue = p->epilogue;
    a.act = p->act;
    a.f32_out = p->f32_out;
    CUtensorMap x_map, w_map;
    llm_status st = stream_map(cu, &x_map, p->x, p->m, p->k, p->x_stride, a.n_rows);
    if (!st) st = stream_map(cu, &w_map, p->w, p->n, p->k, p->w_stride, v->columns / v->above);
    if (st) return st;
    const int64_t n_blocks = (int64_t)a.n_row_tiles * n_column_tiles * v->above * v->parts;
    return cuda_launch(cu, "linear", v->kernel, dim3((unsigned)n_blocks), dim3(384), (size_t)v->shared, x_map,
                       w_map, a);
}
