/* Linear layers on a GPU against the reference on the same rounded inputs: every stored type, shape, norm and
 * epilogue, through cuBLASLt and through our own kernels. Skipped, and said so, where there is no GPU. */

#define _GNU_SOURCE
#include "../test_kernels.h"

#include "cuda_tests.h"
#include "kernels/device.h"

#include <dlfcn.h>

/* As in kernels/cuda/linear.cuh. */
enum path {
    PATH_AUTO,
    PATH_LT,
    PATH_STREAM,
    PATH_OWN,
    N_PATHS = PATH_OWN + 4 + 12 /* kernels of our own for many rows */,
    PATH_PACKED = 64
};
enum { N_PACKED_WIDTHS = 4 };

static struct backend *ref;

/* ---- the device -----------------------------------------------------------------------------------------
 */

static struct backend *open_cuda(enum llm_dtype act_dtype)
{
    struct backend *be = NULL;
    struct llm_error err = {0};
    if (cuda_backend_open(&(struct cuda_options){.act_dtype = act_dtype}, &be, &err))
        fail_msg("%s", err.message);
    const struct backend_limits limits = {.max_rows = 1024,
                                          .max_n = 8192,
                                          .max_seqs = 16,
                                          .max_model_len = 2048,
                                          .n_heads = 32,
                                          .head_dim = 128};
    if (be->reserve(be, &limits, &err) != LLM_OK) fail_msg("%s", err.message);
    return be;
}

static void set_path(struct backend *be, enum path path)
{
    const char *dir = getenv("LLMLUA_PLUGINS");
    char file[1024];
    snprintf(file, sizeof file, "%s%slibllmlua_cuda.so", dir ? dir : "", dir ? "/" : "");
    void *plugin = dlopen(file, RTLD_NOW | RTLD_NOLOAD);
    assert_non_null(plugin);
    void (*set)(struct backend *, int) =
        (void (*)(struct backend *, int))dlsym(plugin, "cuda_plugin_linear_path");
    assert_non_null(set);
    set(be, path);
    dlclose(plugin);
}

static size_t elem_bytes(enum llm_dtype t)
{
    return dtype_bytes(t, 1);
}

/* Values as the type holds them, and back. */
static void encode(enum llm_dtype t, const float *from, size_t n, void *to)
{
    for (size_t i = 0; i < n; i++)
        if (t == DTYPE_F32)
            ((float *)to)[i] = from[i];
        else
            ((uint16_t *)to)[i] = t == DTYPE_F16 ? f32_to_f16(from[i]) : f32_to_bf16(from[i]);
}

static void decode(enum llm_dtype t, const void *from, size_t n, float *to)
{
    for (size_t i = 0; i < n; i++)
        if (t == DTYPE_F32) {
            to[i] = ((const float *)from)[i];
        } else {
            const uint16_t h = ((const uint16_t *)from)[i];
            to[i] = t == DTYPE_F16 ? f16_to_f32(h) : bf16_to_f32(h);
        }
}

/* Device memory holding these values as type t; *values become what t holds of them. */
static void *upload(struct backend *be, enum llm_dtype t, float *values, size_t n)
{
    void *bytes = malloc(n * elem_bytes(t)), *p = be->alloc(be, n * elem_bytes(t));
    assert_non_null(p);
    encode(t, values, n, bytes);
    decode(t, bytes, n, values);
    assert_int_equal(be->device->upload(be, p, bytes, n * elem_bytes(t)), LLM_OK);
    free(bytes);
    return p;
}

static void download(struct backend *be, enum llm_dtype t, const void *p, size_t n, float *values)
{
    void *bytes = malloc(n * elem_bytes(t));
    if (be->device->download(be, bytes, p, n * elem_bytes(t)) != LLM_OK)
        fail_msg("%s", be->device->failure(be));
    decode(t, bytes, n, values);
    free(bytes);
}

/* ---- a layer and a run of it ----------------------------------------------------------------------------
 */

struct layer {
    struct weight_spec spec;
    int32_t n_in, n_out;
    float *norm_weight, *norm_bias, *bias;
    float x_scale; /* so that outputs are about 1, and products of two fit into F16 */
    struct weight *ref_weight;
};

