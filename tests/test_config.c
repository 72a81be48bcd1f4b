/* Configurations of real models in little, and every kind of value that cannot be. Expected values are those
 * that transformers' configuration classes give. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "gguf_writer.h"
#include "model/config.h"

#include <math.h>
#include <unistd.h>

static struct model_config read_or_fail(const char *json, const char *generation)
{
    struct model_config c;
    struct llm_error err = {LLM_OK, ""};
    llm_status status =
        config_from_json(json, strlen(json), generation, generation ? strlen(generation) : 0, &c, &err);
    if (status != LLM_OK) fail_msg("%s", err.message);
    return c;
}

static void expect_failure(const char *json, const char *generation, llm_status status, const char *message)
{
    struct model_config c;
    struct llm_error err = {LLM_OK, ""};
    llm_status got =
        config_from_json(json, strlen(json), generation, generation ? strlen(generation) : 0, &c, &err);
    if (got != status || !strstr(err.message, message))
        fail_msg("%s: expected %s with %s, got %s: %s", json, llm_status_text(status), message,
                 llm_status_text(got), err.message);
}

/* ---- families from config.json ------------------------------------------------------------------------- */

#define LLAMA_32_1B                                                                                          \
    "\"model_type\":\"llama\",\"vocab_size\":128256,\"hidden_size\":2048,\"intermediate_size\":8192,"        \
    "\"num_hidden_layers\":16,\"num_attention_heads\":32,\"num_key_value_heads\":8,\"head_dim\":64,"         \
    "\"max_position_embeddings\":131072,\"rms_norm_eps\":1e-05,\"hidden_act\":\"silu\","                     \
    "\"attention_bias\":false,\"mlp_bias\":false,\"tie_word_embeddings\":true,"                              \
    "\"bos_token_id\":128000,\"eos_token_id\":[128001,128008,128009]"
#define LLAMA3_SCALING                                                                                       \
    "\"factor\":32.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"                                      \
    "\"original_max_position_embeddings\":8192,\"rope_type\":\"llama3\""

static void check_llama3(const struct model_config *c)
{
    assert_string_equal(c->arch, "llama");
    assert_int_equal(c->naming, NAMING_HF);
    assert_int_equal(c->vocab_size, 128256);
    assert_int_equal(c->hidden_size, 2048);
    assert_int_equal(c->ffn_size, 8192);
    assert_int_equal(c->n_layers, 16);
    assert_int_equal(c->n_heads, 32);
    assert_int_equal(c->n_kv_heads, 8);
    assert_int_equal(c->head_dim, 64);
    assert_int_equal(c->max_position, 131072);
    assert_true(c->norm == NORM_RMS && c->norm_eps == 1e-5f);
    assert_true(c->act == ACT_SILU && c->gated_mlp);
    assert_true(!c->qkv_bias && !c->o_bias && !c->mlp_bias && !c->qk_norm);
    assert_int_equal(c->tied_embeddings, 1);
    assert_int_equal(c->dtype, DTYPE_BF16);
    assert_int_equal(c->rope.kind, ROPE_NEOX);
    assert_int_equal(c->rope.rotary_dim, 64);
    assert_true(c->rope.theta == 500000);
    assert_int_equal(c->rope.scaling, ROPE_SCALE_LLAMA3);
    assert_true(c->rope.factor == 32 && c->rope.low_freq_factor == 1 && c->rope.high_freq_factor == 4);
    assert_int_equal(c->rope.original_max_position, 8192);
    assert_true(c->attn_scale == 0.125f);
    assert_true(c->embed_scale == 1 && c->residual_scale == 1 && c->logit_scale == 1);
    assert_true(c->attn_softcap == 0 && c->logit_softcap == 0);
    assert_int_equal(c->window, 0);
    assert_int_equal(c->bos_token_id, 128000);
    assert_int_equal(c->pad_token_id, -1);
}

static void test_llama3(void **state)
{
    (void)state;
    struct model_config c =
        read_or_fail("{" LLAMA_32_1B ",\"rope_theta\":500000.0,"
                     "\"rope_scaling\":{" LLAMA3_SCALING "},\"torch_dtype\":\"bfloat16\"}",
                     NULL);
    check_llama3(&c);
    assert_int_equal(c.n_eos, 3);
    assert_int_equal(c.eos_token_ids[2], 128009);
    assert_true(isnan(c.default_temperature) && isnan(c.default_top_p) && isnan(c.default_min_p));
    assert_true(isnan(c.default_repetition_penalty) && c.default_top_k == -1);
    config_free(&c);
}

