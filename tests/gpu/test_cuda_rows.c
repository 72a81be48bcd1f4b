/* Row operations and sampling of a CUDA device against the scalar reference on the same rounded numbers, and
 * against the engine's own sampler. Without a device it skips. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "cuda_tests.h"
#include "engine/sampler.h"
#include "kernels/device.h"
#include "model/dummy.h"

static struct backend *ref;
static struct backend *devices[3]; /* F32, F16, BF16 */
static const enum llm_dtype dtypes[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};

static struct backend *device_for(enum llm_dtype dtype)
{
    struct backend **be = &devices[dtype];
    if (*be) return *be;
    struct llm_error err = {0};
    if (cuda_backend_open(&(struct cuda_options){.act_dtype = dtype}, be, &err)) fail_msg("%s", err.message);
    return *be;
}

/* ---- numbers ------------------------------------------------------------------------------------------- */

static uint64_t random_state = 7;

static float random_float(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (float)(uint32_t)(random_state >> 33) / 1073741824.0f - 1;
}

/* n numbers that `dtype` can hold. */
static float *random_row(size_t n, enum llm_dtype dtype)
{
    float *x = malloc(sizeof *x * n);
    for (size_t i = 0; i < n; i++) {
        float v = random_float();
        x[i] = dtype == DTYPE_F32   ? v
               : dtype == DTYPE_F16 ? f16_to_f32(f32_to_f16(v))
                                    : bf16_to_f32(f32_to_bf16(v));
    }
    return x;
}

static void *encoded(const float *x, size_t n, enum llm_dtype dtype)
{
    void *p = malloc(4 * n);
    for (size_t i = 0; i < n; i++) {
        if (dtype == DTYPE_F32)
            ((float *)p)[i] = x[i];
        else
            ((uint16_t *)p)[i] = dtype == DTYPE_F16 ? f32_to_f16(x[i]) : f32_to_bf16(x[i]);
    }
    return p;
}

/* A copy of n floats on the device, as dtype. */
static void *to_device(struct backend *be, const float *x, size_t n, enum llm_dtype dtype)
{
    void *p = be->alloc(be, dtype_bytes(dtype, (int64_t)n)), *host = encoded(x, n, dtype);
    assert_non_null(p);
    assert_int_equal(be->device->upload(be, p, host, dtype_bytes(dtype, (int64_t)n)), LLM_OK);
    free(host);
    return p;
}

static float *from_device(struct backend *be, const void *p, size_t n, enum llm_dtype dtype)
{
    float *x = malloc(sizeof *x * n);
    void *host = malloc(4 * n);
    assert_int_equal(be->device->download(be, host, p, dtype_bytes(dtype, (int64_t)n)), LLM_OK);
    for (size_t i = 0; i < n; i++) {
        uint16_t h = ((uint16_t *)host)[i];
        x[i] = dtype == DTYPE_F32 ? ((float *)host)[i] : dtype == DTYPE_F16 ? f16_to_f32(h) : bf16_to_f32(h);
    }
    free(host);
    return x;
}

/* Half the spacing of a dtype's numbers at 1, with some room. */
static double tolerance(enum llm_dtype dtype)
{
    return dtype == DTYPE_F32 ? 2e-5 : dtype == DTYPE_F16 ? 1e-3 : 8e-3;
}

static void check_close(const float *got, const float *want, size_t n, enum llm_dtype dtype, const char *what)
{
    double largest = 0;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= tolerance(dtype) * fmax(largest, 1e-3)))
            fail_msg("%s, %s, element %zu: %g, not %g", what, dtype_table[dtype].name, i, (double)got[i],
                     (double)want[i]);
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

