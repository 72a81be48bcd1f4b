/* Norms and embeddings of every instruction set of this machine, against the reference. (Linear layers,
 * rotation and attention have files of their own.) */

#include "test_kernels.h"

static void each_isa(void (*fn)(struct backend *be, struct backend *ref))
{
    const char *isas[2];
    struct backend *ref = open_backend("ref", 1);
    for (int i = 0, n = fast_isas(isas); i < n; i++) {
        struct backend *be = open_backend(isas[i], 1 + i % 2);
        fn(be, ref);
        be->close(be);
    }
    ref->close(ref);
}

static void norms(struct backend *be, struct backend *ref)
{
    const int32_t sizes[] = {1, 7, 16, 31, 64, 577, 4096};
    for (int s = 0; s < 7; s++)
        for (int variant = 0; variant < 16; variant++) {
            const int32_t n = sizes[s], rows = variant & 1 ? 40 : 3, stride = n + 5;
            float *x = random_floats(1, (size_t)rows * (size_t)stride), *weight = random_floats(2, (size_t)n);
            float *bias = random_floats(3, (size_t)n), *got = random_floats(4, (size_t)rows * (size_t)stride);
            float *want = random_floats(4, (size_t)rows * (size_t)stride);
            struct norm_args a = {
                .n_rows = rows,
                .n = n,
                .x = x,
                .x_stride = stride,
                .norm = {variant & 2 ? NORM_LAYER : NORM_RMS, 1e-5f, weight, variant & 4 ? bias : NULL},
                .add = variant & 8 ? 1 : 0,
                .y = got,
                .y_stride = stride,
            };
            assert_int_equal(be->norm(be, &a), LLM_OK);
            a.y = want;
            assert_int_equal(ref->norm(ref, &a), LLM_OK);
            for (int32_t i = 0; i < rows; i++) {
                const double error =
                    row_error(got + (size_t)i * (size_t)stride, want + (size_t)i * (size_t)stride, stride);
                if (!(error <= 1e-5))
                    fail_msg("%s, variant %d, n %d, row %d: error %g", cpu_backend_isa(be), variant, n, i,
                             error);
            }
            a.x = a.y = got; /* in place */
            a.add = 0;
            memcpy(want, got, (size_t)rows * (size_t)stride * sizeof *want);
            assert_int_equal(be->norm(be, &a), LLM_OK);
            a.x = a.y = want;
            assert_int_equal(ref->norm(ref, &a), LLM_OK);
            assert_true(row_error(got, want, stride) <= 1e-5);
            free(x), free(weight), free(bias), free(got), free(want);
        }
}

static void embeddings(struct backend *be, struct backend *ref)
{
    enum { N = 256, TOKENS = 70, STRIDE = N + 3 };
    const struct tensor positions_table = random_tensor(DTYPE_F16, 90, N, 20);
    int32_t tokens[TOKENS], positions[TOKENS];
    for (int i = 0; i < TOKENS; i++) {
        tokens[i] = i * 7 % 50;
        positions[i] = i;
    }
    for (int t = 0; t < DTYPE_COUNT; t++) {
        if (t == DTYPE_I32) continue;
        const struct tensor table = random_tensor((enum llm_dtype)t, 50, N, 30);
        float got[TOKENS * STRIDE] = {0}, want[TOKENS * STRIDE] = {0};
        const struct embed_args a = {
            .n_tokens = TOKENS,
            .n = N,
            .tokens = tokens,
            .table = &table,
            .scale = t % 2 ? 1.0f : 3.5f,
            .position_table = t % 3 ? NULL : &positions_table,
            .positions = positions,
            .position_offset = 2,
            .x = got,
            .x_stride = STRIDE,
        };
        struct embed_args b = a;
        b.x = want;
        assert_int_equal(be->embed(be, &a), LLM_OK);
        assert_int_equal(ref->embed(ref, &b), LLM_OK);
        assert_memory_equal(got, want, sizeof got); /* the same arithmetic: to the bit */
        free((void *)(uintptr_t)table.data);
    }
    free((void *)(uintptr_t)positions_table.data);
}

static void test_norms(void **state)
{
    (void)state;
    each_isa(norms);
}

static void test_embeddings(void **state)
{
    (void)state;
    each_isa(embeddings);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_norms), cmocka_unit_test(test_embeddings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
