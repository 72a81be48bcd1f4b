#include "base/file_map.h"
#include "base/mem.h"
#include "base/quote.h"
#include "model/config_build.h"
#include "model/json_text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Larger than any real config.json (longrope's factors and layer_types are its longest parts). */
enum { MAX_CONFIG_BYTES = 4 << 20 };

/* ---- families ------------------------------------------------------------------------------------------ */

enum setting { NO, YES, BY_KEY };
enum window_rule {
    WINDOW_NONE,
    WINDOW_UNREAD,  /* none; use_sliding_window is refused */
    WINDOW_ALWAYS,  /* sliding_window, 4096 if the key is absent */
    WINDOW_IF_USED, /* as WINDOW_ALWAYS, but only if use_sliding_window, from layer max_window_layers on */
};

/* Where the families of this decoder differ, and what their configuration classes in transformers put for an
 * absent key. */
struct family {
    const char *model_type;
    int32_t n_kv_heads; /* 0: as many as heads */
    int32_t head_dim;   /* 0: hidden_size / heads */
    int32_t max_position;
    enum setting qkv_bias, o_bias; /* BY_KEY: attention_bias */
    enum setting mlp_bias;         /* BY_KEY: mlp_bias */
    int qk_norm;
    enum window_rule window;
    int32_t bos, eos;         /* -1: none */
    double theta;             /* of rotation */
    int32_t no_rope_interval; /* every n-th layer does not rotate; 0: all do */
    int tied;                 /* tie_word_embeddings */
};

static const struct family families[] = {
    {"llama", 0, 0, 2048, BY_KEY, BY_KEY, BY_KEY, 0, WINDOW_NONE, 1, 2, 1e4, 0, 0},
    {"mistral", 8, 0, 131072, NO, NO, NO, 0, WINDOW_ALWAYS, 1, 2, 1e4, 0, 0},
    {"qwen2", 32, 0, 32768, YES, NO, NO, 0, WINDOW_IF_USED, -1, -1, 1e4, 0, 0},
    {"qwen3", 32, 128, 32768, BY_KEY, BY_KEY, NO, 1, WINDOW_IF_USED, -1, -1, 1e4, 0, 0},
    {"smollm3", 4, 0, 32768, BY_KEY, BY_KEY, BY_KEY, 0, WINDOW_UNREAD, 128000, 128001, 2e6, 4, 1},
};

static const struct family *find_family(const char *model_type)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++)
        if (strcmp(families[i].model_type, model_type) == 0) return &families[i];
    return NULL;
}

/* ---- reading keys -------------------------------------------------------------------------------------- */

/* The first failure sticks; later reads give their defaults, so that a run of reads is checked once. */
struct keys {
    const json_t *object;
    const char *prefix; /* before a key in messages: "", "rope_scaling." */
    llm_status status;
    struct llm_error *err;
};

/* null means absent, as None does in transformers. */
static const json_t *get(const struct keys *k, const char *key)
{
    const json_t *v = json_object_get(k->object, key);
    return json_is_null(v) ? NULL : v;
}

static void fail_key(struct keys *k, const char *key, const json_t *value, const char *must_be)
{
    if (k->status != LLM_OK) return;
    if (!value) {
        k->status =
            llm_fail(k->err, LLM_EFORMAT, "\"%s%s\" is missing; it must be %s", k->prefix, key, must_be);
        return;
    }
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_ENSURE_ASCII | JSON_COMPACT);
    k->status = llm_fail(k->err, LLM_EFORMAT, "\"%s%s\" is %.90s; it must be %s", k->prefix, key,
                         text ? text : "?", must_be);
    free(text);
}

enum { REQUIRED = INT32_MIN };

static int32_t get_int(struct keys *k, const char *key, int32_t min, int32_t max, int32_t absent)
{
    const json_t *v = get(k, key);
    if (!v && absent != REQUIRED) return absent;
    json_int_t n = json_integer_value(v);
    if (json_is_integer(v) && n >= min && n <= max) return (int32_t)n;
    char must_be[64];
    snprintf(must_be, sizeof must_be, "an integer from %d to %d", (int)min, (int)max);
    fail_key(k, key, v, must_be);
    return min;
}