/* Root mean square of some rows. */
static double weight_size(const struct tensor *t)
{
    const int64_t n = t->dims[1], rows = t->dims[0] < 8 ? t->dims[0] : 8;
    float *row = malloc((size_t)n * sizeof *row);
    double squares = 0;
    for (int64_t r = 0; r < rows; r++) {
        dequantize_row(t, r, row);
        for (int64_t k = 0; k < n; k++) squares += (double)row[k] * row[k];
    }
    free(row);
    return sqrt(squares / (double)(n * rows));
}

static void layer_init(struct layer *l, const enum llm_dtype *dtypes, int32_t n_in, const int32_t *n_out,
                       int32_t n_parts, enum weight_layout layout)
{
    *l = (struct layer){.spec = {.n_parts = n_parts, .layout = layout}, .n_in = n_in};
    for (int32_t i = 0; i < n_parts; i++) {
        l->spec.part[i] = random_tensor(dtypes[i], n_out[i], n_in, 10 + 2 * (uint32_t)i);
        l->n_out += n_out[i];
    }
    l->norm_weight = random_floats(3, (size_t)n_in);
    l->norm_bias = random_floats(5, (size_t)n_in);
    l->bias = random_floats(4, (size_t)l->n_out);
    l->x_scale = (float)(2 / (weight_size(&l->spec.part[0]) * sqrt(n_in)));
    for (int32_t k = 0; k < n_in; k++) {
        l->norm_weight[k] *= l->x_scale;
        l->norm_bias[k] *= l->x_scale;
    }
    struct llm_error err = {0};
    if (ref->weight_create(ref, &l->spec, &l->ref_weight, &err) != LLM_OK) fail_msg("%s", err.message);
}

static void layer_free(struct layer *l)
{
    ref->weight_destroy(ref, l->ref_weight);
    for (int32_t i = 0; i < l->spec.n_parts; i++) free((void *)(uintptr_t)l->spec.part[i].data);
    free(l->norm_weight);
    free(l->norm_bias);
    free(l->bias);
}

struct run {
    int32_t n_rows;
    int odd_strides; /* rows of x begin anywhere: our kernels leave those to cuBLASLt */
    enum norm_kind norm;
    enum linear_epilogue epilogue;
    enum activation act;
    int bias, f32_out;
    int32_t every; /* which rows are compared, as the reference is slow: all if 0 */
};

static struct linear_args args_of(const struct layer *l, const struct run *r, int32_t x_stride,
                                  int32_t y_stride)
{
    return (struct linear_args){.n_rows = r->n_rows,
                                .x_stride = x_stride,
                                .norm = {.kind = r->norm, .eps = 1e-5f},
                                .w = l->ref_weight,
                                .epilogue = r->epilogue,
                                .act = r->act,
                                .y_stride = y_stride,
                                .f32_out = r->f32_out};
}

static double tolerance(enum llm_dtype act_dtype, const struct layer *l)
{
    if (act_dtype == DTYPE_BF16) return 2e-2;
    return act_dtype == DTYPE_F16 ? 4e-3 : 4e-6 * sqrt(l->n_in);
}

/* Fails where a row of `got` is not `want` within the tolerance, or what lies between rows was touched. The
 * measure is the largest number of the row, or 1, which is what they are like: a row may have one number
 * only, and it may be small by chance. */
static void compare(struct backend *be, const struct layer *l, const struct run *r, int path,
                    const float *got, const float *want, int32_t n_y, int32_t y_stride)
{
    for (int32_t i = 0; i < r->n_rows; i += r->every ? r->every : 1) {
        const float *g = got + (size_t)i * (size_t)y_stride, *w = want + (size_t)i * (size_t)y_stride;
        double largest = n_y < 16 ? 1 : 0, difference = 0;
        for (int32_t j = 0; j < n_y; j++) {
            largest = fmax(largest, fabs(w[j]));
            difference = isfinite(g[j]) ? fmax(difference, fabs((double)g[j] - w[j])) : INFINITY;
        }
        if (!(difference <= tolerance(be->act_dtype, l) * largest))
            fail_msg("%s weights, %s: [%d, %d] row %d of %d, path %d, norm %d, epilogue %d, act %d, bias %d, "
                     "f32 %d: "
                     "error %g of %g",
                     dtype_table[l->spec.part[0].dtype].name, dtype_table[be->act_dtype].name, l->n_out,
                     l->n_in, i, r->n_rows, path, r->norm, r->epilogue, r->act, r->bias, r->f32_out,
                     difference, largest);
        for (int32_t j = n_y; j < y_stride; j++) assert_true(g[j] == w[j]);
    }
}