static void norms(void **state)
{
    (void)state;
    const int32_t sizes[] = {1, 7, 64, 577, 4096};
    for (int d = 0; d < 3; d++)
        for (int s = 0; s < 5; s++)
            for (int variant = 0; variant < 8; variant++) {
                if (cuda_tests_left_out()) continue;
                struct backend *be = device_for(dtypes[d]);
                const int32_t n = sizes[s], rows = 5, stride = n + 8;
                const size_t all = (size_t)rows * (size_t)stride;
                float *x = random_row(all, dtypes[d]), *y = random_row(all, dtypes[d]);
                float *weight = random_row((size_t)n, DTYPE_F32), *bias = random_row((size_t)n, DTYPE_F32);
                void *dx = to_device(be, x, all, dtypes[d]), *dy = to_device(be, y, all, dtypes[d]);
                float *dw = to_device(be, weight, (size_t)n, DTYPE_F32);
                float *db = to_device(be, bias, (size_t)n, DTYPE_F32);
                struct norm_args a = {.n_rows = rows,
                                      .n = n,
                                      .x = dx,
                                      .x_stride = stride,
                                      .add = variant & 1,
                                      .y = dy,
                                      .y_stride = stride};
                a.norm =
                    (struct norm){variant & 2 ? NORM_LAYER : NORM_RMS, 1e-5f, dw, variant & 4 ? db : NULL};
                assert_int_equal(be->norm(be, &a), LLM_OK);
                float *got = from_device(be, dy, all, dtypes[d]);
                a.x = x, a.y = y, a.norm.weight = weight, a.norm.bias = variant & 4 ? bias : NULL;
                assert_int_equal(ref->norm(ref, &a), LLM_OK);
                check_close(got, y, all, dtypes[d], "norm");
                be->free(be, dx, 0), be->free(be, dy, 0), be->free(be, dw, 0), be->free(be, db, 0);
                free(x), free(y), free(weight), free(bias), free(got);
            }
}

static void embeddings_and_gathers(void **state)
{
    (void)state;
    const int32_t n = 100, vocab = 50, tokens[] = {3, 49, 0, 3, 17}, rows[] = {4, 0, 2};
    for (int d = 0; d < 3; d++)
        for (int t = 0; t < 3; t++) {
            struct backend *be = device_for(dtypes[d]);
            float *table = random_row((size_t)(vocab * n), dtypes[t]);
            struct tensor tensor = {
                dtypes[t], 2, {vocab, n}, to_device(be, table, (size_t)(vocab * n), dtypes[t])};
            int32_t *dt = be->alloc(be, sizeof tokens), *dr = be->alloc(be, sizeof rows);
            be->device->upload(be, dt, tokens, sizeof tokens);
            be->device->upload(be, dr, rows, sizeof rows);
            char *x = be->alloc(be, 4 * 5 * 128), *y = be->alloc(be, 4 * 3 * 128);
            struct embed_args a = {
                .n_tokens = 5, .n = n, .tokens = dt, .table = &tensor, .scale = 2, .x = x, .x_stride = 128};
            assert_int_equal(be->embed(be, &a), LLM_OK);
            struct gather_args g = {
                .n_rows = 3, .n = n, .rows = dr, .x = x, .x_stride = 128, .y = y, .y_stride = 128};
            assert_int_equal(be->gather(be, &g), LLM_OK);
            float *got = from_device(be, y, 3 * 128, dtypes[d]);
            for (int i = 0; i < 3; i++) {
                float want[100];
                for (int k = 0; k < n; k++) want[k] = 2 * table[tokens[rows[i]] * n + k];
                check_close(got + i * 128, want, 100, dtypes[d], "embed, gather");
            }
            be->free(be, (void *)tensor.data, 0), be->free(be, dt, 0), be->free(be, dr, 0);
            be->free(be, x, 0), be->free(be, y, 0);
            free(table), free(got);
        }
}

