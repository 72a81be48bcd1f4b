/* Products of many rows by kernels of our own, on Hopper: which there are, and launching them. */

#include "kernels/cuda/linear_tile.cuh"

#include <algorithm>

typedef void tile_fn(const CUtensorMap, const CUtensorMap, const CUtensorMap, const tile_args);

struct tile_variant {
    int32_t columns, shared, box_columns;
    enum linear_epilogue epilogue;
    enum activation act;
    tile_fn *kernel;
};

const int32_t tile_kernels[] = {256, 224, 192, 128, 0};

enum { N_VARIANTS = 12, BAND = 8 };

template <typename T, int COLUMNS, enum linear_epilogue EPILOGUE, enum activation ACT>
static struct tile_variant variant_of()
{
    using S = tile<COLUMNS, EPILOGUE>;
    return {COLUMNS, S::SHARED, S::BOX_COLUMNS, EPILOGUE, ACT, tile_kernel<T, COLUMNS, EPILOGUE, ACT>};
}

template <typename T> static const struct tile_variant *variants_of()
{
    static const struct tile_variant all[N_VARIANTS] = {
        variant_of<T, 256, LINEAR_STORE, ACT_NONE>(), variant_of<T, 192, LINEAR_STORE, ACT_NONE>(),
        variant_of<T, 128, LINEAR_STORE, ACT_NONE>(), variant_of<T, 256, LINEAR_ADD, ACT_NONE>(),
        variant_of<T, 192, LINEAR_ADD, ACT_NONE>(),   variant_of<T, 128, LINEAR_ADD, ACT_NONE>(),
        variant_of<T, 256, LINEAR_GATED, ACT_SILU>(), variant_of<T, 256, LINEAR_GATED, ACT_GELU_TANH>(),
        variant_of<T, 224, LINEAR_GATED, ACT_SILU>(), variant_of<T, 224, LINEAR_GATED, ACT_GELU_TANH>(),
        variant_of<T, 128, LINEAR_GATED, ACT_SILU>(), variant_of<T, 128, LINEAR_GATED, ACT_GELU_TANH>(),
    };
    return all;
}

static const struct tile_variant *variants(const struct cuda_backend *cu)
{
    return cu->base.act_dtype == DTYPE_F16 ? variants_of<__half>() : variants_of<__nv_bfloat16>();
}

static int has_tiles(const struct cuda_backend *cu)
{
    return cu->major == 9 && cu->base.act_dtype != DTYPE_F32;
}

llm_status tile_open(struct cuda_backend *cu, struct llm_error *err)
{
    if (!has_tiles(cu)) return LLM_OK;
    for (int i = 0; i < N_VARIANTS; i++) {
        const struct tile_variant *v = &variants(cu)[i];
        llm_status st = cuda_check(
            cu, cudaFuncSetAttribute(v->kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, v->shared),
            "preparing linear layers");
        if (st) return llm_fail(err, st, "%s", cu->failure);
    }
    return LLM_OK;
}

static const struct tile_variant *find_variant(const struct cuda_backend *cu, const struct product *p,
                                               int32_t columns)
{
    for (int i = 0; i < N_VARIANTS; i++) {
        const struct tile_variant *v = &variants(cu)[i];
        if (v->columns == columns && v->epilogue == p->epilogue && v->act == p->act) return v;
    }
    return nullptr;
}

/* Whether the TMA unit takes such a matrix, and leaves alone what lies between its rows: it cuts off at 16
 * bytes. */
static int is_aligned(const void *p, int32_t n, int64_t stride)
{
    return reinterpret_cast<uintptr_t>(p) % 16 == 0 && n % 8 == 0 && stride % 8 == 0;
}

int tile_able(const struct cuda_backend *cu, const struct product *p, int32_t columns)
{
    return has_tiles(cu) && !p->f32_out && find_variant(cu, p, columns) &&
           is_aligned(p->x, p->k, p->x_stride) && is_aligned(p->w, p->k, p->w_stride) &&
           is_aligned(p->y, p->n_out, p->y_stride);
}

llm_status tile_product(struct cuda_backend *cu, const struct product *p, int32_t columns)
{
    enum { ROWS = 128, CLUSTER = 2 };
    const struct tile_variant *v = find_variant(cu, p, columns);
    struct tile_args a = {};
    a.n_row_tiles = (p->m + CLUSTER * ROWS - 1) / (CLUSTER * ROWS);
    a.n_column_tiles = (p->n + columns - 1) / columns;
    a.k_steps = (p->k + 63) / 64;
    a.band = BAND;
    a.n_out = p->n_out;
    a.bias = p->bias;
    a.up_bias = p->up_bias;
    CUtensorMap x_map, w_map, y_map;
    llm_status st = stream_map(cu, &x_map, p->x, p->m, p->k, p->x_stride, ROWS);
    if (!st) st = stream_map(cu, &w_map, p->w, p->n, p->k, p->w_stride, columns / CLUSTER);
    if (!st) st = stream_map(cu, &y_map, p->y, p->m, p->n_out, p->y_stride, ROWS / 2, v->box_columns);
    if (st) return st;
    const int64_t n_tiles = (int64_t)a.n_row_tiles * a.n_column_tiles;
    const int64_t n_clusters = std::min<int64_t>(cu->n_sms / CLUSTER, n_tiles);
    return cuda_launch(cu, "linear", v->kernel, dim3((unsigned)n_clusters * CLUSTER), dim3(384),
                       (size_t)v->shared, x_map, w_map, y_map, a);
}
