/* Weights: from the mapped file, through two pinned buffers, into the layout that the kernels read. There is
 * no copy on the host, and while one buffer travels the next is filled. */

#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/quant.cuh"

#include <algorithm>
#include <cstring>

enum { STAGING_BYTES = 16 << 20 };

void staging_close(struct staging *s)
{
    for (int i = 0; i < 2; i++) {
        if (s->host[i]) cudaFreeHost(s->host[i]);
        if (s->device[i]) cudaFree(s->device[i]);
        if (s->free[i]) cudaEventDestroy(s->free[i]);
    }
    *s = {};
}

/* Makes the buffers, or larger ones, unless they are there: pinning memory takes milliseconds. */
static llm_status staging_open(struct staging *s, size_t bytes, struct llm_error *err)
{
    if (s->bytes >= bytes) return LLM_OK;
    staging_close(s);
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < 2; i++) {
        if (e == cudaSuccess) e = cudaMallocHost(&s->host[i], bytes);
        if (e == cudaSuccess) e = cudaMalloc(&s->device[i], bytes);
        if (e == cudaSuccess) e = cudaEventCreateWithFlags(&s->free[i], cudaEventDisableTiming);
    }
    if (e != cudaSuccess) {
        cudaGetLastError();
        staging_close(s);
        return llm_fail(err, LLM_ENOMEM, "no memory for the buffers through which weights are loaded: %s",
                        cudaGetErrorString(e));
    }
    s->bytes = bytes;
    return LLM_OK;
}

/* ---- from stored rows to the layout ----------------------------------------------------------------------
 */

struct place {
    const uint8_t *from; /* n_rows stored rows, row_bytes each */
    size_t row_bytes;
    enum llm_dtype dtype;
    int block_bytes;
    int32_t n_in, ld;
    int32_t first;      /* row of the part (gated) or of the layout (plain) where from[0] goes */
    int32_t gated_part; /* -1: plain */
};

template <typename T> static __global__ void place_kernel(struct place p, T *to)
{
    const int32_t r = p.first + (int32_t)blockIdx.x;
    const int64_t row = p.gated_part < 0 ? r : gated_row(p.gated_part, r);
    const uint8_t *from = p.from + blockIdx.x * p.row_bytes;
    for (int32_t k = (int32_t)threadIdx.x; k < p.ld; k += (int32_t)blockDim.x)
        to[row * p.ld + k] = from_f32<T>(k < p.n_in ? stored_at(p.dtype, p.block_bytes, from, k) : 0);
}

static llm_status place_rows(struct cuda_backend *cu, const struct place *p, int32_t n_rows, void *to)
{
    switch (cu->base.act_dtype) {
    case DTYPE_F32:
        place_kernel<<<n_rows, 256, 0, cu->stream>>>(*p, static_cast<float *>(to));
        break;
    case DTYPE_F16:
        place_kernel<<<n_rows, 256, 0, cu->stream>>>(*p, static_cast<__half *>(to));
        break;
    default:
        place_kernel<<<n_rows, 256, 0, cu->stream>>>(*p, static_cast<__nv_bfloat16 *>(to));
    }
    return cuda_check(cu, cudaGetLastError(), "laying out a weight");
}

/* Draws of the generator of model/dummy.h make five values each: its state moves on by a constant a draw. */
enum { VALUES_A_DRAW = 5 };
static const uint64_t STATE_A_DRAW = 0x9E3779B97F4A7C15u;

/* Rows [begin, begin + n) of the part into device buffer i. */
static llm_status stage_rows(struct cuda_backend *cu, struct staging *s, int i,
                             const struct weight_spec *spec, int32_t part, int64_t begin, int32_t n,
                             size_t row_bytes)
{
    const struct tensor *t = &spec->part[part];
    if (!t->data)
        return cuda_fill(&cu->base, s->device[i], t->dtype, n * t->dims[1],
                         spec->random_state[part] +
                             (uint64_t)(begin * t->dims[1] / VALUES_A_DRAW) * STATE_A_DRAW,
                         spec->random_deviation[part]);
    const size_t bytes = row_bytes * (size_t)n;
    llm_status st = cuda_check(cu, cudaEventSynchronize(s->free[i]), "loading a weight");
    if (st) return st;
    memcpy(s->host[i], static_cast<const char *>(t->data) + row_bytes * (size_t)begin, bytes);
    return cuda_check(cu,
                      cudaMemcpyAsync(s->device[i], s->host[i], bytes, cudaMemcpyHostToDevice, cu->stream),
                      "loading a weight");
}