static void random_weights(void **state)
{
    (void)state;
    const int64_t n = 100003;
    for (int d = 0; d < 3; d++) {
        struct backend *be = device_for(dtypes[d]);
        size_t bytes = dtype_bytes(dtypes[d], n);
        void *want = malloc(bytes), *got = malloc(bytes), *p = be->alloc(be, bytes);
        dummy_fill("a.weight", 5, dtypes[d], 0.125f, n, want);
        assert_int_equal(be->device->fill(be, p, dtypes[d], n, dummy_state("a.weight", 5), 0.125f), LLM_OK);
        assert_int_equal(be->device->download(be, got, p, bytes), LLM_OK);
        assert_memory_equal(got, want, bytes);
        be->free(be, p, bytes);
        free(want), free(got);
    }
}

/* ---- rotation and the cache ---------------------------------------------------------------------------- */

static void rotate(enum llm_dtype act, enum llm_dtype kv_dtype, int32_t dim, int32_t rotary,
                   enum rope_kind rope, int norms_too)
{
    enum { TOKENS = 5, HEADS = 6, KV = 2, PAGE = 16, PAGES = 3, LAYERS = 2 };
    if (cuda_tests_left_out()) return;
    struct backend *be = device_for(act);
    const int32_t positions[TOKENS] = {0, 1, 40, 2, 99}, slots[TOKENS] = {47, 0, 16, 1, 33};
    const int64_t stride = (HEADS + 2 * KV) * dim + 8;
    const size_t all = (size_t)(TOKENS * stride);
    float *qkv = random_row(all, act), *table = random_row((size_t)(100 * rotary), DTYPE_F32);
    float *weight = random_row((size_t)dim, DTYPE_F32);
    struct kv_cache want_kv = {.n_pages = PAGES,
                               .page_size = PAGE,
                               .n_layers = LAYERS,
                               .n_kv_heads = KV,
                               .head_dim = dim,
                               .dtype = DTYPE_F32};
    struct kv_cache kv = want_kv;
    kv.dtype = kv_dtype;
    want_kv.page_bytes = ref->kv_page_bytes(ref, &want_kv);
    kv.page_bytes = be->kv_page_bytes(be, &kv);
    want_kv.base = ref->alloc(ref, want_kv.page_bytes * PAGES);
    kv.base = be->alloc(be, kv.page_bytes * PAGES);
    void *dq = to_device(be, qkv, all, act);
    float *dt = to_device(be, table, (size_t)(100 * rotary), DTYPE_F32);
    float *dw = to_device(be, weight, (size_t)dim, DTYPE_F32);
    int32_t *dp = be->alloc(be, sizeof positions), *ds = be->alloc(be, sizeof slots);
    be->device->upload(be, dp, positions, sizeof positions);
    be->device->upload(be, ds, slots, sizeof slots);
    struct norm norm = {norms_too ? NORM_RMS : NORM_NONE, 1e-5f, dw, NULL};
    struct rope_kv_args a = {.n_tokens = TOKENS,
                             .n_heads = HEADS,
                             .qkv = dq,
                             .qkv_stride = stride,
                             .q_norm = norm,
                             .k_norm = norm,
                             .rope = rope,
                             .rotary_dim = rotary,
                             .rope_table = dt,
                             .positions = dp,
                             .slots = ds,
                             .kv = &kv,
                             .layer = 1};
    assert_int_equal(be->rope_kv(be, &a), LLM_OK);
    float *got = from_device(be, dq, all, act);
    a.qkv = qkv, a.rope_table = table, a.positions = positions, a.slots = slots, a.kv = &want_kv;
    a.q_norm.weight = a.k_norm.weight = weight;
    assert_int_equal(ref->rope_kv(ref, &a), LLM_OK);
    for (int t = 0; t < TOKENS; t++)
        check_close(got + t * stride, qkv + t * stride, (size_t)(HEADS * dim), act, "rotated q");
    /* The reference leaves rotated k and v in place; the cache must hold them. */
    size_t elements = kv.page_bytes * PAGES / dtype_bytes(kv_dtype, 1);
    float *cache = from_device(be, kv.base, elements, kv_dtype);
    for (int t = 0; t < TOKENS; t++)
        for (int which = 0; which < 2; which++)
            for (int h = 0; h < KV; h++) {
                const float *want = qkv + t * stride + (HEADS + which * KV + h) * dim;
                size_t at = (size_t)(slots[t] / PAGE) * (elements / PAGES) +
                            (size_t)(((2 * 1 + which) * KV + h) * PAGE + slots[t] % PAGE) * (size_t)dim;
                check_close(cache + at, want, (size_t)dim,
                            act == DTYPE_BF16 || kv_dtype == DTYPE_F32 ? act : kv_dtype, "cached");
            }
    ref->free(ref, want_kv.base, want_kv.page_bytes * PAGES);
    be->free(be, kv.base, 0), be->free(be, dq, 0), be->free(be, dt, 0), be->free(be, dw, 0),
        be->free(be, dp, 0);
    be->free(be, ds, 0);
    free(qkv), free(table), free(weight), free(got), free(cache);
}