/* The i-th path for such a weight; -1 after the last. What is quantized is not multiplied by the kernels of
 * dense weights. */
static int path_of(const struct layer *l, int i)
{
    if (!dtype_is_quantized(l->spec.part[0].dtype)) return i < N_PATHS ? i : -1;
    return i < PATH_OWN ? i : i < PATH_OWN + N_PACKED_WIDTHS ? PATH_PACKED + i - PATH_OWN : -1;
}

static void check(struct backend *be, const struct layer *l, const struct weight *w, const struct run *r)
{
    if (cuda_tests_left_out()) return;
    const int32_t n_y = r->epilogue == LINEAR_GATED ? l->n_out / 2 : l->n_out;
    const int32_t x_stride = r->odd_strides ? l->n_in + 3 : (l->n_in + 15) / 8 * 8;
    const int32_t y_stride = r->odd_strides ? n_y + 5 : (n_y + 15) / 8 * 8;
    const size_t n_x = (size_t)r->n_rows * (size_t)x_stride, n_out = (size_t)r->n_rows * (size_t)y_stride;
    const enum llm_dtype y_dtype = r->f32_out ? DTYPE_F32 : be->act_dtype;
    float *x = random_floats(1, n_x), *y = random_floats(2, n_out), *got = malloc(n_out * sizeof *got);
    for (size_t i = 0; i < n_x; i++) x[i] *= l->x_scale;
    void *dx = upload(be, be->act_dtype, x, n_x), *dy = upload(be, y_dtype, y, n_out);
    float *poisoned = malloc(n_out * sizeof *poisoned);
    memcpy(poisoned, y, n_out * sizeof *y);

    struct linear_args a = args_of(l, r, x_stride, y_stride);
    a.x = x;
    a.y = y;
    if (r->norm != NORM_NONE) a.norm.weight = l->norm_weight;
    if (r->norm == NORM_LAYER) a.norm.bias = l->norm_bias;
    a.bias = r->bias ? l->bias : NULL;
    struct linear_args some = a;
    if (r->every) {
        some.n_rows = (r->n_rows + r->every - 1) / r->every;
        some.x_stride *= r->every;
        some.y_stride *= r->every;
    }
    assert_int_equal(ref->linear(ref, &some), LLM_OK);

    const struct norm host_norm = a.norm;
    void *norm_weight = upload(be, DTYPE_F32, l->norm_weight, (size_t)l->n_in);
    void *norm_bias = upload(be, DTYPE_F32, l->norm_bias, (size_t)l->n_in);
    void *bias = upload(be, DTYPE_F32, l->bias, (size_t)l->n_out);
    a.x = dx;
    a.y = dy;
    a.w = w;
    a.norm.weight = host_norm.weight ? norm_weight : NULL;
    a.norm.bias = host_norm.bias ? norm_bias : NULL;
    a.bias = r->bias ? bias : NULL;
    set_path(be, PATH_AUTO);
    if (be->device->tune(be, &a) != LLM_OK) fail_msg("%s", be->device->failure(be));
    for (int i = 0, path; (path = path_of(l, i)) >= 0; i++) {
        float *before = malloc(n_out * sizeof *before);
        memcpy(before, poisoned, n_out * sizeof *before);
        if (r->epilogue != LINEAR_ADD) /* what is not written stays NaN */
            for (int32_t row = 0; row < r->n_rows; row++)
                for (int32_t j = 0; j < n_y; j++) before[(size_t)row * (size_t)y_stride + (size_t)j] = NAN;
        void *bytes = malloc(n_out * elem_bytes(y_dtype));
        encode(y_dtype, before, n_out, bytes);
        assert_int_equal(be->device->upload(be, dy, bytes, n_out * elem_bytes(y_dtype)), LLM_OK);
        set_path(be, (enum path)path);
        if (be->linear(be, &a) != LLM_OK) fail_msg("%s", be->device->failure(be));
        download(be, y_dtype, dy, n_out, got);
        compare(be, l, r, path, got, y, n_y, y_stride);
        free(bytes), free(before);
    }
    be->free(be, dx, n_x * elem_bytes(be->act_dtype));
    be->free(be, dy, n_out * elem_bytes(y_dtype));
    be->free(be, norm_weight, (size_t)l->n_in * 4);
    be->free(be, norm_bias, (size_t)l->n_in * 4);
    be->free(be, bias, (size_t)l->n_out * 4);
    free(x), free(y), free(got), free(poisoned);
}