static void test_llama3_new_names(void **state)
{
    (void)state;
    struct model_config c =
        read_or_fail("{" LLAMA_32_1B ",\"dtype\":\"bfloat16\","
                     "\"rope_parameters\":{\"rope_theta\":500000.0," LLAMA3_SCALING "}}",
                     "{\"temperature\":0.6,\"top_p\":0.9,\"top_k\":40,\"min_p\":0.05,"
                     "\"repetition_penalty\":1.1,\"eos_token_id\":128009,\"pad_token_id\":128004}");
    c.pad_token_id -= 128005; /* the one difference: now -1 */
    check_llama3(&c);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_token_ids[0], 128009);
    assert_true(c.default_temperature == 0.6f && c.default_top_p == 0.9f && c.default_min_p == 0.05f);
    assert_true(c.default_repetition_penalty == 1.1f);
    assert_int_equal(c.default_top_k, 40);
    config_free(&c);
}

#define SMALL                                                                                                \
    "\"vocab_size\":1000,\"hidden_size\":256,\"intermediate_size\":512,\"num_hidden_layers\":4,"             \
    "\"num_attention_heads\":8"

static void test_llama_defaults(void **state)
{
    (void)state;
    struct model_config c = read_or_fail("{\"model_type\":\"llama\"," SMALL ",\"pad_token_id\":null,"
                                         "\"rope_scaling\":null,\"torch_dtype\":\"torch.float16\"}",
                                         NULL);
    assert_int_equal(c.n_kv_heads, 8);
    assert_int_equal(c.head_dim, 32);
    assert_int_equal(c.max_position, 2048);
    assert_true(c.norm_eps == 1e-6f);
    assert_true(c.rope.theta == 10000 && c.rope.scaling == ROPE_SCALE_NONE);
    assert_int_equal(c.tied_embeddings, 0);
    assert_int_equal(c.dtype, DTYPE_F16);
    assert_int_equal(c.bos_token_id, 1);
    assert_true(c.n_eos == 1 && c.eos_token_ids[0] == 2);
    config_free(&c);
    c = read_or_fail("{\"model_type\":\"llama\"," SMALL ",\"attention_bias\":true,\"mlp_bias\":true,"
                     "\"hidden_act\":\"gelu_pytorch_tanh\"}",
                     NULL);
    assert_true(c.qkv_bias && c.o_bias && c.mlp_bias);
    assert_int_equal(c.act, ACT_GELU_TANH);
    assert_int_equal(c.dtype, DTYPE_F32);
    config_free(&c);
}

static void test_mistral(void **state)
{
    (void)state;
    const char *windows[] = {"", ",\"sliding_window\":null", ",\"sliding_window\":32"};
    const int32_t expected[] = {4096, 0, 32};
    for (int i = 0; i < 3; i++) {
        char json[512];
        snprintf(json, sizeof json, "{\"model_type\":\"mistral\"," SMALL ",\"head_dim\":128%s}", windows[i]);
        struct model_config c = read_or_fail(json, NULL);
        assert_int_equal(c.head_dim, 128); /* not hidden / heads: Nemo */
        assert_int_equal(c.n_kv_heads, 8);
        assert_int_equal(c.window, expected[i]);
        assert_int_equal(config_layer_window(&c, 3), expected[i]);
        assert_true(!c.qkv_bias && !c.o_bias && !c.mlp_bias);
        config_free(&c);
    }
}

static void test_qwen2(void **state)
{
    (void)state;
    struct model_config c = read_or_fail("{\"model_type\":\"qwen2\"," SMALL ",\"num_key_value_heads\":2,"
                                         "\"use_sliding_window\":false,\"sliding_window\":64,"
                                         "\"eos_token_id\":7,\"tie_word_embeddings\":true}",
                                         NULL);
    assert_true(c.qkv_bias && !c.o_bias && !c.mlp_bias && !c.qk_norm && c.tied_embeddings);
    assert_int_equal(c.window, 0);
    assert_int_equal(c.bos_token_id, -1);
    assert_int_equal(c.max_position, 32768);
    config_free(&c);
    c = read_or_fail("{\"model_type\":\"qwen2\"," SMALL ",\"num_key_value_heads\":2,"
                     "\"use_sliding_window\":true,\"sliding_window\":64,\"max_window_layers\":3}",
                     NULL);
    assert_int_equal(c.n_eos, 0);
    for (int32_t i = 0; i < 4; i++) assert_int_equal(config_layer_window(&c, i), i < 3 ? 0 : 64);
    config_free(&c);
    c = read_or_fail("{\"model_type\":\"qwen2\"," SMALL ",\"num_key_value_heads\":2,"
                     "\"use_sliding_window\":true,\"sliding_window\":64,\"layer_types\":["
                     "\"sliding_attention\",\"full_attention\",\"sliding_attention\",\"full_attention\"]}",
                     NULL);
    for (int32_t i = 0; i < 4; i++) assert_int_equal(config_layer_window(&c, i), i % 2 ? 0 : 64);
    config_free(&c);
}

