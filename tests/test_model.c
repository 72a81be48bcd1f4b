/* Opening models: every way a file can disagree with its config is refused with a message that says where;
 * the n-th allocation failing leaves nothing behind; dtype conversion and random weights. */

#define _GNU_SOURCE
#include "golden_run.h"

#include "base/mem.h"
#include "model/dummy.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#define GOLDEN TESTS_DIR "/golden/models/"

/* ---- broken models ------------------------------------------------------------------------------------- */

/* The tiny llama with something changed. Null fields: as it is. */
struct variant {
    const char *config_from, *config_to; /* text in config.json, once */
    const char *header_from, *header_to; /* text in the header of model.safetensors, once */
    const char *extra;                   /* name of one more tensor, [16] */
    size_t cut;                          /* bytes off the end of the file */
    float first_value;                   /* of the first tensor stored, lm_head.weight; 0: as it is */
    const char *dtype;                   /* option */
    llm_status status;
    const char *message; /* what the message must contain */
};

static char *read_file(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    char *data = malloc(1 << 20);
    *size = fread(data, 1, (1 << 20) - 1, f);
    data[*size] = '\0';
    fclose(f);
    return data;
}

/* `text` with the first `from` replaced; the caller frees. */
static char *replace(const char *text, const char *from, const char *to)
{
    const char *at = strstr(text, from);
    assert_non_null(at);
    char *out = malloc(strlen(text) + strlen(to) + 1);
    sprintf(out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

static void write_config(const char *dir, const struct variant *v)
{
    size_t size;
    char path[128], *text = read_file(GOLDEN "llama/config.json", &size);
    char *edited = v->config_from ? replace(text, v->config_from, v->config_to) : strdup(text);
    snprintf(path, sizeof path, "%s/config.json", dir);
    FILE *f = fopen(path, "wb");
    fputs(edited, f);
    fclose(f);
    free(edited);
    free(text);
}

static void write_tensors(const char *dir, const struct variant *v)
{
    static const char extra_data[64];
    size_t size;
    uint64_t header_size;
    char path[128], added[256], *file = read_file(GOLDEN "llama/model.safetensors", &size);
    memcpy(&header_size, file, 8);
    char *header = strndup(file + 8, header_size), *data = file + 8 + header_size;
    size_t data_size = size - 8 - header_size;
    if (v->header_from) {
        char *edited = replace(header, v->header_from, v->header_to);
        free(header);
        header = edited;
    }
    if (v->extra) {
        snprintf(added, sizeof added,
                 "{\"%s\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[%zu,%zu]},", v->extra,
                 data_size, data_size + sizeof extra_data);
        char *edited = replace(header, "{", added);
        free(header);
        header = edited;
    }
    if (v->first_value != 0) memcpy(data, &v->first_value, sizeof v->first_value);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    FILE *f = fopen(path, "wb");
    header_size = strlen(header);
    fwrite(&header_size, 1, 8, f);
    fwrite(header, 1, header_size, f);
    fwrite(data, 1, data_size, f);
    if (v->extra) fwrite(extra_data, 1, sizeof extra_data, f);
    long end = ftell(f);
    fclose(f);
    assert_int_equal(truncate(path, end - (long)v->cut), 0);
    free(header);
    free(file);
}

static void remove_directory(const char *dir)
{
    static const char *const files[] = {"config.json", "model.safetensors"};
    char path[128];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}

static void make_directory(char dir[64])
{
    strcpy(dir, "/tmp/llmlua-test-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

#define GATE "\"model.layers.0.mlp.gate_proj.weight\":{\"dtype\":\"F32\",\"shape\":[96,64]"

static const struct variant variants[] = {
    {.header_from = "1.mlp.up_proj",
     .header_to = "1.mlp.xx_proj",
     .status = LLM_EFORMAT,
     .message = "tensor \"model.layers.1.mlp.up_proj.weight\" is not in the files"},
    {.header_from = GATE,
     .header_to = "\"model.layers.0.mlp.gate_proj.weight\":{\"dtype\":\"F32\",\"shape\":[64,96]",
     .status = LLM_EFORMAT,
     .message =
         "tensor \"model.layers.0.mlp.gate_proj.weight\" has shape [64, 96], but the model's config makes it "
         "[96, 64]"},
    {.header_from = GATE,
     .header_to = "\"model.layers.0.mlp.gate_proj.weight\":{\"dtype\":\"F32\",\"shape\":[6144]",
     .status = LLM_EFORMAT,
     .message = "has shape [6144], but the model's config makes it [96, 64]"},
    {.header_from = GATE,
     .header_to = "\"model.layers.0.mlp.gate_proj.weight\":{\"dtype\":\"I32\",\"shape\":[96,64]",
     .status = LLM_EUNSUP,
     .message = "tensor \"model.layers.0.mlp.gate_proj.weight\" holds integers (I32)"},
    {.header_from = GATE,
     .header_to = "\"model.layers.0.mlp.gate_proj.weight\":{\"dtype\":\"F64\",\"shape\":[96,32]",
     .status = LLM_EUNSUP,
     .message = "tensor \"model.layers.0.mlp.gate_proj.weight\" has dtype \"F64\""},
    {.cut = 1000, .status = LLM_EFORMAT, .message = "model.safetensors"},
    {.extra = "model.layers.0.self_attn.q_proj.bias",
     .status = LLM_EUNSUP,
     .message = "1 tensor has no place in a llama model as its config describes it: "
                "\"model.layers.0.self_attn.q_proj.bias\""},
    {.extra = "model.layers.0.self_attn.rotary_emb.inv_freq", .status = LLM_OK},
    {.config_from = "\"num_hidden_layers\": 2",
     .config_to = "\"num_hidden_layers\": 3",
     .status = LLM_EFORMAT,
     .message = "tensor \"model.layers.2.input_layernorm.weight\" is not in the files"},
    {.config_from = "\"num_hidden_layers\": 2",
     .config_to = "\"num_hidden_layers\": 1",
     .status = LLM_EUNSUP,
     .message = "9 tensors have no place in a llama model"},
    {.config_from = "\"attention_bias\": false",
     .config_to = "\"attention_bias\": true",
     .status = LLM_EFORMAT,
     .message = "tensor \"model.layers.0.self_attn.q_proj.bias\" is not in the files"},
    {.config_from = "\"tie_word_embeddings\": false",
     .config_to = "\"tie_word_embeddings\": true",
     .status = LLM_OK},
    {.config_from = "\"model_type\": \"llama\"",
     .config_to = "\"model_type\": \"bloom\"",
     .status = LLM_EUNSUP,
     .message = "bloom"},
    {.first_value = 1e6f, .status = LLM_OK},
    {.first_value = 1e6f,
     .dtype = "float16",
     .status = LLM_EINVAL,
     .message =
         "tensor \"lm_head.weight\" holds 1e+06, too large for dtype float16; use bfloat16 or float32"},
    {.dtype = "int3", .status = LLM_EINVAL, .message = "dtype is \"int3\"; it must be auto, float32"},
};

static void test_broken_models(void **state)
{
    struct backend *be = run_backend("ref", 1);
    (void)state;
    for (size_t i = 0; i < sizeof variants / sizeof *variants; i++) {
        const struct variant *v = &variants[i];
        char dir[64];
        struct model *model = NULL;
        struct llm_error err = {0};
        make_directory(dir);
        write_config(dir, v);
        write_tensors(dir, v);
        struct model_options options = {.path = dir, .dtype = v->dtype};
        llm_status st = model_open(be, &options, &model, &err);
        if (st != v->status) fail_msg("variant %zu: status %d (%s)", i, st, err.message);
        if (v->message && !strstr(err.message, v->message))
            fail_msg("variant %zu: message \"%s\"", i, err.message);
        if (st == LLM_OK)
            assert_null(model->tokenizer);
        else
            assert_null(model);
        model_close(model);
        remove_directory(dir);
    }
    be->close(be);
}

static void test_bad_paths(void **state)
{
    static const struct {
        const char *path, *load_format;
        llm_status status;
        const char *message;
    } cases[] = {
        {NULL, NULL, LLM_EINVAL, "no model given"},
        {"", NULL, LLM_EINVAL, "no model given"},
        {"/no/such/model", NULL, LLM_ENOENT, "/no/such/model"},
        {GOLDEN, NULL, LLM_ENOENT, "config.json: give a model's directory"},
        {GOLDEN "llama/config.json", NULL, LLM_EFORMAT, "config.json"}, /* not a GGUF file */
        {GOLDEN "llama", "gguf", LLM_EINVAL, "is a directory"},
        {GOLDEN "llama3/model.gguf", "safetensors", LLM_EINVAL, "is a file"},
        {GOLDEN "llama3/model.gguf", "dummy", LLM_EINVAL, "needs a config.json"},
        {GOLDEN "llama", "pickle", LLM_EINVAL, "load_format is \"pickle\""},
    };
    struct backend *be = run_backend("ref", 1);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model *model = NULL;
        struct llm_error err = {0};
        struct model_options options = {.path = cases[i].path, .load_format = cases[i].load_format};
        llm_status st = model_open(be, &options, &model, &err);
        if (st != cases[i].status || !strstr(err.message, cases[i].message))
            fail_msg("case %zu: status %d, message \"%s\"", i, st, err.message);
        assert_null(model);
    }
    be->close(be);
}

static void test_no_memory(void **state)
{
    static const char *const paths[][2] = {
        {GOLDEN "llama3", NULL}, {GOLDEN "llama3/model.gguf", NULL}, {GOLDEN "qwen2", "float32"}};
    struct backend *be = run_backend("ref", 1);
    (void)state;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        struct model_options options = {.path = paths[i][0], .dtype = paths[i][1]};
        struct decoder_options decoder_options = {8, 2, 32};
        uint64_t n = 0;
        for (int done = 0; !done;) {
            struct model *model = NULL;
            struct decoder *decoder = NULL;
            struct llm_error err = {0};
            mem_fail_at(++n);
            llm_status st = model_open(be, &options, &model, &err);
            if (st == LLM_OK) st = decoder_open(model, &decoder_options, &decoder, &err);
            mem_fail_at(0);
            if (st != LLM_OK && (st != LLM_ENOMEM || !err.message[0]))
                fail_msg("%s, allocation %d: status %d, \"%s\"", paths[i][0], (int)n, st, err.message);
            done = st == LLM_OK;
            decoder_close(decoder);
            model_close(model);
        }
        assert_true(n > 30);
    }
    be->close(be);
}

/* ---- dtype, dummy, progress ---------------------------------------------------------------------------- */

enum { N_IDS = 12, VOCAB = 192 };
static const int32_t some_ids[N_IDS] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 35, 89, 79};

/* Logits of the last of some_ids. */
static void last_logits(const struct model_options *options, float out[VOCAB])
{
    struct run r;
    struct backend *be = run_backend("ref", 1);
    struct piece piece = {0, 0, N_IDS, some_ids};
    run_open(&r, be, options, 16, 16, DTYPE_F32);
    assert_int_equal(r.model->config.vocab_size, VOCAB);
    run_batch(&r, 1, &piece, 1, out);
    for (int i = 0; i < VOCAB; i++) assert_true(isfinite(out[i]));
    run_close(&r);
    be->close(be);
}

static float largest_difference(const float a[VOCAB], const float b[VOCAB])
{
    float worst = 0;
    for (int i = 0; i < VOCAB; i++) worst = fmaxf(worst, fabsf(a[i] - b[i]));
    return worst;
}

static void test_dtype(void **state)
{
    /* model, its stored type, another type, whether that one holds all its values */
    static const struct {
        const char *path, *other;
        int exact;
    } cases[] = {
        {GOLDEN "llama3", "float32", 1},            /* bfloat16 */
        {GOLDEN "llama3/model.gguf", "float32", 1}, /* bfloat16 */
        {GOLDEN "qwen2", "float32", 1},             /* float16 */
        {GOLDEN "llama3", "float16", 1},            /* weights of this size fit */
        {GOLDEN "llama", "bfloat16", 0},            /* float32 */
        {GOLDEN "llama", "float16", 0},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        float stored[VOCAB], converted[VOCAB];
        struct model_options as_stored = {.path = cases[i].path}, other = as_stored;
        other.dtype = cases[i].other;
        last_logits(&as_stored, stored);
        last_logits(&other, converted);
        float difference = largest_difference(stored, converted);
        if (cases[i].exact) {
            assert_float_equal(difference, 0, i == 3 ? 1e-3f : 0);
        } else {
            assert_true(difference > 0);
            assert_true(difference < 0.1f);
        }
    }
}

static void test_dummy(void **state)
{
    float a[VOCAB], b[VOCAB], c[VOCAB];
    char dir[64], file[128];
    struct variant as_it_is = {0};
    (void)state;
    make_directory(dir);
    write_config(dir, &as_it_is);
    snprintf(file, sizeof file, "%s/config.json", dir);
    struct model_options options = {.path = dir, .load_format = "dummy", .seed = 7};
    struct model_options same = {.path = file, .load_format = "dummy", .seed = 7};
    struct model_options other = {.path = dir, .load_format = "dummy", .seed = 8};
    last_logits(&options, a);
    last_logits(&same, b);
    last_logits(&other, c);
    assert_memory_equal(a, b, sizeof a);
    assert_true(largest_difference(a, c) > 0.1f);
    remove_directory(dir);
}

static void test_dummy_values(void **state)
{
    static const enum llm_dtype types[] = {DTYPE_F32, DTYPE_F16, DTYPE_BF16};
    enum { N = 100003 };
    float *values = malloc(sizeof *values * N), *row = malloc(sizeof *row * N);
    (void)state;
    for (int i = 0; i < 3; i++) {
        double sum = 0, squares = 0;
        struct tensor t = {types[i], 1, {N}, values};
        dummy_fill("w", 1, types[i], 0.25f, N, values);
        dequantize_row(&t, 0, row);
        for (int k = 0; k < N; k++) {
            sum += (double)row[k];
            squares += (double)row[k] * (double)row[k];
        }
        assert_true(fabs(sum / N) < 0.005);
        assert_true(fabs(sqrt(squares / N) - 0.25) < 0.002);
    }
    free(row);
    free(values);
}

struct progress {
    int64_t done, total;
    int n_calls;
};

static void count_progress(void *ud, int64_t done, int64_t total)
{
    struct progress *p = ud;
    assert_true(done > p->done && done <= total);
    assert_true(p->n_calls == 0 || total == p->total);
    *p = (struct progress){done, total, p->n_calls + 1};
}

static void test_progress(void **state)
{
    static const struct {
        const char *path, *load_format, *dtype;
    } cases[] = {{GOLDEN "llama3", "auto", NULL},           {GOLDEN "llama3", "safetensors", "float32"},
                 {GOLDEN "qwen2/model.gguf", "gguf", NULL}, {GOLDEN "qwen3", "dummy", NULL},
                 {GOLDEN "llama3", "dummy", NULL},          {GOLDEN "llama3", "dummy", "float32"}};
    struct backend *be = run_backend("ref", 1);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct progress p = {0};
        struct model *model;
        struct llm_error err;
        struct model_options options = {.path = cases[i].path,
                                        .load_format = cases[i].load_format,
                                        .dtype = cases[i].dtype,
                                        .skip_tokenizer = 1,
                                        .progress = count_progress,
                                        .progress_ud = &p};
        assert_int_equal(model_open(be, &options, &model, &err), LLM_OK);
        assert_true(p.n_calls > 20);
        assert_int_equal(p.done, p.total);
        assert_true(model->weight_bytes > 0);
        model_close(model);
    }
    be->close(be);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_broken_models), cmocka_unit_test(test_bad_paths),
        cmocka_unit_test(test_no_memory),     cmocka_unit_test(test_dtype),
        cmocka_unit_test(test_dummy),         cmocka_unit_test(test_dummy_values),
        cmocka_unit_test(test_progress),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