static struct weight *make_weight(struct backend *be, const struct layer *l)
{
    struct weight *w;
    struct llm_error err = {0};
    if (be->weight_create(be, &l->spec, &w, &err) != LLM_OK) fail_msg("%s", err.message);
    return w;
}

static void each_dtype(void (*fn)(struct backend *be))
{
    const enum llm_dtype acts[] = {DTYPE_BF16, DTYPE_F16, DTYPE_F32};
    for (int i = 0; i < 3; i++) {
        struct backend *be = open_cuda(acts[i]);
        fn(be);
        be->close(be);
    }
}

/* ---- the tests ------------------------------------------------------------------------------------------
 */

static const enum llm_dtype stored[] = {DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q4_0,   DTYPE_Q4_1,
                                        DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q8_0, DTYPE_Q2_K,   DTYPE_Q3_K,
                                        DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS};

static void every_dtype(struct backend *be)
{
    const int32_t rows[] = {1, 3, 8, 17, 64, 130}, outs[] = {100, 1, 191, 577, 64};
    for (size_t d = 0; d < sizeof stored / sizeof *stored; d++) {
        const int32_t block = dtype_table[stored[d]].block;
        for (size_t r = 0; r < 6; r++) {
            struct layer l;
            layer_init(&l, &stored[d],
                       block == 1    ? 328
                       : block == 32 ? 32 * 9
                                     : 256 * 3,
                       &outs[(r + d) % 5], 1, WEIGHT_PLAIN);
            struct weight *w = make_weight(be, &l);
            check(be, &l, w, &(struct run){.n_rows = rows[r]});
            be->weight_destroy(be, w);
            layer_free(&l);
        }
    }
}

static void shapes(struct backend *be)
{
    const enum llm_dtype dtype = be->act_dtype;
    const int32_t rows[] = {1, 2, 4, 7, 9, 16, 24, 33, 65, 128, 129, 300};
    const int32_t ins[] = {64, 37, 1000, 2048, 8, 4096}, outs[] = {64, 1, 1001, 3072, 96, 4098};
    for (int s = 0; s < 6; s++) {
        struct layer l;
        layer_init(&l, &dtype, ins[s], &outs[s], 1, WEIGHT_PLAIN);
        struct weight *w = make_weight(be, &l);
        for (int r = 0; r < 12; r++) {
            if (rows[r] > 33 && (int64_t)ins[s] * outs[s] > 2000000) continue; /* the reference is slow */
            check(be, &l, w, &(struct run){.n_rows = rows[r], .odd_strides = r % 4 == 3});
        }
        be->weight_destroy(be, w);
        layer_free(&l);
    }
}

static void epilogues(struct backend *be)
{
    const enum llm_dtype dtypes[][2] = {{be->act_dtype, be->act_dtype}, {DTYPE_Q4_K, DTYPE_Q4_K}};
    const int32_t out[][2] = {{75, 75}, {128, 128}};
    for (int d = 0; d < 2; d++) {
        struct layer l, plain;
        layer_init(&l, dtypes[d], 512, out[d], 2, WEIGHT_GATED);
        layer_init(&plain, dtypes[d], 512, out[d], 2, WEIGHT_PLAIN);
        struct weight *gated = make_weight(be, &l), *w = make_weight(be, &plain);
        int i = 0;
        for (int act = ACT_NONE; act <= ACT_RELU; act++)
            for (int e = LINEAR_STORE; e <= LINEAR_GATED; e++)
                for (int bias = 0; bias < 2; bias++, i++) {
                    struct run r = {.n_rows = (const int32_t[]){1, 14, 40, 150}[i % 4],
                                    .odd_strides = i % 3 == 2,
                                    .epilogue = (enum linear_epilogue)e,
                                    .act = (enum activation)act,
                                    .bias = bias,
                                    .norm = (enum norm_kind)(i % 5 % 3)};
                    r.f32_out = e == LINEAR_STORE && act == ACT_NONE;
                    check(be, e == LINEAR_GATED ? &l : &plain, e == LINEAR_GATED ? gated : w, &r);
                }
        be->weight_destroy(be, gated);
        be->weight_destroy(be, w);
        layer_free(&l);
        layer_free(&plain);
    }
}

