/* The linear layer: which kernels do it, and the buffers between them. */

#include "kernels/cuda/linear.cuh"

enum { BUFFER_BYTES = 128 << 20 };

static size_t act_bytes(const struct cuda_backend *cu)
{
    return dtype_bytes(cu->base.act_dtype, 1);
}

/* ---- opening ------------------------------------------------------------------------------------------- */

struct cuda_linear *linear_state(struct cuda_backend *cu)
{
    if (!cu->linear) cu->linear = static_cast<struct cuda_linear *>(mem_zalloc(sizeof(struct cuda_linear)));
    return cu->linear;
}

static void free_buffers(struct cuda_backend *cu, struct cuda_linear *l)
{
    cu->base.free(&cu->base, l->normed, l->buffer_bytes);
    cu->base.free(&cu->base, l->wide, l->buffer_bytes);
    l->normed = l->wide = nullptr;
}

/* Many rows go through the buffers in parts: beyond some 1000 rows a product gains little from more. */
static llm_status open_buffers(struct cuda_backend *cu, struct cuda_linear *l, struct llm_error *err)
{
    const size_t row = ((size_t)cu->limits.max_n + 15) / 16 * 16 * act_bytes(cu);
    int32_t rows = (int32_t)(BUFFER_BYTES / row);
    if (rows < 256) rows = 256;
    if (rows > cu->limits.max_rows) rows = cu->limits.max_rows;
    const size_t bytes = row * (size_t)rows;
    if (bytes <= l->buffer_bytes) return LLM_OK;
    free_buffers(cu, l);
    l->buffer_bytes = bytes;
    l->normed = cu->base.alloc(&cu->base, bytes);
    l->wide = cu->base.alloc(&cu->base, bytes);
    if (l->normed && l->wide) return LLM_OK;
    return llm_fail(err, LLM_ENOMEM, "no device memory for two buffers of %zu bytes between linear layers",
                    bytes);
}

int32_t rows_at_once(const struct cuda_backend *cu, int32_t n_rows, int32_t n)
{
    const size_t row = ((size_t)n + 7) / 8 * 8 * act_bytes(cu);
    const int32_t most = (int32_t)(cu->linear->buffer_bytes / row);
    if (n_rows <= most) return n_rows;
    const int32_t n_parts = (n_rows + most - 1) / most;
    return (n_rows + n_parts - 1) / n_parts;
}

llm_status linear_open(struct cuda_backend *cu, struct llm_error *err)
{
    struct cuda_linear *l = linear_state(cu);
    if (!l) return llm_fail(err, LLM_ENOMEM, "no memory for the state of linear layers");
    staging_close(&l->staging); /* a model's weights are loaded before its limits are known */
    llm_status st = open_buffers(cu, l, err);
    if (!st && !l->lt) st = lt_open(cu, &l->lt, err);
    if (!st && !l->ways) st = ways_open(cu, &l->ways, err);
    if (!st && !l->stream && cu->major == 9 && cu->base.act_dtype != DTYPE_F32)
        st = stream_open(cu, &l->stream, err);
    if (!st) st = tile_open(cu, err);
    return st ? st : split_open(cu, err);
}

void linear_close(struct cuda_backend *cu)
{
    struct cuda_linear *l = cu->linear;
    if (!l) return;
    free_buffers(cu, l);
    packed_close(l->packed);
    staging_close(&l->staging);
    lt_close(l->lt);
    ways_close(l->ways);
    stream_close(l->stream);
    mem_free(l);
    cu->linear = nullptr;
}

/* For tests and benchmarks, which compare the ways: an enum linear_path. */
extern "C" __attribute__((visibility("default"))) void cuda_plugin_linear_path(struct backend *be, int path)
{
    cuda_of(be)->linear->path = static_cast<enum linear_path>(path);
}

/* ---- the op -------------------------------------------------------------------------------------------- */

