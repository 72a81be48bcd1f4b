/* Linear layers of every instruction set of this machine: every stored type, odd shapes and every epilogue
 * against the reference; and the invariance that kernels.h promises, to the bit. */

#include "test_kernels.h"

#include "base/mem.h"
#include "kernels/cpu/ref.h"

struct layer {
    struct weight_spec spec;
    int32_t n_in, n_out;
    struct norm norm;
    float *norm_weight, *bias;
};

static void layer_init(struct layer *l, enum llm_dtype dtype, int32_t n_in, const int32_t *n_out,
                       int32_t n_parts, enum weight_layout layout)
{
    *l = (struct layer){.spec = {.n_parts = n_parts, .layout = layout}, .n_in = n_in};
    for (int32_t i = 0; i < n_parts; i++) {
        l->spec.part[i] = random_tensor(dtype, n_out[i], n_in, 10 + 2 * (uint32_t)i);
        l->n_out += n_out[i];
    }
    l->norm_weight = random_floats(3, (size_t)n_in);
    l->bias = random_floats(4, (size_t)l->n_out);
}

static void layer_free(struct layer *l)
{
    for (int32_t i = 0; i < l->spec.n_parts; i++) free((void *)(uintptr_t)l->spec.part[i].data);
    free(l->norm_weight);
    free(l->bias);
}

static struct weight *make_weight(struct backend *be, const struct layer *l)
{
    struct weight *w;
    struct llm_error err = {0};
    if (be->weight_create(be, &l->spec, &w, &err) != LLM_OK) fail_msg("%s", err.message);
    return w;
}

struct run {
    int32_t n_rows, x_stride, y_stride;
    enum norm_kind norm;
    enum linear_epilogue epilogue;
    enum activation act;
    int bias;
};

static void linear(struct backend *be, const struct layer *l, const struct weight *w, const struct run *r,
                   const float *x, float *y)
{
    const struct linear_args a = {
        .n_rows = r->n_rows,
        .x = x,
        .x_stride = r->x_stride,
        .norm = {r->norm, 1e-5f, r->norm == NORM_NONE ? NULL : l->norm_weight, NULL},
        .w = w,
        .bias = r->bias ? l->bias : NULL,
        .epilogue = r->epilogue,
        .act = r->act,
        .y = y,
        .y_stride = r->y_stride,
    };
    assert_int_equal(be->linear(be, &a), LLM_OK);
}

/* What the reference makes of rows that are rounded first, as the fast paths round them. */
static void reference(struct backend *ref, const struct layer *l, const struct weight *w, const struct run *r,
                      const float *x, float *y)
{
    if (!dtype_is_quantized(l->spec.part[0].dtype)) {
        linear(ref, l, w, r, x, y);
        return;
    }
    float *rounded = malloc((size_t)r->n_rows * (size_t)l->n_in * sizeof *rounded);
    const struct norm norm = {r->norm, 1e-5f, r->norm == NORM_NONE ? NULL : l->norm_weight, NULL};
    for (int32_t i = 0; i < r->n_rows; i++) {
        float *row = rounded + (size_t)i * (size_t)l->n_in;
        ref_norm_row(&norm, x + (size_t)i * (size_t)r->x_stride, row, l->n_in);
        ref_round_row(row, row, l->n_in);
    }
    struct run plain = *r;
    plain.norm = NORM_NONE;
    plain.x_stride = l->n_in;
    linear(ref, l, w, &plain, rounded, y);
    free(rounded);
}

static void check(struct backend *be, struct backend *ref, const struct layer *l, const struct run *r)
{
    const int32_t n_y = r->epilogue == LINEAR_GATED ? l->n_out / 2 : l->n_out;
    struct run run = *r;
    run.x_stride = l->n_in + 3;
    run.y_stride = n_y + 5;
    float *x = random_floats(1, (size_t)run.n_rows * (size_t)run.x_stride);
    float *got = random_floats(2, (size_t)run.n_rows * (size_t)run.y_stride);
    float *want = random_floats(2, (size_t)run.n_rows * (size_t)run.y_stride);
    struct weight *w = make_weight(be, l), *ref_w = make_weight(ref, l);
    linear(be, l, w, &run, x, got);
    reference(ref, l, ref_w, &run, x, want);
    const int quantized = dtype_is_quantized(l->spec.part[0].dtype);
    /* A norm in f32 may move a value across a rounding boundary, by one step of 8 bits. */
    const double limit = !quantized ? 2e-6 * sqrt(l->n_in) : r->norm == NORM_NONE ? 1e-5 : 2e-3;
    for (int32_t i = 0; i < run.n_rows; i++) {
        const size_t at = (size_t)i * (size_t)run.y_stride;
        const double error = row_error(got + at, want + at, n_y);
        if (!(error <= limit))
            fail_msg("%s %s [%d, %d] row %d of %d, norm %d, epilogue %d, act %d: error %g",
                     cpu_backend_isa(be), dtype_table[l->spec.part[0].dtype].name, l->n_out, l->n_in, i,
                     run.n_rows, r->norm, r->epilogue, r->act, error);
        /* What lies between the rows is not ours. */
        for (int32_t j = n_y; j < run.y_stride; j++) assert_true(got[at + (size_t)j] == want[at + (size_t)j]);
    }
    be->weight_destroy(be, w);
    ref->weight_destroy(ref, ref_w);
    free(x), free(got), free(want);
}