/* absent NaN: the key is required. */
static double get_number(struct keys *k, const char *key, double min, double max, double absent)
{
    const json_t *v = get(k, key);
    if (!v && !isnan(absent)) return absent;
    double n = json_number_value(v);
    if (json_is_number(v) && n >= min && n <= max) return n;
    char must_be[64];
    snprintf(must_be, sizeof must_be, "a number from %g to %g", min, max);
    fail_key(k, key, v, must_be);
    return min;
}

static int get_bool(struct keys *k, const char *key, int absent)
{
    const json_t *v = get(k, key);
    if (!v) return absent;
    if (!json_is_boolean(v)) fail_key(k, key, v, "true or false");
    return json_is_true(v);
}

/* Null if absent. */
static const char *get_string(struct keys *k, const char *key)
{
    const json_t *v = get(k, key);
    if (v && !json_is_string(v)) fail_key(k, key, v, "a string");
    return json_string_value(v);
}

static void fail_unsupported(struct keys *k, const char *key, const char *value, const char *supported)
{
    struct quoted q;
    if (k->status != LLM_OK) return;
    k->status = llm_fail(k->err, LLM_EUNSUP, "\"%s%s\" is %s, which is not supported; supported: %s",
                         k->prefix, key, quote_text(&q, value), supported);
}

/* ---- rotation ------------------------------------------------------------------------------------------ */

static enum rope_scaling parse_scaling(struct keys *k)
{
    static const struct {
        const char *name;
        enum rope_scaling scaling;
    } types[] = {{"default", ROPE_SCALE_NONE},    {"linear", ROPE_SCALE_LINEAR},
                 {"dynamic", ROPE_SCALE_DYNAMIC}, {"llama3", ROPE_SCALE_LLAMA3},
                 {"yarn", ROPE_SCALE_YARN},       {"longrope", ROPE_SCALE_LONGROPE},
                 {"su", ROPE_SCALE_LONGROPE}}; /* longrope's first name */
    const char *key = get(k, "rope_type") ? "rope_type" : "type", *name = get_string(k, key);
    if (!name) return ROPE_SCALE_NONE;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++)
        if (strcmp(types[i].name, name) == 0) return types[i].scaling;
    fail_unsupported(k, key, name, "default, linear, dynamic, llama3, yarn, longrope");
    return ROPE_SCALE_NONE;
}

static float *get_factors(struct keys *k, const char *key, int32_t n)
{
    const json_t *v = get(k, key);
    char must_be[64];
    snprintf(must_be, sizeof must_be, "a list of %d positive numbers", (int)n);
    if (!json_is_array(v) || json_array_size(v) != (size_t)n) {
        fail_key(k, key, v, must_be);
        return NULL;
    }
    float *factors = mem_array((size_t)n, sizeof *factors);
    if (!factors && k->status == LLM_OK) k->status = llm_fail(k->err, LLM_ENOMEM, "no memory for %s", key);
    for (int32_t i = 0; factors && i < n; i++) {
        const json_t *e = json_array_get(v, (size_t)i);
        factors[i] = (float)json_number_value(e);
        if (!json_is_number(e) || !(factors[i] > 0) || !isfinite(factors[i])) fail_key(k, key, v, must_be);
    }
    return factors;
}

static void read_yarn(struct keys *k, struct rope_config *rope)
{
    rope->attention_factor = get_number(k, "attention_factor", 0, 1e3, 0);
    rope->beta_fast = get_number(k, "beta_fast", 0, 1e6, 0);
    rope->beta_slow = get_number(k, "beta_slow", 0, 1e6, 0);
    if (rope->beta_fast == 0) rope->beta_fast = 32; /* 0 stands for absent, in transformers too */
    if (rope->beta_slow == 0) rope->beta_slow = 1;
    rope->mscale = get_number(k, "mscale", 0, 1e3, 0);
    rope->mscale_all_dim = get_number(k, "mscale_all_dim", 0, 1e3, 0);
    rope->truncate = get_bool(k, "truncate", 1);
}

