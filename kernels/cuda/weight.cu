/* Weights: from the mapped file, through two pinned buffers, into the layout that the kernels read. There is
 * no copy on the host, and while one buffer travels the next is filled. */

extern "C" {
#include "base/pool.h"
}
#include "kernels/cuda/linear.cuh"
#include "kernels/cuda/quant.cuh"

#include <algorithm>
#include <cstring>

enum { STAGING_BYTES = 16 << 20, MOST_THREADS = 8 };

static void free_buffers(struct staging *s)
{
    for (int i = 0; i < 2; i++) {
        if (s->host[i]) cudaFreeHost(s->host[i]);
        if (s->device[i]) cudaFree(s->device[i]);
        if (s->free[i]) cudaEventDestroy(s->free[i]);
        s->host[i] = s->device[i] = nullptr;
        s->free[i] = nullptr;
    }
    s->bytes = 0;
}

void staging_close(struct staging *s)
{
    free_buffers(s);
    if (s->pool) pool_close(s->pool);
    s->pool = nullptr;
}

/* Makes the buffers, or larger ones, unless they are there: pinning memory takes milliseconds. */
static llm_status staging_open(struct staging *s, size_t bytes, struct llm_error *err)
{
    if (s->bytes >= bytes) return LLM_OK;
    free_buffers(s);
    llm_status st =
        s->pool ? LLM_OK : pool_open(std::min<int32_t>(pool_cpu_count(), MOST_THREADS), &s->pool, err);
    if (st) return st;
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < 2; i++) {
        if (e == cudaSuccess) e = cudaMallocHost(&s->host[i], bytes);
        if (e == cudaSuccess) e = cudaMalloc(&s->device[i], bytes);
        if (e == cudaSuccess) e = cudaEventCreateWithFlags(&s->free[i], cudaEventDisableTiming);
    }
    if (e != cudaSuccess) {
        cudaGetLastError();
        free_buffers(s);
        return llm_fail(err, LLM_ENOMEM, "no memory for the buffers through which weights are loaded: %s",
                        cudaGetErrorString(e));
    }
    s->bytes = bytes;
    return LLM_OK;
}

struct host_copy {
    char *to;
    const char *from;
    size_t bytes;
};

static void copy_part(void *arg, int32_t member, int32_t n_members)
{
    const auto *c = static_cast<const struct host_copy *>(arg);
    int64_t begin, end;
    pool_part((int64_t)c->bytes, 4096, member, n_members, &begin, &end);
    memcpy(c->to + begin, c->from + begin, (size_t)(end - begin));
}

/* Fills host buffer i when the device has done with it. */
static llm_status fill(struct cuda_backend *cu, struct staging *s, int i, const void *from, size_t bytes)
{
    llm_status st = cuda_check(cu, cudaEventSynchronize(s->free[i]), "loading a weight");
    struct host_copy c = {static_cast<char *>(s->host[i]), static_cast<const char *>(from), bytes};
    if (!st) pool_run(s->pool, copy_part, &c);
    return st;
}

llm_status staged_upload(struct cuda_backend *cu, void *to, const void *from, size_t bytes)
{
    struct cuda_linear *l = linear_state(cu);
    struct llm_error err;
    if (!l || staging_open(&l->staging, STAGING_BYTES, &err))
        return cuda_check(cu, cudaErrorMemoryAllocation, "the buffers through which weights are loaded");
    struct staging *s = &l->staging;
    llm_status st = LLM_OK;
    for (size_t at = 0; at < bytes && !st; at += s->bytes) {
        const int i = s->next;
        const size_t n = std::min(s->bytes, bytes - at);
        s->next = 1 - i;
        st = fill(cu, s, i, static_cast<const char *>(from) + at, n);
        if (!st)
            st = cuda_check(cu,
                            cudaMemcpyAsync(static_cast<char *>(to) + at, s->host[i], n,
                                            cudaMemcpyHostToDevice, cu->stream),
                            "loading a weight");
        if (!st) st = cuda_check(cu, cudaEventRecord(s->free[i], cu->stream), "loading a weight");
    }
    return st ? st : cuda_check(cu, cudaStreamSynchronize(cu->stream), "loading a weight");
}

/* ---- from stored rows to the layout ----------------------------------------------------------------------
 */

template <typename T> static __global__ void place_kernel(struct place p, T *to, int32_t ld)
{
    const uint8_t *from = p.from + blockIdx.x * p.row_bytes;
    to += (int64_t)place_row(&p, (int32_t)blockIdx.x) * ld;
    for (int32_t k = (int32_t)threadIdx.x; k < ld; k += (int32_t)blockDim.x)
        to[k] = from_f32<T>(k < p.n_in ? stored_at(p.dtype, p.block_bytes, from, k) : 0);
}

