/* The decoder against the logits of the original implementation (tests/golden/make_models.py): the fp32 path
 * agrees within 1e-4, and to the bit with itself however a prompt is cut and whatever else is in the batch.
 */

#define _GNU_SOURCE
#include "golden_run.h"
#include "kernels/device.h"

#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#define GOLDEN TESTS_DIR "/golden/models/"

static const char *const models[] = {"llama",        "llama-mha-tied", "llama-bias", "llama3",
                                     "llama-linear", "llama-dynamic",  "llama-yarn", "mistral",
                                     "qwen2",        "qwen3",          "smollm3"};
static const char *const isas[] = {"ref", "avx2", "avx512"};
enum { N_MODELS = sizeof models / sizeof *models, N_ISAS = sizeof isas / sizeof *isas };

struct test_case {
    const char *model, *isa;
    char name[64];
};

struct golden {
    int32_t n_tokens, vocab;
    int32_t *ids;
    float *logits; /* [n_tokens, vocab] */
};

static struct golden read_golden(const char *model)
{
    char path[512];
    struct golden g;
    snprintf(path, sizeof path, GOLDEN "%s/logits.bin", model);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    assert_int_equal(fread(&g.n_tokens, 4, 1, f), 1);
    assert_int_equal(fread(&g.vocab, 4, 1, f), 1);
    size_t n = (size_t)g.n_tokens, n_logits = n * (size_t)g.vocab;
    g.ids = malloc(n * 4);
    g.logits = malloc(n_logits * 4);
    assert_int_equal(fread(g.ids, 4, n, f), n);
    assert_int_equal(fread(g.logits, 4, n_logits, f), n_logits);
    fclose(f);
    return g;
}

static void free_golden(struct golden *g)
{
    free(g->ids);
    free(g->logits);
}

static void open_model(struct run *r, struct backend *be, const char *dir, int32_t max_len)
{
    struct model_options options = {.path = dir, .skip_tokenizer = 1};
    run_open(r, be, &options, max_len, max_len + 8, DTYPE_F32);
}

static void assert_close(const float *got, const struct golden *g)
{
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < (int64_t)g->n_tokens * g->vocab; i++) {
        worst = fmax(worst, fabs((double)got[i] - (double)g->logits[i]));
        largest = fmax(largest, fabs((double)g->logits[i]));
        assert_true(isfinite(got[i]));
    }
    if (worst > 1e-4 * largest) fail_msg("logits differ by %.2e of their largest", worst / largest);
}

static void assert_same_row(const struct golden *g, const float *whole, const float *row, int32_t position,
                            const char *how)
{
    if (memcmp(whole + (int64_t)position * g->vocab, row, (size_t)g->vocab * sizeof *row) != 0)
        fail_msg("logits at position %d differ when the prompt is run %s", (int)position, how);
}