/* k: the object that holds the scaling's parameters. max_position: of the config, before scaling. */
static void read_scaling(struct keys *k, int32_t max_position, struct rope_config *rope)
{
    const double ratio = (double)max_position / rope->original_max_position;
    switch (rope->scaling) {
    case ROPE_SCALE_NONE:
        return;
    case ROPE_SCALE_LINEAR:
    case ROPE_SCALE_DYNAMIC:
        rope->factor = get_number(k, "factor", 1, 1e6, NAN);
        return;
    case ROPE_SCALE_LLAMA3:
        rope->factor = get_number(k, "factor", 1, 1e6, NAN);
        rope->low_freq_factor = get_number(k, "low_freq_factor", 1e-6, 1e6, NAN);
        rope->high_freq_factor = get_number(k, "high_freq_factor", 1e-6, 1e6, NAN);
        if (rope->high_freq_factor <= rope->low_freq_factor)
            fail_key(k, "high_freq_factor", get(k, "high_freq_factor"), "more than low_freq_factor");
        return;
    case ROPE_SCALE_YARN:
        rope->factor = get_number(k, "factor", 1, 1e6, ratio > 1 ? ratio : 1);
        read_yarn(k, rope);
        return;
    case ROPE_SCALE_LONGROPE:
        rope->factor = get_number(k, "factor", 1, 1e6, ratio > 1 ? ratio : 1);
        rope->attention_factor = get_number(k, "attention_factor", 0, 1e3, 0);
        rope->short_factor = get_factors(k, "short_factor", rope->rotary_dim / 2);
        rope->long_factor = get_factors(k, "long_factor", rope->rotary_dim / 2);
        return;
    }
}

/* Old files have rope_theta and rope_scaling, new ones rope_parameters, which holds both. As in transformers,
 * a rope_scaling that is there goes before rope_parameters. */
static void read_rope(struct keys *top, const struct family *family, struct model_config *c)
{
    struct rope_config *rope = &c->rope;
    const json_t *old = get(top, "rope_scaling"), *value;
    int is_old = old && !(json_is_object(old) && json_object_size(old) == 0);
    const char *name = is_old ? "rope_scaling" : "rope_parameters";
    const json_t *object = get(top, name);
    const char *key;
    char prefix[32];
    snprintf(prefix, sizeof prefix, "%s.", name);
    struct keys k = {object, prefix, top->status, top->err};
    if (object && !json_is_object(object)) fail_key(top, name, object, "an object");
    json_object_foreach((json_t *)(uintptr_t)object, key, value)
    {
        if (json_is_object(value))
            fail_unsupported(top, name, key, "one set of rotation parameters for all layers");
    }
    double theta = get_number(top, "rope_theta", 1.001, 1e15, family->theta);
    rope->kind = ROPE_NEOX;
    rope->rotary_dim = c->head_dim;
    rope->theta = get_number(&k, "rope_theta", 1.001, 1e15, theta);
    double partial = get_number(top, "partial_rotary_factor", 0, 1, 1);
    if (get_number(&k, "partial_rotary_factor", 0, 1, partial) != 1)
        fail_unsupported(&k, "partial_rotary_factor", "below 1", "1, in the families that are read");
    rope->scaling = parse_scaling(&k);
    rope->original_max_position = c->max_position;
    if (rope->scaling != ROPE_SCALE_NONE && rope->scaling != ROPE_SCALE_LINEAR &&
        rope->scaling != ROPE_SCALE_DYNAMIC) {
        const char *original = "original_max_position_embeddings";
        int32_t inner = get_int(&k, original, 2, CONFIG_MAX_POSITION, c->max_position);
        rope->original_max_position = get_int(top, original, 2, CONFIG_MAX_POSITION, inner);
    }
    if (k.status == LLM_OK && top->status == LLM_OK) read_scaling(&k, c->max_position, rope);
    if (top->status == LLM_OK) top->status = k.status;
}

