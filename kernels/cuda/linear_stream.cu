/* Linear layers of few rows, on Hopper: choosing and launching the kernels of linear_stream.cuh. */

#include "kernels/cuda/linear_stream.cuh"

#include <algorithm>
#include <cudaTypedefs.h>

enum { HEADROOM = 2048, MAX_STAGES = 24, DENSE_VARIANTS = 5, LEAST_STEPS = 4, OVERREAD = 6144 };

struct stream_state {
    float *partial;
    uint32_t *ready;
    int32_t n_blocks;
    struct cuda_backend *cu;
    struct stream_variant dense[DENSE_VARIANTS], packed[N_FORMATS][PACKED_VARIANTS];
};

/* The driver's cuTensorMapEncodeTiled, by way of the runtime: the plug-in does not link the driver. */
static PFN_cuTensorMapEncodeTiled_v12000 encode_function()
{
    void *f = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &result))
        return nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(f);
}

llm_status stream_map(struct cuda_backend *cu, CUtensorMap *map, const void *data, int32_t n_rows, int32_t n,
                      int64_t stride, int32_t box_rows, int32_t box_columns)
{
    static const PFN_cuTensorMapEncodeTiled_v12000 encode = encode_function();
    if (!encode)
        return cuda_check(cu, cudaErrorCallRequiresNewerDriver, "looking for cuTensorMapEncodeTiled");
    const cuuint64_t dims[2] = {(cuuint64_t)n, (cuuint64_t)n_rows}, strides[1] = {(cuuint64_t)stride * 2};
    const cuuint32_t box[2] = {(cuuint32_t)box_columns, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    const CUresult e = encode(
        map,
        cu->base.act_dtype == DTYPE_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        2, const_cast<void *>(data), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
        box_columns == 64 ? CU_TENSOR_MAP_SWIZZLE_128B : CU_TENSOR_MAP_SWIZZLE_32B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return cuda_check(cu, e == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue,
                      "describing a matrix to the TMA unit");
}

/* ---- opening
 * ------------------------------------------------------------------------------------------------ */

template <typename T> static void fill_dense(struct stream_variant out[DENSE_VARIANTS])
{
    out[0] = variant_of<T, FORMAT_DENSE, 8, 2>();
    out[1] = variant_of<T, FORMAT_DENSE, 16, 2>();
    out[2] = variant_of<T, FORMAT_DENSE, 32, 2>();
    out[3] = variant_of<T, FORMAT_DENSE, 64, 1>();
    out[4] = variant_of<T, FORMAT_DENSE, 64, 2>();
}

static llm_status prepare(struct cuda_backend *cu, const struct stream_variant *v, int n)
{
    for (int i = 0; i < n; i++) {
        llm_status st = cuda_check(
            cu,
            cudaFuncSetAttribute(v[i].kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)cu->smem_max),
            "preparing linear layers");
        if (st) return st;
    }
    return LLM_OK;
}

static llm_status fill_variants(struct stream_state *s)
{
    const int half = s->cu->base.act_dtype == DTYPE_F16;
    half ? fill_dense<__half>(s->dense) : fill_dense<__nv_bfloat16>(s->dense);
    llm_status st = prepare(s->cu, s->dense, DENSE_VARIANTS);
    for (int32_t n = 8; n <= THIN_TOKENS && !st; n += 8)
        st = cuda_check(s->cu,
                        cudaFuncSetAttribute(thin_kernel(s->cu->base.act_dtype, n),
                                             cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)s->cu->smem_max),
                        "preparing linear layers");
    for (int f = FORMAT_DENSE + 1; f < N_FORMATS && !st; f++) {
        (half ? packed_variants_f16 : packed_variants_bf16)(static_cast<enum weight_format>(f), s->packed[f]);
        st = prepare(s->cu, s->packed[f], PACKED_VARIANTS);
    }
    return st;
}

llm_status stream_open(struct cuda_backend *cu, struct stream_state **out, struct llm_error *err)
{
    auto *s = static_cast<struct stream_state *>(mem_zalloc(sizeof(struct stream_state)));
    if (!s) return llm_fail(err, LLM_ENOMEM, "no memory for the state of linear layers");
    s->cu = cu;
    s->n_blocks = cu->n_sms;
    s->partial =
        static_cast<float *>(cu->base.alloc(&cu->base, sizeof(float) * MAX_TILE * (size_t)s->n_blocks));
    s->ready = static_cast<uint32_t *>(cu->base.alloc(&cu->base, sizeof(uint32_t) * (size_t)s->n_blocks));
    llm_status st = fill_variants(s);
    if (st)
        llm_fail(err, st, "%s", cu->failure);
    else if (!s->partial || !s->ready)
        st = llm_fail(err, LLM_ENOMEM, "no device memory for partial sums");
    if (st)
        stream_close(s);
    else
        *out = s;
    return st;
}

void stream_close(struct stream_state *s)
{
    if (!s) return;
    struct backend *be = &s->cu->base;
    be->free(be, s->partial, sizeof(float) * MAX_TILE * (size_t)s->n_blocks);
    be->free(be, s->ready, sizeof(uint32_t) * (size_t)s->n_blocks);
    mem_free(s);
}

/* ---- a layer
 * ------------------------------------------------------------------------------------------------ */