static void rotations(void **state)
{
    (void)state;
    for (int d = 0; d < 3; d++)
        for (int k = 0; k < 3; k++)
            for (int variant = 0; variant < 4; variant++) {
                rotate(dtypes[d], dtypes[k], 64, 64, variant & 1 ? ROPE_NEOX : ROPE_INTERLEAVED, variant & 2);
                rotate(dtypes[d], dtypes[k], 80, 32, variant & 1 ? ROPE_NEOX : ROPE_INTERLEAVED, variant & 2);
                rotate(dtypes[d], dtypes[k], 256, 128, variant & 1 ? ROPE_NONE : ROPE_NEOX, variant & 2);
            }
}

/* ---- sampling ------------------------------------------------------------------------------------------ */

struct way {
    float temperature, top_p, min_p;
    int32_t top_k;
};

static const struct way ways[] = {
    {0, 1, 0, 0},        {1, 1, 0, 0},         {0.7f, 0.9f, 0, 0},  {1, 1, 0, 50},
    {1, 0.95f, 0, 50},   {2, 0.5f, 0, 0},      {0.5f, 1, 0.05f, 0}, {1, 0.8f, 0.01f, 7},
    {0.01f, 1, 0, 1000}, {5, 0.99f, 0, 30000}, {1, 1e-4f, 0, 0},    {1, 1, 0, 1},
};

enum { N_WAYS = sizeof ways / sizeof *ways, DRAWS = 64 };

/* Logits of several kinds: spread like a model's, nearly flat, few levels (ties), and one far above the rest.
 */
static void fill_logits(float *x, int32_t n, int kind)
{
    for (int32_t i = 0; i < n; i++) {
        float g = random_float() + random_float() + random_float() + random_float();
        x[i] = kind == 0 ? 4 * g : kind == 1 ? 0.01f * g : kind == 2 ? floorf(3 * g) : i == n / 3 ? 30 : g;
        if (kind == 0 && i % 97 == 0) x[i] = -INFINITY;
    }
}

static float largest(const float *x, int32_t n)
{
    float v = x[0];
    for (int32_t i = 1; i < n; i++) v = x[i] > v ? x[i] : v;
    return v;
}

/* The two draw alike but where rounding decides: a few in a thousand. Each of the device's tokens must be one
 * that the parameters keep. */