/* A list with 1 for the layers that rotate and 0 for those that do not, or every n-th does not. */
static void read_no_rope(struct keys *k, const struct family *family, struct model_config *c)
{
    if (family->no_rope_interval == 0) return;
    const json_t *list = get(k, "no_rope_layers");
    int32_t interval = get_int(k, "no_rope_layer_interval", 1, INT32_MAX, family->no_rope_interval);
    if (list && json_array_size(list) < (size_t)c->n_layers)
        fail_key(k, "no_rope_layers", list, "a list with 0 or 1 for each layer");
    for (int32_t i = 0; i < c->n_layers; i++) {
        const json_t *rotates = list ? json_array_get(list, (size_t)i) : NULL;
        if (list && !json_is_integer(rotates) && !json_is_boolean(rotates))
            fail_key(k, "no_rope_layers", list, "a list with 0 or 1 for each layer");
        c->no_rope[i] =
            list ? !json_is_true(rotates) && json_integer_value(rotates) == 0 : (i + 1) % interval == 0;
    }
}

/* ---- the parts of config.json -------------------------------------------------------------------------- */

static void read_shape(struct keys *k, const struct family *family, struct model_config *c)
{
    c->vocab_size = get_int(k, "vocab_size", 1, CONFIG_MAX_VOCAB, REQUIRED);
    c->hidden_size = get_int(k, "hidden_size", 1, CONFIG_MAX_HIDDEN, REQUIRED);
    c->ffn_size = get_int(k, "intermediate_size", 1, CONFIG_MAX_FFN, REQUIRED);
    c->n_layers = get_int(k, "num_hidden_layers", 1, CONFIG_MAX_LAYERS, REQUIRED);
    c->n_heads = get_int(k, "num_attention_heads", 1, CONFIG_MAX_HEADS, REQUIRED);
    c->n_kv_heads = get_int(k, "num_key_value_heads", 1, CONFIG_MAX_HEADS,
                            family->n_kv_heads ? family->n_kv_heads : c->n_heads);
    c->max_position = get_int(k, "max_position_embeddings", 1, CONFIG_MAX_POSITION, family->max_position);
    c->head_dim = get_int(k, "head_dim", 1, CONFIG_MAX_HEAD_DIM, family->head_dim);
    if (c->head_dim == 0) {
        c->head_dim = c->hidden_size / c->n_heads;
        if (c->hidden_size % c->n_heads != 0 || c->head_dim > CONFIG_MAX_HEAD_DIM)
            fail_key(k, "num_attention_heads", get(k, "num_attention_heads"),
                     "a divisor of hidden_size, with heads of at most 4096, where head_dim is absent");
    }
}

static void read_activation(struct keys *k, struct model_config *c)
{
    static const struct {
        const char *name;
        enum activation act;
    } acts[] = {
        {"silu", ACT_SILU},          {"swish", ACT_SILU},          {"gelu", ACT_GELU},
        {"gelu_new", ACT_GELU_TANH}, {"gelu_fast", ACT_GELU_TANH}, {"gelu_pytorch_tanh", ACT_GELU_TANH},
        {"relu", ACT_RELU}};
    const char *name = get_string(k, "hidden_act");
    if (!name) return; /* SiLU, as config_init set it */
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++) {
        if (strcmp(acts[i].name, name) != 0) continue;
        c->act = acts[i].act;
        return;
    }
    fail_unsupported(k, "hidden_act", name, "silu, gelu, gelu_new, gelu_fast, gelu_pytorch_tanh, relu");
}

static void read_dtype(struct keys *k, struct model_config *c)
{
    static const struct {
        const char *name;
        enum llm_dtype dtype;
    } dtypes[] = {{"float32", DTYPE_F32}, {"float16", DTYPE_F16}, {"bfloat16", DTYPE_BF16}};
    const char *key = get(k, "dtype") ? "dtype" : "torch_dtype", *name = get_string(k, key);
    if (!name) return;
    const char *plain = strncmp(name, "torch.", 6) == 0 ? name + 6 : name;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        if (strcmp(dtypes[i].name, plain) != 0) continue;
        c->dtype = dtypes[i].dtype;
        return;
    }
    fail_unsupported(k, key, name, "float32, float16, bfloat16");
}

static int choose(struct keys *k, enum setting setting, const char *key)
{
    return setting == BY_KEY ? get_bool(k, key, 0) : setting == YES;
}