int stream_able(const struct linear_args *a, const void *x, int64_t x_stride)
{
    if ((a->f32_out || a->epilogue == LINEAR_ADD) && a->act != ACT_NONE) return 0;
    return a->n_rows <= MOST_STREAMED && x_stride % 8 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
}

/* What does not depend on how the block is dealt out. */
static struct stream_args args_of(const struct stream_state *s, const struct linear_args *a,
                                  const struct weight_block *b)
{
    struct stream_args args = {};
    args.n_tokens = a->n_rows;
    args.n_out = b->n_out;
    args.n_rows = b->n_rows;
    args.packed = b->format == FORMAT_DENSE ? nullptr : static_cast<const uint8_t *>(b->data);
    args.partial = s->partial;
    args.ready = s->ready;
    args.bias = a->bias ? a->bias + b->first : nullptr;
    args.y = static_cast<char *>(a->y) + (size_t)b->first * (a->f32_out ? 4 : 2);
    args.y_stride = a->y_stride;
    args.epilogue = a->epilogue;
    args.act = a->act;
    args.f32_out = a->f32_out;
    return args;
}

static llm_status thin_block(struct cuda_backend *cu, const struct stream_state *s,
                             const struct linear_args *a, const struct weight_block *b, const void *x,
                             int64_t x_stride)
{
    const int32_t n_tokens = a->n_rows <= 8 ? 8 : THIN_TOKENS;
    struct thin_args args = {args_of(s, a, b), (b->n_rows + THIN_UNIT - 1) / THIN_UNIT, 0};
    const int32_t n_blocks = std::min(s->n_blocks, args.n_units),
                  most = (args.n_units + n_blocks - 1) / n_blocks;
    const int32_t tiles = (most + 3) / 4;
    args.stage_rows = (most + tiles - 1) / tiles * THIN_UNIT;
    args.stream.k_steps = (a->w->n_in + THIN_K - 1) / THIN_K;
    const int32_t stage_bytes = (args.stage_rows + n_tokens) * THIN_K * 2;
    args.stream.n_stages =
        std::min((int32_t)MAX_STAGES, ((int32_t)cu->smem_max - HEADROOM - OVERREAD) / (stage_bytes + 16));
    const int32_t less_rows = std::max(args.stage_rows - THIN_UNIT, (int32_t)THIN_UNIT);
    CUtensorMap most_map, less_map, x_map;
    llm_status st = stream_map(cu, &x_map, x, a->n_rows, a->w->n_in, x_stride, n_tokens);
    if (!st) st = stream_map(cu, &most_map, b->data, b->n_rows, a->w->n_in, b->ld, args.stage_rows);
    if (!st) st = stream_map(cu, &less_map, b->data, b->n_rows, a->w->n_in, b->ld, less_rows);
    if (st) return st;
    const size_t shared = (size_t)args.stream.n_stages * ((size_t)stage_bytes + 16) + OVERREAD;
    return cuda_launch(cu, "linear", thin_kernel(cu->base.act_dtype, n_tokens), dim3((unsigned)n_blocks),
                       dim3(160), shared, most_map, less_map, x_map, args);
}

/* Narrow tiles where wide ones would be cut in too many pieces to add up. */
static const struct stream_variant *choose(const struct stream_state *s, const struct weight_block *b,
                                           int32_t n_rows)
{
    const struct stream_variant *v = b->format == FORMAT_DENSE ? s->dense : s->packed[b->format];
    while (v->n_tokens < n_rows) v++;
    return b->format == FORMAT_DENSE && v->n_tokens == 64 && b->n_rows > 8192 ? v + 1 : v;
}

static llm_status stream_block(struct cuda_backend *cu, const struct stream_state *s,
                               const struct linear_args *a, const struct weight_block *b, const void *x,
                               int64_t x_stride)
{
    const struct stream_variant *v = choose(s, b, a->n_rows);
    struct stream_args args = args_of(s, a, b);
    args.n_tiles = (b->n_rows + v->rows - 1) / v->rows;
    args.k_steps = b->format == FORMAT_DENSE ? (a->w->n_in + 63) / 64 : b->k_tiles / 2;
    args.n_stages = std::min((int32_t)MAX_STAGES, ((int32_t)cu->smem_max - HEADROOM) / (v->stage_bytes + 16));
    const int64_t steps = (int64_t)args.n_tiles * args.k_steps;
    const int64_t n_blocks = std::max<int64_t>(1, std::min<int64_t>(s->n_blocks, steps / LEAST_STEPS));
    CUtensorMap x_map;
    llm_status st = stream_map(cu, &x_map, x, a->n_rows, a->w->n_in, x_stride, v->n_tokens);
    if (st) return st;
    return cuda_launch(cu, "linear", v->kernel, dim3((unsigned)n_blocks), dim3((unsigned)v->threads),
                       (size_t)args.n_stages * ((size_t)v->stage_bytes + 16), b->map, x_map, args);
}

llm_status stream_linear(struct cuda_backend *cu, struct stream_state *s, const struct linear_args *a,
                         const void *x, int64_t x_stride)
{
    llm_status st = LLM_OK;
    for (int32_t i = 0; i < a->w->n_blocks && !st; i++) {
        const struct weight_block *b = &a->w->block[i];
        const int thin =
            b->format == FORMAT_DENSE && a->n_rows <= THIN_TOKENS && cu->linear->path != PATH_STREAM;
        st = (thin ? thin_block : stream_block)(cu, s, a, b, x, x_stride);
    }
    return st;
}