static void test_qwen3(void **state)
{
    (void)state;
    struct model_config c =
        read_or_fail("{\"model_type\":\"qwen3\"," SMALL ",\"num_key_value_heads\":2}", NULL);
    assert_int_equal(c.qk_norm, 1);
    assert_int_equal(c.head_dim, 128);
    assert_true(!c.qkv_bias && !c.o_bias);
    assert_true(c.attn_scale == (float)(1 / sqrt(128)));
    config_free(&c);
}

static void test_smollm3(void **state)
{
    (void)state;
    const char *layers[] = {"", ",\"no_rope_layer_interval\":2", ",\"no_rope_layers\":[0,1,1,0]"};
    const uint8_t expected[3][4] = {{0, 0, 0, 1}, {0, 1, 0, 1}, {1, 0, 0, 1}};
    for (int i = 0; i < 3; i++) {
        char json[512];
        snprintf(json, sizeof json, "{\"model_type\":\"smollm3\"," SMALL "%s}", layers[i]);
        struct model_config c = read_or_fail(json, NULL);
        assert_memory_equal(c.no_rope, expected[i], 4);
        assert_true(c.n_kv_heads == 4 && c.rope.theta == 2e6 && c.tied_embeddings);
        config_free(&c);
    }
    expect_failure("{\"model_type\":\"smollm3\"," SMALL ",\"no_rope_layers\":[0,1]}", NULL, LLM_EFORMAT,
                   "\"no_rope_layers\" is [0,1]");
}

/* ---- scaling of rotations ------------------------------------------------------------------------------ */

static struct model_config with_scaling(const char *scaling)
{
    char json[1024];
    snprintf(json, sizeof json,
             "{\"model_type\":\"llama\"," SMALL ",\"num_key_value_heads\":2,\"head_dim\":4,"
             "\"max_position_embeddings\":4096,%s}",
             scaling);
    return read_or_fail(json, NULL);
}

static void test_scalings(void **state)
{
    (void)state;
    struct model_config c = with_scaling("\"rope_scaling\":{\"type\":\"linear\",\"factor\":4}");
    assert_int_equal(c.rope.scaling, ROPE_SCALE_LINEAR);
    assert_true(c.rope.factor == 4);
    assert_int_equal(c.max_position, 16384);
    config_free(&c);

    c = with_scaling("\"rope_scaling\":{\"type\":\"dynamic\",\"factor\":2.5}");
    assert_int_equal(c.rope.scaling, ROPE_SCALE_DYNAMIC);
    assert_int_equal(c.rope.original_max_position, 4096);
    assert_int_equal(c.max_position, 10240);
    config_free(&c);

    c = with_scaling("\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,"
                     "\"original_max_position_embeddings\":2048}");
    assert_int_equal(c.rope.scaling, ROPE_SCALE_YARN);
    assert_int_equal(c.max_position, 8192);
    assert_true(c.rope.beta_fast == 32 && c.rope.beta_slow == 1 && c.rope.truncate);
    assert_true(c.rope.attention_factor == 0 && c.rope.mscale == 0);
    config_free(&c);

    /* the context already is the scaled one */
    c = with_scaling("\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":null,\"beta_fast\":16,"
                     "\"original_max_position_embeddings\":1024,\"truncate\":false,"
                     "\"attention_factor\":1.5,\"mscale\":0.7,\"mscale_all_dim\":0.8}");
    assert_int_equal(c.max_position, 4096);
    assert_true(c.rope.factor == 4 && c.rope.beta_fast == 16 && !c.rope.truncate);
    assert_true(c.rope.attention_factor == 1.5 && c.rope.mscale == 0.7 && c.rope.mscale_all_dim == 0.8);
    config_free(&c);

    c = with_scaling("\"original_max_position_embeddings\":512,\"rope_scaling\":{\"type\":\"su\","
                     "\"short_factor\":[1,1.5],\"long_factor\":[2,3]}");
    assert_int_equal(c.rope.scaling, ROPE_SCALE_LONGROPE);
    assert_int_equal(c.rope.original_max_position, 512);
    assert_int_equal(c.max_position, 4096);
    assert_true(c.rope.factor == 8);
    assert_true(c.rope.short_factor[1] == 1.5f && c.rope.long_factor[1] == 3);
    config_free(&c);
    assert_null(c.rope.short_factor);

    c = with_scaling(
        "\"rope_theta\":5000,\"rope_parameters\":{\"rope_type\":\"default\",\"rope_theta\":700}");
    assert_true(c.rope.scaling == ROPE_SCALE_NONE && c.rope.theta == 700);
    config_free(&c);
}