static void read_layer_types(struct keys *k, const json_t *types, struct model_config *c)
{
    char must_be[64];
    snprintf(must_be, sizeof must_be, "a list of %d names of kinds of attention", (int)c->n_layers);
    if (json_array_size(types) != (size_t)c->n_layers) {
        fail_key(k, "layer_types", types, must_be);
        return;
    }
    for (int32_t i = 0; i < c->n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        if (!type)
            fail_key(k, "layer_types", types, must_be);
        else if (strcmp(type, "full_attention") == 0)
            c->full_attention[i] = 1;
        else if (strcmp(type, "sliding_attention") != 0)
            fail_unsupported(k, "layer_types", type, "full_attention, sliding_attention");
    }
}

static void read_window(struct keys *k, const struct family *family, struct model_config *c)
{
    if (family->window == WINDOW_UNREAD && get_bool(k, "use_sliding_window", 0))
        fail_unsupported(k, "use_sliding_window", "true", "false, in this family");
    if (family->window == WINDOW_NONE || family->window == WINDOW_UNREAD) return;
    if (family->window == WINDOW_IF_USED && !get_bool(k, "use_sliding_window", 0)) return;
    /* Here null differs from absence: it says that there is no window. */
    if (json_is_null(json_object_get(k->object, "sliding_window"))) return;
    c->window = get_int(k, "sliding_window", 1, CONFIG_MAX_POSITION, 4096);
    if (family->window != WINDOW_IF_USED) return;
    const json_t *types = get(k, "layer_types");
    if (types) {
        read_layer_types(k, types, c);
        return;
    }
    int32_t first = get_int(k, "max_window_layers", 0, CONFIG_MAX_LAYERS, 28);
    for (int32_t i = 0; i < c->n_layers && i < first; i++) c->full_attention[i] = 1;
}

/* A list of ids or one id. Returns 0 if the key is absent. */
static int read_eos(struct keys *k, struct model_config *c)
{
    const json_t *v = get(k, "eos_token_id");
    const char *must_be = "a token id, or a list of at most 16";
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (!v) return 0;
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_is_array(v) ? json_array_get(v, i) : v;
        if (!json_is_integer(id) || json_integer_value(id) < -1 || !config_add_eos(c, json_integer_value(id)))
            fail_key(k, "eos_token_id", v, must_be);
    }
    return 1;
}

static void read_token_ids(struct keys *k, const struct keys *generation, const struct family *family,
                           struct model_config *c)
{
    struct keys g = *generation;
    int32_t bos = get_int(k, "bos_token_id", -1, INT32_MAX, family->bos);
    int32_t pad = get_int(k, "pad_token_id", -1, INT32_MAX, -1);
    c->bos_token_id = config_token_id(c, get_int(&g, "bos_token_id", -1, INT32_MAX, bos));
    c->pad_token_id = config_token_id(c, get_int(&g, "pad_token_id", -1, INT32_MAX, pad));
    if (!read_eos(&g, c) && !read_eos(k, c)) config_add_eos(c, family->eos);
    if (k->status == LLM_OK) k->status = g.status;
}

static float get_sampling(struct keys *k, const char *key, double min, double max)
{
    return get(k, key) ? (float)get_number(k, key, min, max, NAN) : NAN;
}