static void samples(void **state)
{
    (void)state;
    struct backend *be = device_for(DTYPE_F32);
    const int32_t sizes[] = {5, 1000, 32003, 128256};
    int32_t n_rows = 0, n_different = 0, by_kind[4][N_WAYS] = {{0}};
    for (int s = 0; s < 4; s++)
        for (int kind = 0; kind < 4; kind++) {
            if (cuda_tests_left_out()) continue;
            const int32_t n = sizes[s];
            float *x = malloc(sizeof *x * (size_t)n);
            fill_logits(x, n, kind);
            struct sampler sampler;
            assert_int_equal(sampler_init(&sampler, n, NULL), LLM_OK);
            struct sample_row rows[N_WAYS * DRAWS];
            for (int i = 0; i < N_WAYS * DRAWS; i++) {
                const struct way *w = &ways[i % N_WAYS];
                rows[i] = (struct sample_row){.slot = i,
                                              .top_k = w->top_k,
                                              .temperature = w->temperature,
                                              .top_p = w->top_p,
                                              .min_p = w->min_p,
                                              .stream = (uint32_t)i % 3,
                                              .seed = (uint64_t)i * 77,
                                              .position = (uint64_t)i,
                                              .seat = -1};
            }
            rows[5].slot = -1; /* padding: leaves its place alone */
            float *dx = to_device(be, x, (size_t)n, DTYPE_F32);
            struct sample_row *dr = be->alloc(be, sizeof rows);
            int32_t *last = be->alloc(be, sizeof(int32_t) * N_WAYS * DRAWS);
            struct sampled *out = be->alloc(be, sizeof *out * N_WAYS * DRAWS);
            be->device->upload(be, dr, rows, sizeof rows);
            struct sample_args a = {.n = N_WAYS * DRAWS,
                                    .rows = dr,
                                    .logits = dx,
                                    .logits_stride = 0, /* one row for all */
                                    .vocab_size = n,
                                    .last = last,
                                    .out = out};
            assert_int_equal(be->device->sampling->sample(be, &a), LLM_OK);
            int32_t got[N_WAYS * DRAWS];
            assert_int_equal(be->device->download(be, got, last, sizeof got), LLM_OK);
            assert_int_equal(got[5], 0);
            for (int i = 0; i < N_WAYS * DRAWS; i++) {
                if (i == 5) continue;
                struct llm_sampling p;
                llm_sampling_init(&p);
                p.temperature = rows[i].temperature, p.top_p = rows[i].top_p, p.min_p = rows[i].min_p;
                p.top_k = rows[i].top_k;
                struct sample_input in = {.params = &p,
                                          .seed = rows[i].seed,
                                          .stream = rows[i].stream,
                                          .position = rows[i].position};
                int32_t want = sampler_pick(&sampler, x, &in);
                n_rows++;
                if (got[i] < 0 || got[i] >= n || !isfinite(x[got[i]]))
                    fail_msg("vocabulary %d, kind %d, way %d: token %d", n, kind, i % N_WAYS, got[i]);
                if (p.temperature == 0) assert_int_equal(got[i], want);
                n_different += got[i] != want;
                if (got[i] != want && by_kind[kind][i % N_WAYS]++ < 1)
                    printf("vocabulary %d, kind %d, way %d: %d (%g), not %d (%g); the largest is %g\n", n,
                           kind, i % N_WAYS, got[i], (double)x[got[i]], want, (double)x[want],
                           (double)largest(x, n));
            }
            sampler_deinit(&sampler);
            be->free(be, dx, 0), be->free(be, dr, 0), be->free(be, last, 0), be->free(be, out, 0);
            free(x);
        }
    for (int kind = 0; kind < 4; kind++)
        for (int i = 0; i < N_WAYS; i++)
            if (by_kind[kind][i] > 2) printf("kind %d, way %d: %d differ\n", kind, i, by_kind[kind][i]);
    printf("%d of %d draws differ from the host's\n", n_different, n_rows);
    assert_true(n_different * 200 < n_rows);
}

/* ---- */

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(norms), cmocka_unit_test(embeddings_and_gathers),
                                       cmocka_unit_test(random_weights), cmocka_unit_test(rotations),
                                       cmocka_unit_test(samples)};
    struct llm_error err = {0};
    const int skipped = cuda_tests_begin(argc, argv);
    if (skipped) return skipped;
    if (cpu_backend_open(&(struct cpu_options){1, "ref"}, &ref, &err)) return 1;
    ref->reserve(ref,
                 &(struct backend_limits){.max_rows = 64,
                                          .max_n = 8192,
                                          .max_seqs = 8,
                                          .max_model_len = 256,
                                          .n_heads = 8,
                                          .head_dim = 256},
                 &err);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