static llm_status load_part(struct cuda_backend *cu, struct staging *s, const struct weight_spec *spec,
                            int32_t part, int32_t first, struct weight *w)
{
    const struct tensor *t = &spec->part[part];
    const size_t row_bytes = dtype_bytes(t->dtype, t->dims[1]);
    const int32_t most = (int32_t)(s->bytes / row_bytes / VALUES_A_DRAW) * VALUES_A_DRAW;
    for (int64_t begin = 0; begin < t->dims[0]; begin += most) {
        const int i = s->next;
        const int32_t n = (int32_t)std::min<int64_t>(most, t->dims[0] - begin);
        s->next = 1 - i;
        llm_status st = stage_rows(cu, s, i, spec, part, begin, n, row_bytes);
        if (st) return st;
        const int gated = spec->layout == WEIGHT_GATED;
        const struct place p = {static_cast<const uint8_t *>(s->device[i]),
                                row_bytes,
                                t->dtype,
                                dtype_table[t->dtype].bytes,
                                w->n_in,
                                w->ld,
                                (int32_t)begin + (gated ? 0 : first),
                                gated ? part : -1};
        st = place_rows(cu, &p, n, w->data);
        if (!st) st = cuda_check(cu, cudaEventRecord(s->free[i], cu->stream), "loading a weight");
        if (st) return st;
    }
    return LLM_OK;
}

/* ---- */

static llm_status check_part(const struct weight_spec *spec, int32_t i, struct llm_error *err)
{
    const struct tensor *t = &spec->part[i];
    const struct dtype_info *info = &dtype_table[t->dtype];
    if (t->dtype == DTYPE_I32 || (!t->data && dtype_is_quantized(t->dtype)))
        return llm_fail(
            err, LLM_EUNSUP,
            "a weight is %s; the CUDA backend multiplies by F32, F16, BF16 and the quantized types, "
            "and makes random weights of the first three",
            info->name);
    if (t->n_dims != 2 || t->dims[1] % info->block != 0)
        return llm_fail(err, LLM_EUNSUP,
                        "a %s weight has rows of %lld elements; they must be a multiple of %d", info->name,
                        (long long)t->dims[t->n_dims - 1], info->block);
    return LLM_OK;
}

static llm_status plan_weight(struct cuda_backend *cu, const struct weight_spec *spec, struct weight *w,
                              struct llm_error *err)
{
    w->cu = cu;
    w->layout = spec->layout;
    w->n_in = (int32_t)spec->part[0].dims[1];
    w->ld = (w->n_in + 7) / 8 * 8;
    for (int32_t i = 0; i < spec->n_parts; i++) {
        llm_status st = check_part(spec, i, err);
        if (st) return st;
        w->n_out += (int32_t)spec->part[i].dims[0];
    }
    w->n_rows = w->n_out;
    if (w->layout == WEIGHT_GATED)
        w->n_rows = (w->n_out / 2 + GATED_GROUP - 1) / GATED_GROUP * 2 * GATED_GROUP;
    w->bytes = dtype_bytes(cu->base.act_dtype, 1) * (size_t)w->ld * (size_t)w->n_rows;
    return LLM_OK;
}

static llm_status load_weight(struct cuda_backend *cu, const struct weight_spec *spec, struct weight *w,
                              struct llm_error *err)
{
    struct cuda_linear *l = linear_state(cu);
    if (!l) return llm_fail(err, LLM_ENOMEM, "no memory for the state of linear layers");
    /* At least some rows of the widest type must fit. */
    llm_status st =
        staging_open(&l->staging, std::max((size_t)STAGING_BYTES, 4 * VALUES_A_DRAW * (size_t)w->n_in), err);
    if (st) return st;
    int32_t first = 0;
    for (int32_t i = 0; i < spec->n_parts && !st; i++) {
        st = load_part(cu, &l->staging, spec, i, first, w);
        first += (int32_t)spec->part[i].dims[0];
    }
    if (!st && cu->major >= 9 && cu->base.act_dtype != DTYPE_F32)
        st = stream_map(cu, &w->map, w->data, w->n_rows, w->n_in, w->ld, 64);
    return st ? llm_fail(err, st, "%s", cu->failure) : LLM_OK;
}

llm_status cuda_weight_create(struct backend *be, const struct weight_spec *spec, struct weight **out,
                              struct llm_error *err)
{
    struct cuda_backend *cu = cuda_of(be);
    auto *w = static_cast<struct weight *>(mem_zalloc(sizeof(struct weight)));
    if (!w) return llm_fail(err, LLM_ENOMEM, "no memory for a weight");
    llm_status st = plan_weight(cu, spec, w, err);
    if (!st) {
        w->data = be->alloc(be, w->bytes);
        st = w->data ? load_weight(cu, spec, w, err)
                     : llm_fail(err, LLM_ENOMEM, "no device memory for a weight of %zu bytes", w->bytes);
    }
    if (st)
        cuda_weight_destroy(be, w);
    else
        *out = w;
    return st;
}

void cuda_weight_destroy(struct backend *be, struct weight *w)
{
    if (!w) return;
    be->free(be, w->data, w->bytes);
    mem_free(w);
}

size_t cuda_weight_bytes(const struct weight *w)
{
    return w->bytes;
}