/* More tiles than multiprocessors, with rows, columns and k that fill none of them. */
static void tiles(struct backend *be)
{
    const enum llm_dtype dtypes[] = {be->act_dtype, be->act_dtype};
    const int32_t outs[][2] = {{4504, 0}, {3992, 3992}}, rows[] = {511, 257, 390};
    for (int e = LINEAR_STORE; e <= LINEAR_GATED; e++) {
        const int gated = e == LINEAR_GATED;
        for (int bias = 0; bias < 2; bias++) {
            struct layer l;
            layer_init(&l, dtypes, bias ? 72 : 200, outs[gated], gated ? 2 : 1,
                       gated ? WEIGHT_GATED : WEIGHT_PLAIN);
            struct weight *w = make_weight(be, &l);
            check(be, &l, w,
                  &(struct run){.n_rows = rows[e],
                                .epilogue = (enum linear_epilogue)e,
                                .act = !gated ? ACT_NONE
                                       : bias ? ACT_GELU_TANH
                                              : ACT_SILU,
                                .bias = bias});
            be->weight_destroy(be, w);
            layer_free(&l);
        }
    }
}

/* Packed weights and many rows: tiles that are done whole, by several turns too, and tiles dealt out; rows,
 * columns and k that fill none of them. */
static void packed(struct backend *be)
{
    const enum llm_dtype formats[] = {DTYPE_Q4_0, DTYPE_Q4_K, DTYPE_Q5_0, DTYPE_Q5_1, DTYPE_Q6_K, DTYPE_Q8_0};
    const struct {
        int32_t rows, out, in, every;
    } sizes[] = {{65, 304, 768, 1},   {97, 1001, 512, 9},     {130, 520, 1024, 9},
                 {333, 136, 2304, 9}, {1000, 3104, 2048, 77}, {257, 2 * 760, 1280, 16}};
    for (size_t f = 0; f < sizeof formats / sizeof *formats && be->act_dtype != DTYPE_F32; f++)
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            const enum llm_dtype dtypes[] = {formats[f], formats[f]};
            const int gated = i == 5, n_parts = gated ? 2 : 1;
            const int32_t out[] = {sizes[i].out / n_parts, sizes[i].out / n_parts};
            struct layer l;
            layer_init(&l, dtypes, sizes[i].in, out, n_parts, gated ? WEIGHT_GATED : WEIGHT_PLAIN);
            struct weight *w = make_weight(be, &l);
            check(be, &l, w,
                  &(struct run){.n_rows = sizes[i].rows,
                                .every = sizes[i].every,
                                .epilogue = gated             ? LINEAR_GATED
                                            : (i + f) % 3 < 2 ? LINEAR_ADD
                                                              : LINEAR_STORE,
                                .act = gated ? (f % 2 ? ACT_SILU : ACT_GELU_TANH) : ACT_NONE,
                                .bias = (i + f) % 2 == 0,
                                .f32_out = !gated && (i + f) % 6 == 2});
            be->weight_destroy(be, w);
            layer_free(&l);
        }
}

/* Stored types may differ between parts. */
static void mixed_parts(struct backend *be)
{
    const enum llm_dtype dtypes[] = {DTYPE_Q4_K, DTYPE_Q4_K, DTYPE_Q6_K};
    const int32_t out[] = {128, 40, 24};
    struct layer l;
    layer_init(&l, dtypes, 768, out, 3, WEIGHT_PLAIN);
    struct weight *w = make_weight(be, &l);
    for (int rows = 1; rows <= 160; rows = 2 * rows + 3) {
        check(be, &l, w, &(struct run){.n_rows = rows, .bias = 1});
        check(be, &l, w, &(struct run){.n_rows = rows, .epilogue = LINEAR_ADD, .norm = NORM_RMS});
    }
    be->weight_destroy(be, w);
    layer_free(&l);
}

/* Layers one after the other, each of which begins before its predecessor has ended, replayed many times: the
 * same bits each time. */