static void test_bad_scalings(void **state)
{
    (void)state;
    const struct {
        const char *scaling;
        llm_status status;
        const char *message;
    } cases[] = {
        {"\"rope_scaling\":{\"type\":\"linear\"}", LLM_EFORMAT,
         "\"rope_scaling.factor\" is missing; it must be a number from 1 to 1e+06"},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":0.5}", LLM_EFORMAT, "\"rope_scaling.factor\" is"},
        {"\"rope_scaling\":{\"type\":\"linear\",\"factor\":\"4\"}", LLM_EFORMAT,
         "\"rope_scaling.factor\" is"},
        {"\"rope_scaling\":{\"type\":\"mrope\",\"factor\":4}", LLM_EUNSUP,
         "\"rope_scaling.type\" is \"mrope\", which is not supported; supported: default, linear"},
        {"\"rope_scaling\":{\"type\":7}", LLM_EFORMAT, "it must be a string"},
        {"\"rope_scaling\":7", LLM_EFORMAT, "\"rope_scaling\" is 7; it must be an object"},
        {"\"rope_parameters\":[1]", LLM_EFORMAT, "\"rope_parameters\" is [1]; it must be an object"},
        {"\"rope_parameters\":{\"full_attention\":{\"rope_type\":\"default\"}}", LLM_EUNSUP,
         "full_attention"},
        {"\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":4,\"high_freq_factor\":4}",
         LLM_EFORMAT, "more than low_freq_factor"},
        {"\"rope_scaling\":{\"type\":\"llama3\",\"factor\":8,\"low_freq_factor\":1}", LLM_EFORMAT,
         "high_freq_factor\" is missing"},
        {"\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1],\"long_factor\":[1]}", LLM_EFORMAT,
         "\"rope_scaling.long_factor\" is [1]; it must be a list of 2 positive numbers"},
        {"\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,0],\"long_factor\":[1,1]}", LLM_EFORMAT,
         "short_factor"},
        {"\"rope_scaling\":{\"type\":\"longrope\",\"short_factor\":[1,1e300],\"long_factor\":[1,1]}",
         LLM_EFORMAT, "short_factor"},
        {"\"rope_scaling\":{\"type\":\"yarn\",\"factor\":4,\"original_max_position_embeddings\":0}",
         LLM_EFORMAT, "original_max_position_embeddings\" is 0; it must be an integer from 2"},
        {"\"rope_theta\":1", LLM_EFORMAT, "\"rope_theta\" is 1; it must be a number from 1.001"},
        {"\"rope_theta\":-10000.0", LLM_EFORMAT, "\"rope_theta\""},
        {"\"partial_rotary_factor\":0.5", LLM_EUNSUP, "partial_rotary_factor"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char json[1024];
        snprintf(json, sizeof json, "{\"model_type\":\"llama\"," SMALL ",\"head_dim\":4,%s}",
                 cases[i].scaling);
        expect_failure(json, NULL, cases[i].status, cases[i].message);
    }
}

/* ---- values that cannot be ----------------------------------------------------------------------------- */