static uint32_t next_random(uint32_t *state)
{
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void run_in_chunks(struct run *r, const struct golden *g, const float *whole, uint32_t seed,
                          int32_t max_chunk, const char *how)
{
    float *logits = malloc(sizeof *logits * (size_t)(g->n_tokens * g->vocab));
    for (int32_t begin = 0, end; begin < g->n_tokens; begin = end) {
        end = begin + 1 + (int32_t)(next_random(&seed) % (uint32_t)max_chunk);
        if (end > g->n_tokens) end = g->n_tokens;
        struct piece piece = {1, begin, end, g->ids};
        run_batch(r, 1, &piece, 0, logits);
        for (int32_t p = begin; p < end; p++)
            assert_same_row(g, whole, logits + (int64_t)(p - begin) * g->vocab, p, how);
    }
    free(logits);
}

/* Sequences of several lengths, all prefixes of the golden prompt, advanced by random amounts in one batch.
 */
static void run_mixed(struct run *r, const struct golden *g, const float *whole)
{
    int32_t length[RUN_MAX_SEQS] = {g->n_tokens, 40, 17, 1}, done[RUN_MAX_SEQS] = {0};
    float *logits = malloc(sizeof *logits * (size_t)(g->n_tokens * g->vocab));
    uint32_t seed = 7;
    for (;;) {
        struct piece pieces[RUN_MAX_SEQS];
        int32_t n = 0, row = 0;
        for (int32_t s = RUN_MAX_SEQS - 1; s >= 0; s--) {
            int32_t left = length[s] - done[s], take = (int32_t)(next_random(&seed) % 12);
            if (take > left) take = left;
            if (take > 0) pieces[n++] = (struct piece){s, done[s], done[s] + take, g->ids};
            done[s] += take;
        }
        if (n > 0) run_batch(r, n, pieces, 0, logits);
        for (int32_t i = 0; i < n; i++)
            for (int32_t p = pieces[i].begin; p < pieces[i].end; p++, row++)
                assert_same_row(g, whole, logits + (int64_t)row * g->vocab, p, "among others");
        if (done[0] == length[0] && done[1] == length[1] && done[2] == length[2] && done[3] == length[3])
            break;
    }
    free(logits);
}

static void test_golden(void **state)
{
    const struct test_case *tc = *state;
    struct backend *be = run_backend(tc->isa, 2);
    if (!be) skip();
    char dir[512];
    struct run r;
    struct golden g = read_golden(tc->model);
    snprintf(dir, sizeof dir, GOLDEN "%s", tc->model);
    open_model(&r, be, dir, g.n_tokens);
    float *whole = malloc(sizeof *whole * (size_t)(g.n_tokens * g.vocab)),
          *last = malloc(sizeof *last * (size_t)g.vocab);
    struct piece all = {0, 0, g.n_tokens, g.ids};
    run_batch(&r, 1, &all, 0, whole);
    assert_close(whole, &g);
    run_batch(&r, 1, &all, 1, last);
    assert_same_row(&g, whole, last, g.n_tokens - 1, "for its last row alone");
    run_in_chunks(&r, &g, whole, 1, 1, "token by token");
    run_in_chunks(&r, &g, whole, 2, 9, "in small chunks");
    run_in_chunks(&r, &g, whole, 3, 40, "in large chunks");
    run_mixed(&r, &g, whole);
    run_close(&r);
    be->close(be);

    be = run_backend(tc->isa, 1);
    float *alone = malloc(sizeof *alone * (size_t)(g.n_tokens * g.vocab));
    open_model(&r, be, dir, g.n_tokens);
    run_batch(&r, 1, &all, 0, alone);
    for (int32_t p = 0; p < g.n_tokens; p++)
        assert_same_row(&g, whole, alone + p * g.vocab, p, "on one thread");
    run_close(&r);
    be->close(be);
    free(alone);
    free(last);
    free(whole);
    free_golden(&g);
}

/* A directory like `model`'s, but with the field names of transformers 4 in its config.json. */
static void make_old_directory(const char *model, char dir[64])
{
    static const char *const files[][2] = {{"config.old.json", "config.json"},
                                           {"model.safetensors", "model.safetensors"}};
    strcpy(dir, "/tmp/llmlua-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
    for (size_t i = 0; i < 2; i++) {
        char from[512], to[128];
        snprintf(from, sizeof from, GOLDEN "%s/%s", model, files[i][0]);
        snprintf(to, sizeof to, "%s/%s", dir, files[i][1]);
        assert_int_equal(symlink(from, to), 0);
    }
}

static void remove_old_directory(const char *dir)
{
    char path[128];
    snprintf(path, sizeof path, "%s/config.json", dir);
    unlink(path);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    unlink(path);
    rmdir(dir);
}

/* The whole prompt on the scalar reference, from a directory or a GGUF file. */
static void check_whole(const char *path, const char *model)
{
    struct run r;
    struct backend *be = run_backend("ref", 1);
    struct golden g = read_golden(model);
    open_model(&r, be, path, g.n_tokens);
    float *logits = malloc(sizeof *logits * (size_t)(g.n_tokens * g.vocab));
    struct piece all = {0, 0, g.n_tokens, g.ids};
    run_batch(&r, 1, &all, 0, logits);
    assert_close(logits, &g);
    run_close(&r);
    be->close(be);
    free(logits);
    free_golden(&g);
}

static void test_old_config_names(void **state)
{
    static const char *const with_old[] = {"llama3", "mistral"};
    (void)state;
    for (size_t i = 0; i < 2; i++) {
        char dir[64];
        make_old_directory(with_old[i], dir);
        check_whole(dir, with_old[i]);
        remove_old_directory(dir);
    }
}

/* The same models as GGUF: other names, q and k rows interleaved, rotation factors as a tensor. */
static void test_gguf(void **state)
{
    (void)state;
    check_whole(GOLDEN "llama3/model.gguf", "llama3");
    check_whole(GOLDEN "qwen2/model.gguf", "qwen2");
}

/* Logits may be asked for in any order, in slices and again; a step allocates nothing. */
static void test_slices(void **state)
{
    enum { N = 20, SLICE = 3 };
    (void)state;
    struct run r;
    struct llm_error err;
    struct backend *be = run_backend(NULL, 2);
    struct golden g = read_golden("qwen3");
    open_model(&r, be, GOLDEN "qwen3", g.n_tokens);
    float *whole = malloc(sizeof *whole * (size_t)(N * g.vocab)),
          *slice = malloc(sizeof *slice * (size_t)(SLICE * g.vocab));
    struct piece piece = {0, 0, N, g.ids};
    run_batch(&r, 1, &piece, 0, whole);
    uint64_t n_allocations = mem_count();
    run_batch(&r, 1, &piece, 0, whole);
    for (int32_t first = N - SLICE; first >= 0; first -= 2) {
        int32_t rows[SLICE] = {first + 2, first, first + 1};
        assert_int_equal(decoder_logits(r.decoder, rows, SLICE, slice, &err), LLM_OK);
        for (int32_t i = 0; i < SLICE; i++)
            assert_same_row(&g, whole, slice + i * g.vocab, rows[i], "and asked for in slices");
    }
    assert_true(mem_count() == n_allocations);
    run_close(&r);
    be->close(be);
    free(slice);
    free(whole);
    free_golden(&g);
}

static void test_limits(void **state)
{
    (void)state;
    struct run r;
    struct llm_error err;
    struct decoder *d;
    struct backend *be = run_backend("ref", 1);
    struct golden g = read_golden("llama");
    open_model(&r, be, GOLDEN "llama", g.n_tokens);
    struct decoder_options too_long = {8, 1, 257}, none = {0, 1, 64};
    assert_int_equal(decoder_open(r.model, &too_long, &d, &err), LLM_EINVAL);
    assert_string_equal(err.message, "max_model_len is 257, but the model has positions for 256 tokens");
    assert_int_equal(decoder_open(r.model, &none, &d, &err), LLM_EINVAL);
    float *logits = malloc(sizeof *logits * (size_t)(g.n_tokens * g.vocab));
    struct piece piece = {0, 0, 5, g.ids};
    run_batch(&r, 1, &piece, 0, logits);
    int32_t row = 5;
    assert_int_equal(decoder_logits(r.decoder, &row, 1, logits, &err), LLM_EINVAL);
    run_close(&r);
    be->close(be);
    free(logits);
    free_golden(&g);
}

/* A device that notes what it is asked to tune, over a CPU backend. */
static struct {
    struct linear_args args[8];
    int32_t n, fails_at;
    int64_t n_filled;
} tuned;

static llm_status note_tune(struct backend *be, const struct linear_args *a)
{
    (void)be;
    assert_true(tuned.n < 8 && tuned.n_filled > 0);
    tuned.args[tuned.n] = *a;
    return tuned.n++ == tuned.fails_at ? LLM_EFAILED : LLM_OK;
}

static llm_status note_fill(struct backend *be, void *to, enum llm_dtype dtype, int64_t n, uint64_t state,
                            float deviation)
{
    (void)state;
    assert_true(dtype == be->act_dtype && deviation > 0);
    memset(to, 0, dtype_bytes(dtype, n)); /* of the decoder's own memory */
    tuned.n_filled = n;
    return LLM_OK;
}

static const char *no_reason(struct backend *be)
{
    (void)be;
    return "a test";
}

static void test_tune(void **state)
{
    (void)state;
    static const struct device_ops silent = {.failure = no_reason},
                                   ops = {.tune = note_tune, .fill = note_fill, .failure = no_reason};
    enum { LOGITS = 3 };
    struct run r;
    struct llm_error err;
    struct backend *be = run_backend("ref", 1);
    struct golden g = read_golden("llama");
    open_model(&r, be, GOLDEN "llama", g.n_tokens);
    const struct layer_weights *w = &r.model->layers[0];
    const struct weight *want[] = {w->qkv, w->o, w->up, w->down, r.model->head};
    const size_t bytes = sizeof(float) * (size_t)(g.n_tokens * g.vocab);
    float *logits = malloc(bytes), *before = malloc(bytes);
    struct piece piece = {0, 0, g.n_tokens, g.ids};
    run_batch(&r, 1, &piece, 0, before);
    be->device = &silent;
    assert_int_equal(decoder_tune(r.decoder, logits, LOGITS, &err), LLM_OK);
    be->device = &ops;
    for (tuned.fails_at = 5; tuned.fails_at >= 0; tuned.fails_at--) {
        tuned.n = 0;
        const llm_status status = decoder_tune(r.decoder, logits, LOGITS, &err);
        assert_int_equal(status, tuned.fails_at < 5 ? LLM_EFAILED : LLM_OK);
        assert_int_equal(tuned.n, tuned.fails_at < 5 ? tuned.fails_at + 1 : 5);
        for (int32_t i = 0; i < tuned.n; i++) {
            assert_ptr_equal(tuned.args[i].w, want[i]);
            assert_int_equal(tuned.args[i].n_rows, i < 4 ? g.n_tokens + 8 : LOGITS);
        }
    }
    assert_ptr_equal(tuned.args[0].norm.weight, w->attn_norm.weight);
    be->device = NULL;
    run_batch(&r, 1, &piece, 0, logits);
    assert_memory_equal(logits, before, bytes);
    run_close(&r);
    be->close(be);
    free(before);
    free(logits);
    free_golden(&g);
}

int main(void)
{
    static struct test_case cases[N_MODELS * N_ISAS];
    static struct CMUnitTest tests[N_MODELS * N_ISAS + 5];
    size_t n = 0;
    for (size_t m = 0; m < N_MODELS; m++)
        for (size_t i = 0; i < N_ISAS; i++, n++) {
            cases[n] = (struct test_case){models[m], isas[i], ""};
            snprintf(cases[n].name, sizeof cases[n].name, "test_golden %s %s", models[m], isas[i]);
            tests[n] = (struct CMUnitTest){cases[n].name, test_golden, NULL, NULL, &cases[n]};
        }
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_old_config_names);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_gguf);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_slices);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_limits);
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_tune);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