static llm_status place_rows(struct cuda_backend *cu, const struct place *p, int32_t n_rows,
                             const struct weight_block *b)
{
    if (b->format != FORMAT_DENSE) return pack_rows(cu, p, n_rows, b);
    switch (b->dtype) {
    case DTYPE_F32:
        place_kernel<<<n_rows, 256, 0, cu->stream>>>(*p, static_cast<float *>(b->data), b->ld);
        break;
    case DTYPE_F16:
        place_kernel<<<n_rows, 256, 0, cu->stream>>>(*p, static_cast<__half *>(b->data), b->ld);
        break;
    default:
        place_kernel<<<n_rows, 256, 0, cu->stream>>>(*p, static_cast<__nv_bfloat16 *>(b->data), b->ld);
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
    llm_status st = fill(cu, s, i, static_cast<const char *>(t->data) + row_bytes * (size_t)begin, bytes);
    if (st) return st;
    return cuda_check(cu,
                      cudaMemcpyAsync(s->device[i], s->host[i], bytes, cudaMemcpyHostToDevice, cu->stream),
                      "loading a weight");
}

/* At least some rows of the widest type must fit. */
static size_t staging_bytes(int64_t n_in)
{
    return std::max((size_t)STAGING_BYTES, 4 * VALUES_A_DRAW * (size_t)n_in);
}

/* first: the row of b where the part begins. */
static llm_status load_part(struct cuda_backend *cu, struct staging *s, const struct weight_spec *spec,
                            int32_t part, const struct weight_block *b, int32_t first)
{
    const struct tensor *t = &spec->part[part];
    const size_t row_bytes = dtype_bytes(t->dtype, t->dims[1]);
    const int32_t most = (int32_t)(s->bytes / row_bytes / VALUES_A_DRAW) * VALUES_A_DRAW;
    struct place p = {};
    p.row_bytes = row_bytes;
    p.dtype = t->dtype;
    p.block_bytes = dtype_table[t->dtype].bytes;
    p.n_in = (int32_t)t->dims[1];
    p.gated_part = spec->layout == WEIGHT_GATED ? part : -1;
    for (int64_t begin = 0; begin < t->dims[0]; begin += most) {
        const int i = s->next;
        const int32_t n = (int32_t)std::min<int64_t>(most, t->dims[0] - begin);
        s->next = 1 - i;
        llm_status st = stage_rows(cu, s, i, spec, part, begin, n, row_bytes);
        if (st) return st;
        p.from = static_cast<const uint8_t *>(s->device[i]);
        p.first = first + (int32_t)begin;
        st = place_rows(cu, &p, n, b);
        if (!st) st = cuda_check(cu, cudaEventRecord(s->free[i], cu->stream), "loading a weight");
        if (st) return st;
    }
    return LLM_OK;
}

/* ---- weights ------------------------------------------------------------------------------------------- */

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

/* The format that part i is kept in. */
static enum weight_format format_of(const struct cuda_backend *cu, const struct weight_spec *spec, int32_t i)
{
    const enum llm_dtype dtype = spec->part[i].dtype;
    if (cu->major != 9 || cu->base.act_dtype == DTYPE_F32) return FORMAT_DENSE;
    const enum weight_format format = packed_format(dtype);
    if (spec->layout == WEIGHT_GATED && packed_format(spec->part[1 - i].dtype) != format) return FORMAT_DENSE;
    return format;
}

static void size_block(const struct cuda_backend *cu, struct weight *w, struct weight_block *b)
{
    b->dtype = cu->base.act_dtype;
    b->n_rows = w->layout == WEIGHT_GATED ? (b->n_out / 2 + GATED_GROUP - 1) / GATED_GROUP * 2 * GATED_GROUP
                                          : b->n_out;
    b->ld = (w->n_in + 7) / 8 * 8;
    b->k_tiles = (w->n_in + 127) / 128 * 2;
    b->bytes = b->format == FORMAT_DENSE
                   ? dtype_bytes(cu->base.act_dtype, 1) * (size_t)b->ld * (size_t)b->n_rows
                   : packed_bytes(b->format, b->n_rows, b->k_tiles);
    w->bytes += b->bytes;
}

/* Neighbouring parts of one format become one block. */
static llm_status plan_weight(struct cuda_backend *cu, const struct weight_spec *spec, struct weight *w,
                              struct llm_error *err)
{
    w->cu = cu;
    w->layout = spec->layout;
    w->n_in = (int32_t)spec->part[0].dims[1];
    for (int32_t i = 0; i < spec->n_parts; i++) {
        llm_status st = check_part(spec, i, err);
        if (st) return st;
        const enum weight_format format = format_of(cu, spec, i);
        if (w->n_blocks == 0 || w->block[w->n_blocks - 1].format != format) {
            w->block[w->n_blocks].format = format;
            w->block[w->n_blocks++].first = w->n_out;
        }
        w->block[w->n_blocks - 1].n_out += (int32_t)spec->part[i].dims[0];
        w->n_out += (int32_t)spec->part[i].dims[0];
    }
    for (int32_t i = 0; i < w->n_blocks; i++) size_block(cu, w, &w->block[i]);
    return LLM_OK;
}

static llm_status alloc_blocks(struct cuda_backend *cu, struct cuda_linear *l, struct weight *w,
                               struct llm_error *err)
{
    for (int32_t i = 0; i < w->n_blocks; i++) {
        struct weight_block *b = &w->block[i];
        b->data = cu->base.alloc(&cu->base, b->bytes);
        if (!b->data) {
            size_t total, left = cu->base.device->memory_left(&cu->base, &total);
            return llm_fail(
                err, LLM_ENOMEM,
                "no device memory for a weight of %zu MiB: %zu of %zu MiB are left; the model is too "
                "large for this device, or something else is on it",
                b->bytes >> 20, left >> 20, total >> 20);
        }
        if (b->format == FORMAT_DENSE || l->packed) continue;
        llm_status st = packed_open(cu, &l->packed, err);
        if (st) return st;
    }
    return LLM_OK;
}

static llm_status load_weight(struct cuda_backend *cu, const struct weight_spec *spec, struct weight *w,
                              struct llm_error *err)
{
    struct cuda_linear *l = linear_state(cu);
    if (!l) return llm_fail(err, LLM_ENOMEM, "no memory for the state of linear layers");
    llm_status st = alloc_blocks(cu, l, w, err);
    if (st) return st;
    st = staging_open(&l->staging, staging_bytes(w->n_in), err);
    if (st) return st;
    for (int32_t i = 0, block = 0, row = 0; i < spec->n_parts && !st; i++) {
        while (row - w->block[block].first >= w->block[block].n_out) block++;
        const struct weight_block *b = &w->block[block];
        st = load_part(cu, &l->staging, spec, i, b, w->layout == WEIGHT_GATED ? 0 : row - b->first);
        row += (int32_t)spec->part[i].dims[0];
    }
    for (int32_t i = 0; i < w->n_blocks && !st; i++) {
        struct weight_block *b = &w->block[i];
        if (b->format != FORMAT_DENSE || cu->major != 9 || cu->base.act_dtype == DTYPE_F32) continue;
        st = stream_map(cu, &b->map, b->data, b->n_rows, w->n_in, b->ld, 64);
    }
    return st ? llm_fail(err, st, "%s", cu->failure) : LLM_OK;
}

llm_status cuda_weight_create(struct backend *be, const struct weight_spec *spec, struct weight **out,
                              struct llm_error *err)
{
    struct cuda_backend *cu = cuda_of(be);
    auto *w = static_cast<struct weight *>(mem_zalloc(sizeof(struct weight)));
    if (!w) return llm_fail(err, LLM_ENOMEM, "no memory for a weight");
    llm_status st = plan_weight(cu, spec, w, err);
    if (!st) st = load_weight(cu, spec, w, err);
    if (st)
        cuda_weight_destroy(be, w);
    else
        *out = w;
    return st;
}

void cuda_weight_destroy(struct backend *be, struct weight *w)
{
    if (!w) return;
    for (int32_t i = 0; i < w->n_blocks; i++) be->free(be, w->block[i].data, w->block[i].bytes);
    mem_free(w);
}

llm_status cuda_upload_f16(struct backend *be, void *to, const struct tensor *rows)
{
    struct cuda_backend *cu = cuda_of(be);
    struct cuda_linear *l = linear_state(cu);
    struct weight_spec spec = {};
    struct weight_block b = {};
    struct llm_error err;
    if (cu->failed) return LLM_EFAILED;
    spec.n_parts = 1;
    spec.part[0] = *rows;
    b.dtype = DTYPE_F16;
    b.data = to;
    b.n_out = b.n_rows = (int32_t)rows->dims[0];
    b.ld = (int32_t)rows->dims[1];
    if (!l || staging_open(&l->staging, staging_bytes(rows->dims[1]), &err))
        return cuda_check(cu, cudaErrorMemoryAllocation, "the buffers through which weights are loaded");
    llm_status st = load_part(cu, &l->staging, &spec, 0, &b, 0);
    return st ? st : cuda_check(cu, cudaStreamSynchronize(cu->stream), "loading a weight");
}

size_t cuda_weight_bytes(const struct weight *w)
{
    return w->bytes;
}