static const enum llm_dtype weight_dtypes[] = {
    DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0,   DTYPE_Q5_1,  DTYPE_Q8_0,
    DTYPE_Q2_K, DTYPE_Q3_K, DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K, DTYPE_IQ4_NL, DTYPE_IQ4_XS};

static void each_isa(void (*fn)(struct backend *be, struct backend *ref), int32_t n_threads)
{
    const char *isas[2];
    const int n = fast_isas(isas);
    struct backend *ref = open_backend("ref", 1);
    for (int i = 0; i < n; i++) {
        struct backend *be = open_backend(isas[i], n_threads);
        fn(be, ref);
        be->close(be);
    }
    ref->close(ref);
}

static void every_dtype(struct backend *be, struct backend *ref)
{
    const int32_t rows[] = {1, 2, 3, 5, 8, 17, 64}, outs[] = {1, 7, 9, 191, 577};
    for (size_t d = 0; d < sizeof weight_dtypes / sizeof *weight_dtypes; d++) {
        const int32_t block = dtype_table[weight_dtypes[d]].block;
        const int32_t n_in = block == 1 ? 37 : block == 32 ? 32 * 5 : 256 * 3;
        for (size_t r = 0; r < 7; r++) {
            struct layer l;
            layer_init(&l, weight_dtypes[d], n_in, &outs[r % 5], 1, WEIGHT_PLAIN);
            check(be, ref, &l, &(struct run){.n_rows = rows[r]});
            layer_free(&l);
        }
    }
}

static void epilogues(struct backend *be, struct backend *ref)
{
    const enum llm_dtype dtypes[] = {DTYPE_F32, DTYPE_Q4_1, DTYPE_Q6_K};
    const int32_t out[] = {75, 75};
    for (int d = 0; d < 3; d++) {
        struct layer l;
        layer_init(&l, dtypes[d], 512, out, 2, WEIGHT_GATED);
        for (int rows = 1; rows <= 14; rows += 13)
            for (int act = ACT_NONE; act <= ACT_RELU; act++)
                for (int e = LINEAR_STORE; e <= LINEAR_GATED; e++)
                    for (int bias = 0; bias < 2; bias++)
                        check(be, ref, &l,
                              &(struct run){.n_rows = rows,
                                            .epilogue = (enum linear_epilogue)e,
                                            .act = (enum activation)act,
                                            .bias = bias,
                                            .norm = act == ACT_SILU   ? NORM_RMS
                                                    : act == ACT_GELU ? NORM_LAYER
                                                                      : NORM_NONE});
        layer_free(&l);
    }
}

/* Stored types may differ between parts. */
static void mixed_parts(struct backend *be, struct backend *ref)
{
    const int32_t out[] = {40, 24, 9};
    struct layer l, other;
    layer_init(&l, DTYPE_Q4_K, 768, out, 3, WEIGHT_PLAIN);
    layer_init(&other, DTYPE_Q6_K, 768, out, 3, WEIGHT_PLAIN);
    const struct tensor q4_k = l.spec.part[2];
    l.spec.part[2] = other.spec.part[2];
    check(be, ref, &l, &(struct run){.n_rows = 1});
    check(be, ref, &l, &(struct run){.n_rows = 30});
    l.spec.part[2] = q4_k;
    layer_free(&l);
    layer_free(&other);
}

static void test_every_dtype(void **state)
{
    (void)state;
    each_isa(every_dtype, 1);
}

static void test_epilogues(void **state)
{
    (void)state;
    each_isa(epilogues, 2);
}

static void test_mixed_parts(void **state)
{
    (void)state;
    for (int32_t n_threads = 1; n_threads <= 3; n_threads++) each_isa(mixed_parts, n_threads);
}