static void test_bad_values(void **state)
{
    (void)state;
    const struct {
        const char *key, *value; /* put in the place of a right one, or added */
        llm_status status;
        const char *message;
    } cases[] = {
        {"model_type", "\"gpt5\"", LLM_EUNSUP,
         "\"model_type\" is \"gpt5\", which is not supported; supported: llama, mistral, qwen2, qwen3, "
         "smollm3"},
        {"model_type", "null", LLM_EFORMAT, "\"model_type\" is missing"},
        {"model_type", "3", LLM_EFORMAT, "\"model_type\" is 3; it must be"},
        {"vocab_size", "0", LLM_EFORMAT, "\"vocab_size\" is 0; it must be an integer from 1 to 16777216"},
        {"vocab_size", "null", LLM_EFORMAT, "\"vocab_size\" is missing"},
        {"hidden_size", "-256", LLM_EFORMAT, "\"hidden_size\" is -256"},
        {"hidden_size", "4294967552", LLM_EFORMAT, "\"hidden_size\""}, /* 256 in 32 bits */
        {"hidden_size", "256.0", LLM_EFORMAT, "\"hidden_size\""},
        {"hidden_size", "\"256\"", LLM_EFORMAT, "\"hidden_size\" is \"256\"; it must be"},
        {"hidden_size", "250", LLM_EFORMAT, "a divisor of hidden_size"},
        {"num_hidden_layers", "513", LLM_EFORMAT, "from 1 to 512"},
        {"num_attention_heads", "0", LLM_EFORMAT, "\"num_attention_heads\""},
        {"num_key_value_heads", "3", LLM_EFORMAT, "8 attention heads cannot share 3 key-value heads"},
        {"num_key_value_heads", "16", LLM_EFORMAT, "cannot share 16"},
        {"head_dim", "31", LLM_EFORMAT, "31 dimensions of a head of 31 are rotated"},
        {"intermediate_size", "true", LLM_EFORMAT, "\"intermediate_size\" is true"},
        {"rms_norm_eps", "-1e-6", LLM_EFORMAT, "\"rms_norm_eps\""},
        {"rms_norm_eps", "\"x\"", LLM_EFORMAT, "it must be a number from 0 to 1"},
        {"hidden_act", "\"mish\"", LLM_EUNSUP, "\"hidden_act\" is \"mish\""},
        {"torch_dtype", "\"float8_e4m3fn\"", LLM_EUNSUP, "supported: float32, float16, bfloat16"},
        {"attention_bias", "1", LLM_EFORMAT, "true or false"},
        {"tie_word_embeddings", "\"no\"", LLM_EFORMAT, "\"tie_word_embeddings\" is"},
        {"eos_token_id", "\"</s>\"", LLM_EFORMAT, "\"eos_token_id\""},
        {"eos_token_id", "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]", LLM_EFORMAT, "at most 16"},
        {"bos_token_id", "-2", LLM_EFORMAT, "\"bos_token_id\""},
        {"quantization_config", "{\"quant_method\":\"awq\"}", LLM_EUNSUP,
         "\"quantization_config\" is \"awq\""},
    };
    const char *keys[] = {"model_type",        "vocab_size",        "hidden_size",
                          "intermediate_size", "num_hidden_layers", "num_attention_heads"};
    const char *values[] = {"\"llama\"", "1000", "256", "512", "4", "8"};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char json[1024] = "{";
        int added = 0;
        for (size_t j = 0; j < 6; j++) {
            int same = strcmp(keys[j], cases[i].key) == 0;
            added |= same;
            snprintf(json + strlen(json), sizeof json - strlen(json), "%s\"%s\":%s", j ? "," : "", keys[j],
                     same ? cases[i].value : values[j]);
        }
        if (!added)
            snprintf(json + strlen(json), sizeof json - strlen(json), ",\"%s\":%s", cases[i].key,
                     cases[i].value);
        snprintf(json + strlen(json), sizeof json - strlen(json), "}");
        expect_failure(json, NULL, cases[i].status, cases[i].message);
    }
}

static void test_bad_texts(void **state)
{
    (void)state;
    const char *good = "{\"model_type\":\"llama\"," SMALL "}";
    expect_failure("", NULL, LLM_EFORMAT, "config.json: it is not valid JSON");
    expect_failure("[]", NULL, LLM_EFORMAT, "must hold objects");
    expect_failure("{\"model_type\":\"llama\",\"model_type\":\"llama\"}", NULL, LLM_EFORMAT, "duplicate");
    expect_failure(good, "{", LLM_EFORMAT, "generation_config.json: it is not valid JSON: line 1");
    expect_failure(good, "[]", LLM_EFORMAT, "must hold objects");
    expect_failure(good, "{\"temperature\":-1}", LLM_EFORMAT, "\"generation_config.temperature\" is -1");
    expect_failure(good, "{\"top_p\":0}", LLM_EFORMAT, "\"generation_config.top_p\"");
    expect_failure(good, "{\"top_k\":1.5}", LLM_EFORMAT, "\"generation_config.top_k\"");
    expect_failure(good, "{\"eos_token_id\":{}}", LLM_EFORMAT, "\"generation_config.eos_token_id\"");
}