static void replay_path(struct backend *be, int path, enum llm_dtype dtype, int32_t rows)
{
    enum { N = 1024, LAYERS = 4 };
    const int times = cuda_tests_small ? 3 : path == PATH_AUTO ? 200 : 40;
    const int32_t out[] = {N};
    const size_t n = (size_t)rows * N;
    struct layer l;
    layer_init(&l, &dtype, N, out, 1, WEIGHT_PLAIN);
    struct weight *w = make_weight(be, &l);
    float *values = random_floats(1, n), *first = malloc(n * sizeof *first), *got = malloc(n * sizeof *got);
    void *x[LAYERS + 1];
    for (int i = 0; i <= LAYERS; i++) x[i] = upload(be, be->act_dtype, values, n);
    set_path(be, (enum path)path);
    struct device_recording *recording = NULL;
    assert_int_equal(be->device->record(be), LLM_OK);
    for (int i = 0; i < LAYERS; i++)
        assert_int_equal(be->linear(be, &(struct linear_args){.n_rows = rows,
                                                              .x = x[i],
                                                              .x_stride = N,
                                                              .norm = {.kind = NORM_RMS, .eps = 1e-5f},
                                                              .w = w,
                                                              .y = x[i + 1],
                                                              .y_stride = N}),
                         LLM_OK);
    assert_int_equal(be->device->recorded(be, &recording), LLM_OK);
    for (int i = 0; i < times; i++) {
        assert_int_equal(be->device->replay(be, recording), LLM_OK);
        download(be, be->act_dtype, x[LAYERS], n, i == 0 ? first : got);
        if (i > 0) assert_memory_equal(got, first, n * sizeof *got);
    }
    be->device->recording_free(be, recording);
    for (int i = 0; i <= LAYERS; i++) be->free(be, x[i], n * elem_bytes(be->act_dtype));
    be->weight_destroy(be, w);
    layer_free(&l);
    free(values), free(first), free(got);
}

static void replays(struct backend *be)
{
    replay_path(be, PATH_AUTO, be->act_dtype, 5);
    for (int path = PATH_OWN; path < N_PATHS; path++) replay_path(be, path, be->act_dtype, 300);
    for (int i = 0; i < N_PACKED_WIDTHS; i++) replay_path(be, PATH_PACKED + i, DTYPE_Q4_K, 300);
}

/* What an embedding becomes on the device. */
static void test_stored_rows(void **state)
{
    enum { ROWS = 37 };
    (void)state;
    struct backend *be = open_cuda(DTYPE_BF16);
    for (size_t d = 0; d < sizeof stored / sizeof *stored; d++) {
        const int32_t n = dtype_table[stored[d]].block == 256 ? 512 : 96;
        struct tensor t = random_tensor(stored[d], ROWS, n, 3);
        float *got = malloc(sizeof *got * ROWS * (size_t)n), *want = malloc(sizeof *want * (size_t)n);
        void *p = be->alloc(be, 2 * ROWS * (size_t)n);
        assert_non_null(p);
        if (be->device->upload_f16(be, p, &t)) fail_msg("%s", be->device->failure(be));
        download(be, DTYPE_F16, p, ROWS * (size_t)n, got);
        for (int32_t r = 0; r < ROWS; r++) {
            dequantize_row(&t, r, want);
            if (!(row_error(got + r * n, want, n) < 1e-3))
                fail_msg("%s, row %d: error %g", dtype_table[stored[d]].name, r,
                         row_error(got + r * n, want, n));
        }
        be->free(be, p, 2 * ROWS * (size_t)n);
        free(got), free(want), free((void *)(uintptr_t)t.data);
    }
    be->close(be);
}

static void test_every_dtype(void **state)
{
    (void)state;
    each_dtype(every_dtype);
}

static void test_shapes(void **state)
{
    (void)state;
    each_dtype(shapes);
}

static void test_epilogues(void **state)
{
    (void)state;
    each_dtype(epilogues);
}

static void test_tiles(void **state)
{
    (void)state;
    each_dtype(tiles);
}

static void test_packed(void **state)
{
    (void)state;
    each_dtype(packed);
}

static void test_mixed_parts(void **state)
{
    (void)state;
    each_dtype(mixed_parts);
}

static void test_replays(void **state)
{
    (void)state;
    each_dtype(replays);
}

static int open_ref(void **state)
{
    (void)state;
    ref = open_backend("ref", 1);
    const struct backend_limits limits = {
        .max_rows = 512, .max_n = 8192, .max_seqs = 1, .max_model_len = 64, .n_heads = 1, .head_dim = 64};
    return ref->reserve(ref, &limits, NULL) == LLM_OK ? 0 : -1;
}

static int close_ref(void **state)
{
    (void)state;
    ref->close(ref);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epilogues), cmocka_unit_test(test_every_dtype),
        cmocka_unit_test(test_shapes),    cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_packed),    cmocka_unit_test(test_mixed_parts),
        cmocka_unit_test(test_replays),   cmocka_unit_test(test_stored_rows),
    };
    const int skipped = cuda_tests_begin(argc, argv);
    return skipped ? skipped : cmocka_run_group_tests(tests, open_ref, close_ref);
}