/* Layers of many rows; x as after the norm. */
static llm_status many_rows_linear(struct cuda_backend *cu, const struct linear_args *a, const void *x,
                                   int64_t x_stride)
{
    const struct weight *w = a->w;
    const int gated = a->epilogue == LINEAR_GATED;
    const size_t y_bytes = a->f32_out ? 4 : act_bytes(cu);
    struct product p = {};
    p.m = a->n_rows;
    p.k = w->n_in;
    p.x = x;
    p.x_stride = x_stride;
    p.y_stride = a->y_stride;
    p.epilogue = a->epilogue;
    p.act = a->act;
    p.f32_out = a->f32_out;
    llm_status st = LLM_OK;
    for (int32_t i = 0; i < w->n_blocks && !st; i++) {
        const struct weight_block *b = &w->block[i];
        p.n = gated ? b->n_rows : b->n_out;
        p.n_out = gated ? w->n_out / 2 : b->n_out;
        p.y = static_cast<char *>(a->y) + (size_t)b->first * y_bytes;
        if (a->bias) p.bias = a->bias + b->first;
        if (a->bias && gated) p.up_bias = a->bias + p.n_out;
        p.w = b->data;
        p.w_stride = b->ld;
        if (b->format == FORMAT_DENSE)
            st = ways_product(cu, &p);
        else if (!cu->linear->tuning) /* there is one way */
            st = packed_product(cu, cu->linear->packed, b, &p);
    }
    return st;
}

/* Whether x must be brought to where the TMA unit can take it from: kernels of packed weights know no other
 * way. */
static int is_astray(const struct linear_args *a)
{
    int packed = 0;
    for (int32_t i = 0; i < a->w->n_blocks; i++) packed |= a->w->block[i].format != FORMAT_DENSE;
    return packed && a->norm.kind == NORM_NONE &&
           (a->x_stride % 8 != 0 || reinterpret_cast<uintptr_t>(a->x) % 16 != 0);
}

static llm_status linear_chunk(struct cuda_backend *cu, const struct linear_args *a)
{
    struct cuda_linear *l = cu->linear;
    const void *x = a->x;
    int64_t x_stride = a->x_stride;
    if (is_astray(a)) {
        const size_t bytes = act_bytes(cu), n_in = (size_t)a->w->n_in;
        x_stride = (a->w->n_in + 7) / 8 * 8;
        x = l->normed;
        llm_status st = cuda_check(cu,
                                   cudaMemcpy2DAsync(l->normed, (size_t)x_stride * bytes, a->x,
                                                     (size_t)a->x_stride * bytes, n_in * bytes,
                                                     (size_t)a->n_rows, cudaMemcpyDeviceToDevice, cu->stream),
                                   "aligning rows");
        if (st) return st;
    }
    if (a->norm.kind != NORM_NONE) {
        struct norm_args norm = {};
        norm.n_rows = a->n_rows;
        norm.n = a->w->n_in;
        norm.x = x;
        norm.x_stride = x_stride;
        norm.norm = a->norm;
        norm.y = l->normed;
        norm.y_stride = x_stride = (a->w->n_in + 7) / 8 * 8;
        x = l->normed;
        llm_status st = cuda_norm(&cu->base, &norm);
        if (st) return st;
    }
    if (l->stream && (l->path == PATH_AUTO || l->path == PATH_STREAM) && stream_able(a, x, x_stride))
        return stream_linear(cu, l->stream, a, x, x_stride);
    return many_rows_linear(cu, a, x, x_stride);
}

llm_status cuda_linear(struct backend *be, const struct linear_args *a)
{
    struct cuda_backend *cu = cuda_of(be);
    if (cu->failed) return LLM_EFAILED;
    const int copied = a->norm.kind != NORM_NONE || is_astray(a);
    const int32_t rows = copied ? rows_at_once(cu, a->n_rows, a->w->n_in) : a->n_rows;
    llm_status st = LLM_OK;
    for (int32_t row = 0; row < a->n_rows && !st; row += rows) {
        struct linear_args chunk = *a;
        chunk.n_rows = a->n_rows - row < rows ? a->n_rows - row : rows;
        chunk.x = static_cast<const char *>(a->x) + row * a->x_stride * (int64_t)act_bytes(cu);
        chunk.y = static_cast<char *>(a->y) + row * a->y_stride * (int64_t)(a->f32_out ? 4 : act_bytes(cu));
        st = linear_chunk(cu, &chunk);
    }
    return st;
}

llm_status cuda_tune(struct backend *be, const struct linear_args *a)
{
    struct cuda_linear *l = cuda_of(be)->linear;
    l->tuning = 1;
    const llm_status st = cuda_linear(be, a);
    l->tuning = 0;
    return st;
}