/* A row alone, in batches of every size, with 1 to 3 threads: the same bits. */
static void test_invariance(void **state)
{
    (void)state;
    enum { N_IN = 1536, N_OUT = 210, ROWS = 200 };
    const char *isas[2];
    const int n_isas = fast_isas(isas);
    const int32_t sizes[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 12, 13, 25, 100, 200}, out[] = {N_OUT};
    float *x = random_floats(1, ROWS * N_IN), *y = malloc(ROWS * N_OUT * sizeof *y);
    float *want = malloc(ROWS * N_OUT * sizeof *want);
    for (size_t d = 0; d < sizeof weight_dtypes / sizeof *weight_dtypes; d++) {
        struct layer l;
        layer_init(&l, weight_dtypes[d], N_IN, out, 1, WEIGHT_PLAIN);
        for (int i = 0; i < n_isas; i++)
            for (int32_t n_threads = 1; n_threads <= 3; n_threads++) {
                struct backend *be = open_backend(isas[i], n_threads);
                struct weight *w = make_weight(be, &l);
                struct run run = {.x_stride = N_IN, .y_stride = N_OUT, .norm = NORM_RMS};
                for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
                    for (int32_t row = 0; row < ROWS; row += run.n_rows) {
                        run.n_rows = sizes[s] < ROWS - row ? sizes[s] : ROWS - row;
                        linear(be, &l, w, &run, x + row * N_IN, y + row * N_OUT);
                    }
                    if (s == 0 && n_threads == 1) memcpy(want, y, ROWS * N_OUT * sizeof *y);
                    if (memcmp(y, want, ROWS * N_OUT * sizeof *y) != 0)
                        fail_msg("%s %s: batches of %d with %d threads differ", isas[i],
                                 dtype_table[weight_dtypes[d]].name, sizes[s], n_threads);
                }
                be->weight_destroy(be, w);
                be->close(be);
            }
        layer_free(&l);
    }
    free(x), free(y), free(want);
}

/* Rows of zeros, and of numbers whose reciprocal is infinite, give zeros. */
static void test_tiny_rows(void **state)
{
    (void)state;
    enum { N_IN = 64, N_OUT = 33, ROWS = 3 };
    const char *isas[3] = {"ref"};
    const int32_t out[] = {N_OUT};
    struct layer l;
    layer_init(&l, DTYPE_Q8_0, N_IN, out, 1, WEIGHT_PLAIN);
    float x[ROWS * N_IN] = {0}, y[ROWS * N_OUT];
    for (int i = 0; i < N_IN; i++) x[N_IN + i] = 1e-40f;
    for (int i = 0, n = 1 + fast_isas(isas + 1); i < n; i++) {
        struct backend *be = open_backend(isas[i], 1);
        struct weight *w = make_weight(be, &l);
        const struct run run = {.n_rows = ROWS, .x_stride = N_IN, .y_stride = N_OUT, .norm = NORM_NONE};
        linear(be, &l, w, &run, x, y);
        for (int j = 0; j < ROWS * N_OUT; j++) assert_true(fabsf(y[j]) < 1e-30f);
        be->weight_destroy(be, w);
        be->close(be);
    }
    layer_free(&l);
}

/* Whichever allocation fails, it is said, and nothing is lost. */
static void test_no_memory(void **state)
{
    (void)state;
    const int32_t out[] = {20};
    struct layer l;
    layer_init(&l, DTYPE_Q4_1, 64, out, 1, WEIGHT_PLAIN);
    int done = 0;
    for (uint64_t n = 1; !done; n++) {
        struct backend *be = NULL;
        struct weight *w = NULL;
        struct llm_error err = {0};
        const struct backend_limits limits = {
            .max_rows = 4, .max_n = 64, .max_seqs = 1, .max_model_len = 64, .n_heads = 1, .head_dim = 64};
        mem_fail_at(n);
        llm_status status = cpu_backend_open(&(struct cpu_options){2, NULL}, &be, &err);
        if (status == LLM_OK) status = be->reserve(be, &limits, &err);
        if (status == LLM_OK) status = be->weight_create(be, &l.spec, &w, &err);
        mem_fail_at(0);
        done = status == LLM_OK;
        if (!done) {
            assert_int_equal(status, LLM_ENOMEM);
            assert_true(strlen(err.message) > 0);
        }
        if (w) be->weight_destroy(be, w);
        if (be) be->close(be);
        assert_true(n < 100);
    }
    layer_free(&l);
}

static void test_unknown(void **state)
{
    (void)state;
    struct backend *be = NULL;
    struct llm_error err = {0};
    assert_int_equal(cpu_backend_open(&(struct cpu_options){1, "mmx"}, &be, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "mmx"));
    be = open_backend(NULL, 1);
    const struct tensor t = random_tensor(DTYPE_I32, 4, 32, 1);
    struct weight *w = NULL;
    const struct weight_spec spec = {.n_parts = 1, .part = {t}, .layout = WEIGHT_PLAIN};
    assert_int_equal(be->weight_create(be, &spec, &w, &err), LLM_EUNSUP);
    assert_non_null(strstr(err.message, "I32"));
    assert_null(w);
    be->close(be);
    free((void *)(uintptr_t)t.data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_dtype), cmocka_unit_test(test_epilogues),
        cmocka_unit_test(test_mixed_parts), cmocka_unit_test(test_invariance),
        cmocka_unit_test(test_tiny_rows),   cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