static void read_sampling(struct keys *k, struct model_config *c)
{
    const double above_zero = 1e-9;
    c->default_temperature = get_sampling(k, "temperature", 0, 1e3);
    c->default_top_p = get_sampling(k, "top_p", above_zero, 1);
    c->default_min_p = get_sampling(k, "min_p", 0, 1);
    c->default_repetition_penalty = get_sampling(k, "repetition_penalty", above_zero, 1e3);
    c->default_top_k = get_int(k, "top_k", -1, INT32_MAX, -1);
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static const struct family *read_family(struct keys *k, struct model_config *c)
{
    const char *model_type = get_string(k, "model_type");
    const struct family *family = model_type ? find_family(model_type) : NULL;
    if (!model_type) {
        fail_key(k, "model_type", get(k, "model_type"), "the name of an architecture");
    } else if (!family) {
        char supported[128] = "";
        for (size_t i = 0, n = 0; i < sizeof families / sizeof families[0]; i++)
            n += (size_t)snprintf(supported + n, sizeof supported - n, "%s%s", i ? ", " : "",
                                  families[i].model_type);
        fail_unsupported(k, "model_type", model_type, supported);
    } else {
        snprintf(c->arch, sizeof c->arch, "%s", model_type);
    }
    return family;
}

static void read_quantization(struct keys *k)
{
    const json_t *q = get(k, "quantization_config");
    if (!q) return;
    const char *method = json_string_value(json_object_get(q, "quant_method"));
    fail_unsupported(k, "quantization_config", method ? method : "of an unnamed method",
                     "weights in float32, float16 or bfloat16, and GGUF's quantized types");
}

/* generation: an object or null. */
static llm_status read_config(const json_t *object, const json_t *generation, struct model_config *c,
                              struct llm_error *err)
{
    struct keys k = {object, "", LLM_OK, err};
    struct keys g = {generation, "generation_config.", LLM_OK, err};
    config_init(c);
    const struct family *family = read_family(&k, c);
    if (!family) return k.status;
    read_quantization(&k);
    read_shape(&k, family, c);
    if (k.status != LLM_OK) return k.status;
    c->norm_eps = (float)get_number(&k, "rms_norm_eps", 0, 1, 1e-6);
    read_activation(&k, c);
    c->qkv_bias = choose(&k, family->qkv_bias, "attention_bias");
    c->o_bias = choose(&k, family->o_bias, "attention_bias");
    c->mlp_bias = choose(&k, family->mlp_bias, "mlp_bias");
    c->qk_norm = family->qk_norm;
    c->tied_embeddings = get_bool(&k, "tie_word_embeddings", family->tied);
    read_dtype(&k, c);
    read_window(&k, family, c);
    read_no_rope(&k, family, c);
    read_token_ids(&k, &g, family, c);
    read_sampling(&g, c);
    if (k.status == LLM_OK) k.status = g.status;
    if (k.status == LLM_OK) read_rope(&k, family, c);
    return k.status == LLM_OK ? config_finish(c, err) : k.status;
}

static llm_status build(const json_t *object, const json_t *generation, struct model_config *out,
                        struct llm_error *err)
{
    struct model_config c;
    llm_status status = read_config(object, generation, &c, err);
    if (status == LLM_OK)
        *out = c;
    else
        config_free(&c);
    return status;
}

llm_status config_from_json(const char *json, size_t bytes, const char *generation_json,
                            size_t generation_bytes, struct model_config *out, struct llm_error *err)
{
    json_t *object = NULL, *generation = NULL;
    llm_status status = json_text_parse(json, bytes, &object, err);
    if (status != LLM_OK) return llm_fail_in(err, "config.json"), status;
    if (generation_json) status = json_text_parse(generation_json, generation_bytes, &generation, err);
    if (status != LLM_OK)
        llm_fail_in(err, "generation_config.json");
    else if (!json_is_object(object) || (generation && !json_is_object(generation)))
        status = llm_fail(err, LLM_EFORMAT, "config.json and generation_config.json must hold objects");
    else
        status = build(object, generation, out, err);
    json_decref(object);
    json_decref(generation);
    return status;
}

llm_status config_from_dir(const char *dir, struct model_config *out, struct llm_error *err)
{
    char path[4096];
    json_t *object = NULL, *generation = NULL;
    int n = snprintf(path, sizeof path, "%s/generation_config.json", dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return llm_fail(err, LLM_EINVAL, "the path %.80s… is too long", dir);
    llm_status status = json_text_read(path, MAX_CONFIG_BYTES, &generation, err);
    if (status != LLM_OK && status != LLM_ENOENT) return status;
    snprintf(path, sizeof path, "%s/config.json", dir);
    status = json_text_read(path, MAX_CONFIG_BYTES, &object, err);
    if (status == LLM_OK) {
        status = build(object, generation, out, err);
        if (status != LLM_OK) llm_fail_in(err, "%s", path);
    } else if (status == LLM_ENOENT) {
        llm_fail(err, status, "there is no %s: give a model's directory, or the path of a GGUF file", path);
    }
    json_decref(object);
    json_decref(generation);
    return status;
}