/* An id that no logit stands for must not reach those who index logits by it. */
static void test_ids_beyond_vocabulary(void **state)
{
    (void)state;
    struct model_config c =
        read_or_fail("{\"model_type\":\"llama\"," SMALL ",\"eos_token_id\":[999,1000,999,-1],"
                     "\"pad_token_id\":1000,\"bos_token_id\":999}",
                     NULL);
    assert_int_equal(c.n_eos, 1);
    assert_int_equal(c.eos_token_ids[0], 999);
    assert_int_equal(c.pad_token_id, -1);
    assert_int_equal(c.bos_token_id, 999);
    config_free(&c);
}

static void test_allocation_failure(void **state)
{
    (void)state;
    const char *json = "{\"model_type\":\"llama\"," SMALL ",\"head_dim\":4,\"rope_scaling\":{\"type\":"
                       "\"longrope\",\"short_factor\":[1,1.5],\"long_factor\":[2,3]}}";
    for (int n = 1; n <= 2; n++) {
        struct model_config c;
        struct llm_error err;
        mem_fail_at((uint64_t)n);
        assert_int_equal(config_from_json(json, strlen(json), NULL, 0, &c, &err), LLM_ENOMEM);
        mem_fail_at(0);
    }
}

static void test_directory(void **state)
{
    (void)state;
    char dir[] = "/tmp/test_config_XXXXXX", path[64], generation[64];
    struct model_config c;
    struct llm_error err = {LLM_OK, ""};
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/config.json", dir);
    snprintf(generation, sizeof generation, "%s/generation_config.json", dir);
    assert_int_equal(config_from_dir(dir, &c, &err), LLM_ENOENT);
    assert_non_null(strstr(err.message, path));
    FILE *f = fopen(path, "w");
    fputs("{\"model_type\":\"llama\"," SMALL "}", f);
    fclose(f);
    if (config_from_dir(dir, &c, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_true(c.n_eos == 1 && c.eos_token_ids[0] == 2);
    config_free(&c);
    f = fopen(generation, "w");
    fputs("{\"eos_token_id\":[5,6]}", f);
    fclose(f);
    if (config_from_dir(dir, &c, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_true(c.n_eos == 2 && c.eos_token_ids[0] == 5 && c.eos_token_ids[1] == 6);
    config_free(&c);
    f = fopen(generation, "w");
    fputs("no", f);
    fclose(f);
    assert_int_equal(config_from_dir(dir, &c, &err), LLM_EFORMAT);
    assert_non_null(strstr(err.message, generation));
    unlink(generation);
    unlink(path);
    rmdir(dir);
}

/* ---- GGUF ---------------------------------------------------------------------------------------------- */

enum { MAX_EXTRA = 8, N_BASE = 8 };

struct extra {
    const char *key; /* after the architecture and a dot, or a whole key if it has a colon before it */
    enum gguf_type type;
    double number;
    const char *text;
};

static void put_extra(struct writer *w, const char *arch, const struct extra *e)
{
    char key[128];
    if (e->key[0] == ':')
        snprintf(key, sizeof key, "%s", e->key + 1);
    else
        snprintf(key, sizeof key, "%s.%s", arch, e->key);
    if (e->type == GGUF_STRING)
        put_kv_string(w, key, e->text);
    else if (e->type == GGUF_F32)
        put_kv_f32(w, key, (float)e->number);
    else
        put_kv_u32(w, key, (uint32_t)e->number);
}

/* A file of the given architecture with all that is required, or without the key `without`. */
static void put_model(struct writer *w, const char *arch, const struct extra *extras, uint64_t n_extras,
                      const char *without, const char *const *tensors, uint64_t n_tensors)
{
    const struct extra base[N_BASE] = {{":general.architecture", GGUF_STRING, 0, arch},
                                       {"vocab_size", GGUF_U32, 1000, NULL},
                                       {"embedding_length", GGUF_U32, 256, NULL},
                                       {"feed_forward_length", GGUF_U32, 512, NULL},
                                       {"block_count", GGUF_U32, 4, NULL},
                                       {"attention.head_count", GGUF_U32, 8, NULL},
                                       {"context_length", GGUF_U32, 4096, NULL},
                                       {"attention.layer_norm_rms_epsilon", GGUF_F32, 1e-5, NULL}};
    int left_out = 0;
    for (int i = 0; i < N_BASE; i++) left_out |= without && strcmp(base[i].key, without) == 0;
    put_header(w, 3, n_tensors, N_BASE + n_extras - (uint64_t)left_out);
    for (int i = 0; i < N_BASE; i++)
        if (!without || strcmp(base[i].key, without) != 0) put_extra(w, arch, &base[i]);
    for (uint64_t i = 0; i < n_extras; i++) put_extra(w, arch, &extras[i]);
    for (uint64_t i = 0; i < n_tensors; i++) put_tensor(w, tensors[i], 2, (uint64_t[]){2, 2}, 1, 0);
    put_padding(w, 32);
    put_bytes(w, (char[32]){0}, 32);
}

static llm_status read_model(struct writer *w, struct model_config *c, struct llm_error *err)
{
    struct gguf *g = NULL;
    void *copy;
    if (open_written(w, &copy, &g, err) != LLM_OK) fail_msg("%s", err->message);
    llm_status status = config_from_gguf(g, c, err);
    gguf_close(g);
    free(copy);
    drop_written(w);
    return status;
}

static void test_gguf_llama(void **state)
{
    (void)state;
    struct writer w = {0};
    struct model_config c;
    struct llm_error err = {LLM_OK, ""};
    const struct extra extras[] = {{"attention.head_count_kv", GGUF_U32, 2, NULL},
                                   {"rope.freq_base", GGUF_F32, 5e5, NULL},
                                   {"rope.dimension_count", GGUF_U32, 32, NULL},
                                   {":tokenizer.ggml.bos_token_id", GGUF_U32, 1, NULL},
                                   {":tokenizer.ggml.eos_token_id", GGUF_U32, 2, NULL},
                                   {":tokenizer.ggml.eot_token_id", GGUF_U32, 9, NULL},
                                   {":tokenizer.ggml.padding_token_id", GGUF_U32, 4000000000.0, NULL},
                                   {":general.sampling.temp", GGUF_F32, 0.5, NULL}};
    put_model(&w, "llama", extras, 8, NULL, NULL, 0);
    if (read_model(&w, &c, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_string_equal(c.arch, "llama");
    assert_int_equal(c.naming, NAMING_GGUF);
    assert_true(c.vocab_size == 1000 && c.hidden_size == 256 && c.ffn_size == 512 && c.n_layers == 4);
    assert_true(c.n_heads == 8 && c.n_kv_heads == 2 && c.head_dim == 32 && c.max_position == 4096);
    assert_true(c.norm_eps == 1e-5f && c.rope.theta == 5e5);
    assert_true(c.rope.kind == ROPE_INTERLEAVED && c.rope.rotary_dim == 32);
    assert_true(c.rope.scaling == ROPE_SCALE_NONE && c.rope.factor == 1);
    assert_true(c.tied_embeddings && !c.qkv_bias && !c.qk_norm);
    assert_true(c.bos_token_id == 1 && c.pad_token_id == -1);
    assert_true(c.n_eos == 2 && c.eos_token_ids[0] == 2 && c.eos_token_ids[1] == 9);
    assert_true(c.default_temperature == 0.5f && isnan(c.default_top_p));
    config_free(&c);
}

static void test_gguf_qwen(void **state)
{
    (void)state;
    struct writer w = {0};
    struct model_config c;
    struct llm_error err = {LLM_OK, ""};
    const char *const tensors[] = {"token_embd.weight", "output.weight", "blk.0.attn_q.bias"};
    put_model(&w, "qwen2", NULL, 0, NULL, tensors, 3);
    if (read_model(&w, &c, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_true(c.rope.kind == ROPE_NEOX && c.n_kv_heads == 8);
    assert_true(c.qkv_bias && !c.o_bias && !c.tied_embeddings && !c.qk_norm);
    assert_int_equal(c.dtype, DTYPE_F16);
    config_free(&c);
    const struct extra extras[] = {{"attention.key_length", GGUF_U32, 128, NULL},
                                   {"attention.value_length", GGUF_U32, 128, NULL},
                                   {"attention.sliding_window", GGUF_U32, 64, NULL}};
    put_model(&w, "qwen3", extras, 3, NULL, NULL, 0);
    if (read_model(&w, &c, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_true(c.qk_norm && c.head_dim == 128 && c.rope.rotary_dim == 128 && c.window == 64);
    config_free(&c);
}

static void test_gguf_scalings(void **state)
{
    (void)state;
    struct writer w = {0};
    struct model_config c;
    struct llm_error err = {LLM_OK, ""};
    const struct extra old[] = {{"rope.scale_linear", GGUF_F32, 4, NULL}};
    put_model(&w, "llama", old, 1, NULL, NULL, 0);
    if (read_model(&w, &c, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_true(c.rope.scaling == ROPE_SCALE_LINEAR && c.rope.factor == 4);
    const struct extra none[] = {{"rope.scaling.type", GGUF_STRING, 0, "none"},
                                 {"rope.scaling.factor", GGUF_F32, 4, NULL}};
    put_model(&w, "llama", none, 2, NULL, NULL, 0);
    if (read_model(&w, &c, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_true(c.rope.scaling == ROPE_SCALE_NONE && c.rope.factor == 1);
    const struct extra yarn[] = {{"rope.scaling.type", GGUF_STRING, 0, "yarn"},
                                 {"rope.scaling.factor", GGUF_F32, 4, NULL},
                                 {"rope.scaling.original_context_length", GGUF_U32, 2048, NULL},
                                 {"rope.scaling.yarn_beta_fast", GGUF_F32, 16, NULL}};
    put_model(&w, "qwen2", yarn, 4, NULL, NULL, 0);
    if (read_model(&w, &c, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_true(c.rope.scaling == ROPE_SCALE_YARN && c.rope.factor == 4);
    assert_true(c.rope.original_max_position == 2048 && c.max_position == 8192);
    assert_true(c.rope.beta_fast == 16 && c.rope.beta_slow == 1);
}

static void test_gguf_bad(void **state)
{
    (void)state;
    const struct {
        const char *without;
        struct extra extra;
        llm_status status;
        const char *message;
    } cases[] = {
        {"block_count", {":x", GGUF_U32, 0, NULL}, LLM_EFORMAT, "llama.block_count is missing"},
        {"block_count",
         {"block_count", GGUF_U32, 0, NULL},
         LLM_EFORMAT,
         "llama.block_count is 0; it must be an integer from 1 to 512"},
        {"block_count",
         {"block_count", GGUF_STRING, 0, "4"},
         LLM_EFORMAT,
         "llama.block_count is of another type"},
        {"vocab_size", {":x", GGUF_U32, 0, NULL}, LLM_EFORMAT, "llama.vocab_size is missing"},
        {"attention.head_count",
         {"attention.head_count", GGUF_U32, 7, NULL},
         LLM_EFORMAT,
         "no divisor of embedding_length"},
        {NULL, {"attention.head_count_kv", GGUF_U32, 3, NULL}, LLM_EFORMAT, "cannot share 3"},
        {NULL, {"attention.value_length", GGUF_U32, 64, NULL}, LLM_EFORMAT, "equal to the length of keys"},
        {NULL, {"rope.dimension_count", GGUF_U32, 34, NULL}, LLM_EFORMAT, "34 dimensions of a head of 32"},
        {NULL, {"rope.freq_base", GGUF_F32, NAN, NULL}, LLM_EFORMAT, "llama.rope.freq_base is"},
        {NULL, {"rope.freq_base", GGUF_U32, 10000, NULL}, LLM_EFORMAT, "of another type"},
        {NULL,
         {"rope.scaling.type", GGUF_STRING, 0, "longrope"},
         LLM_EUNSUP,
         "supported: none, linear, yarn"},
        {NULL, {"expert_count", GGUF_U32, 8, NULL}, LLM_EUNSUP, "without experts"},
        {":general.architecture",
         {":general.architecture", GGUF_STRING, 0, "mamba"},
         LLM_EUNSUP,
         "general.architecture is \"mamba\", which is not supported; supported: llama, qwen2, qwen3, "
         "smollm3"},
        {":general.architecture", {":x", GGUF_U32, 0, NULL}, LLM_EFORMAT, "general.architecture is missing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct writer w = {0};
        struct model_config c;
        struct llm_error err = {LLM_OK, ""};
        put_model(&w, "llama", &cases[i].extra, 1, cases[i].without, NULL, 0);
        llm_status status = read_model(&w, &c, &err);
        if (status != cases[i].status || !strstr(err.message, cases[i].message))
            fail_msg("case %zu: %s: %s", i, llm_status_text(status), err.message);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_llama3),
        cmocka_unit_test(test_llama3_new_names),
        cmocka_unit_test(test_llama_defaults),
        cmocka_unit_test(test_mistral),
        cmocka_unit_test(test_qwen2),
        cmocka_unit_test(test_qwen3),
        cmocka_unit_test(test_smollm3),
        cmocka_unit_test(test_scalings),
        cmocka_unit_test(test_bad_scalings),
        cmocka_unit_test(test_bad_values),
        cmocka_unit_test(test_bad_texts),
        cmocka_unit_test(test_ids_beyond_vocabulary),
        cmocka_unit_test(test_allocation_failure),
        cmocka_unit_test(test_directory),
        cmocka_unit_test(test_gguf_llama),
        cmocka_unit_test(test_gguf_qwen),
        cmocka_unit_test(test_gguf_scalings),
        cmocka_unit_test(test_gguf_bad),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
