#include "base/quote.h"
#include "model/config_build.h"
#include "model/gguf.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- families ------------------------------------------------------------------------------------------ */

/* Files of arch "llama" (Mistral's too) have the rows of Q and K permuted so that rotation pairs are
 * neighbours; the others keep Hugging Face's order. */
struct family {
    const char *arch;
    enum rope_kind rope;
    int qk_norm;
    int32_t no_rope_interval; /* every n-th layer does not rotate; 0: all do */
};

static const struct family families[] = {
    {"llama", ROPE_INTERLEAVED, 0, 0},
    {"qwen2", ROPE_NEOX, 0, 0},
    {"qwen3", ROPE_NEOX, 1, 0},
    {"smollm3", ROPE_INTERLEAVED, 0, 4}, /* the interval is not in the metadata */
};

/* ---- reading keys -------------------------------------------------------------------------------------- */

/* The first failure sticks; later reads give their defaults, so that a run of reads is checked once. */
struct keys {
    const struct gguf *g;
    const char *arch;
    llm_status status;
    struct llm_error *err;
};

enum { KEY_SIZE = 160 };

/* A key that begins with a dot belongs to the architecture: ".block_count" is "llama.block_count". */
static const char *full_key(const struct keys *k, const char *key, char out[KEY_SIZE])
{
    snprintf(out, KEY_SIZE, "%s%s", key[0] == '.' ? k->arch : "", key);
    return out;
}

static int has(const struct keys *k, const char *key)
{
    char full[KEY_SIZE];
    return gguf_has(k->g, full_key(k, key, full));
}

/* value: its text, null: it has none that can be shown. */
static void fail_key(struct keys *k, const char *key, const char *value, const char *must_be)
{
    char full[KEY_SIZE];
    if (k->status != LLM_OK) return;
    full_key(k, key, full);
    if (!gguf_has(k->g, full))
        k->status = llm_fail(k->err, LLM_EFORMAT, "metadata key %s is missing; it must be %s", full, must_be);
    else
        k->status = llm_fail(k->err, LLM_EFORMAT, "metadata key %s is %s; it must be %s", full,
                             value ? value : "of another type", must_be);
}

enum { REQUIRED = INT32_MIN };

static int32_t get_int(struct keys *k, const char *key, int32_t min, int32_t max, int32_t absent)
{
    char full[KEY_SIZE], must_be[64], value[32];
    int64_t n;
    if (absent != REQUIRED && !has(k, key)) return absent;
    int found = gguf_get_int(k->g, full_key(k, key, full), &n);
    if (found && n >= min && n <= max) return (int32_t)n;
    snprintf(must_be, sizeof must_be, "an integer from %d to %d", (int)min, (int)max);
    if (found) snprintf(value, sizeof value, "%lld", (long long)n);
    fail_key(k, key, found ? value : NULL, must_be);
    return min;
}

/* absent NaN: the key is required. */
static double get_number(struct keys *k, const char *key, double min, double max, double absent)
{
    char full[KEY_SIZE], must_be[64], value[32];
    double n;
    if (!isnan(absent) && !has(k, key)) return absent;
    int found = gguf_get_float(k->g, full_key(k, key, full), &n);
    if (found && n >= min && n <= max) return n;
    snprintf(must_be, sizeof must_be, "a float from %g to %g", min, max);
    if (found) snprintf(value, sizeof value, "%g", n);
    fail_key(k, key, found ? value : NULL, must_be);
    return min;
}

static void fail_unsupported(struct keys *k, const char *key, struct gguf_string value, const char *supported)
{
    char full[KEY_SIZE];
    struct quoted q;
    if (k->status != LLM_OK) return;
    k->status = llm_fail(k->err, LLM_EUNSUP, "metadata key %s is %s, which is not supported; supported: %s",
                         full_key(k, key, full), quote_bytes(&q, value.data, value.size), supported);
}

static int equals(struct gguf_string s, const char *text)
{
    return s.size == strlen(text) && memcmp(s.data, text, s.size) == 0;
}

/* ---- the parts ----------------------------------------------------------------------------------------- */

static const struct family *read_family(struct keys *k, struct model_config *c)
{
    const char *key = "general.architecture";
    struct gguf_string arch;
    if (!gguf_get_string(k->g, key, &arch)) {
        fail_key(k, key, NULL, "the name of an architecture");
        return NULL;
    }
    char supported[128] = "";
    for (size_t i = 0, n = 0; i < sizeof families / sizeof families[0]; i++) {
        n += (size_t)snprintf(supported + n, sizeof supported - n, "%s%s", i ? ", " : "", families[i].arch);
        if (!equals(arch, families[i].arch)) continue;
        snprintf(c->arch, sizeof c->arch, "%s", families[i].arch);
        k->arch = c->arch;
        return &families[i];
    }
    fail_unsupported(k, key, arch, supported);
    return NULL;
}

static void read_vocab_size(struct keys *k, struct model_config *c)
{
    struct gguf_array tokens;
    const struct tensor *embedding = gguf_find(k->g, "token_embd.weight");
    if (has(k, ".vocab_size"))
        c->vocab_size = get_int(k, ".vocab_size", 1, CONFIG_MAX_VOCAB, REQUIRED);
    else if (gguf_get_array(k->g, "tokenizer.ggml.tokens", &tokens) && tokens.n >= 1 &&
             tokens.n <= CONFIG_MAX_VOCAB)
        c->vocab_size = (int32_t)tokens.n;
    else if (embedding && embedding->n_dims == 2 && embedding->dims[0] <= CONFIG_MAX_VOCAB)
        c->vocab_size = (int32_t)embedding->dims[0];
    else
        fail_key(k, ".vocab_size", NULL, "there, as the file holds no tokens and no token_embd.weight");
}

static void read_shape(struct keys *k, struct model_config *c)
{
    read_vocab_size(k, c);
    c->hidden_size = get_int(k, ".embedding_length", 1, CONFIG_MAX_HIDDEN, REQUIRED);
    c->ffn_size = get_int(k, ".feed_forward_length", 1, CONFIG_MAX_FFN, REQUIRED);
    c->n_layers = get_int(k, ".block_count", 1, CONFIG_MAX_LAYERS, REQUIRED);
    c->n_heads = get_int(k, ".attention.head_count", 1, CONFIG_MAX_HEADS, REQUIRED);
    c->n_kv_heads = get_int(k, ".attention.head_count_kv", 1, CONFIG_MAX_HEADS, c->n_heads);
    c->max_position = get_int(k, ".context_length", 1, CONFIG_MAX_POSITION, REQUIRED);
    c->norm_eps = (float)get_number(k, ".attention.layer_norm_rms_epsilon", 0, 1, NAN);
    c->window = get_int(k, ".attention.sliding_window", 0, CONFIG_MAX_POSITION, 0);
    if (k->status != LLM_OK) return;
    c->head_dim = get_int(k, ".attention.key_length", 1, CONFIG_MAX_HEAD_DIM, 0);
    if (c->head_dim == 0) {
        c->head_dim = c->hidden_size / c->n_heads;
        if (c->hidden_size % c->n_heads != 0 || c->head_dim > CONFIG_MAX_HEAD_DIM)
            fail_key(k, ".attention.head_count", "no divisor of embedding_length",
                     "one, with heads of at most 4096, where attention.key_length is absent");
    }
    int32_t value_length = get_int(k, ".attention.value_length", 1, CONFIG_MAX_HEAD_DIM, c->head_dim);
    if (value_length != c->head_dim)
        fail_key(k, ".attention.value_length", "another number", "equal to the length of keys");
    if (get_int(k, ".expert_count", 0, INT32_MAX, 0) > 0)
        fail_unsupported(k, ".expert_count", (struct gguf_string){"> 0", 3}, "models without experts");
}

static void read_yarn(struct keys *k, struct rope_config *rope)
{
    rope->beta_fast = get_number(k, ".rope.scaling.yarn_beta_fast", 1e-6, 1e6, 32);
    rope->beta_slow = get_number(k, ".rope.scaling.yarn_beta_slow", 1e-6, 1e6, 1);
    rope->attention_factor = get_number(k, ".rope.scaling.yarn_attn_factor", 0, 1e3, 0);
    rope->mscale_all_dim = get_number(k, ".rope.scaling.yarn_log_multiplier", 0, 1e3, 0);
    rope->mscale = rope->mscale_all_dim > 0 ? 1 : 0; /* llama.cpp's reading of that key */
}

/* Llama 3's scaling is not in the metadata: converters store its effect as the tensor rope_freqs.weight. */
static void read_rope(struct keys *k, const struct family *family, struct model_config *c)
{
    struct rope_config *rope = &c->rope;
    struct gguf_string type = {"none", 4};
    rope->kind = family->rope;
    rope->rotary_dim = get_int(k, ".rope.dimension_count", 2, CONFIG_MAX_HEAD_DIM, c->head_dim);
    rope->theta = get_number(k, ".rope.freq_base", 1.001, 1e15, 10000);
    rope->original_max_position =
        get_int(k, ".rope.scaling.original_context_length", 2, CONFIG_MAX_POSITION, c->max_position);
    /* A factor of 0 stands for none; scale_linear is its key in old files, which have no type. */
    double old = get_number(k, ".rope.scale_linear", 0, 1e6, 0);
    double factor = get_number(k, ".rope.scaling.factor", 0, 1e6, old);
    if (has(k, ".rope.scaling.type")) {
        char full[KEY_SIZE];
        if (!gguf_get_string(k->g, full_key(k, ".rope.scaling.type", full), &type))
            fail_key(k, ".rope.scaling.type", NULL, "a string");
    } else if (factor > 0) {
        type = (struct gguf_string){"linear", 6};
    }
    if (equals(type, "linear"))
        rope->scaling = ROPE_SCALE_LINEAR;
    else if (equals(type, "yarn"))
        rope->scaling = ROPE_SCALE_YARN;
    else if (!equals(type, "none"))
        fail_unsupported(k, ".rope.scaling.type", type, "none, linear, yarn");
    if (get_number(k, ".rope.scaling.attn_factor", 0, 1e3, 1) != 1)
        fail_unsupported(k, ".rope.scaling.attn_factor", (struct gguf_string){"not 1", 5}, "1");
    for (int32_t i = 0; family->no_rope_interval > 0 && i < c->n_layers; i++)
        c->no_rope[i] = (i + 1) % family->no_rope_interval == 0;
    if (rope->scaling == ROPE_SCALE_NONE) return;
    rope->factor = factor > 0 ? factor : 1;
    if (rope->scaling == ROPE_SCALE_YARN) read_yarn(k, rope);
}

static int has_tensor(const struct keys *k, const char *name)
{
    return gguf_find(k->g, name) != NULL;
}

/* What the metadata leave to the tensors. */
static void read_tensors(struct keys *k, struct model_config *c)
{
    c->qkv_bias = has_tensor(k, "blk.0.attn_q.bias");
    c->o_bias = has_tensor(k, "blk.0.attn_output.bias");
    c->mlp_bias = has_tensor(k, "blk.0.ffn_down.bias");
    c->tied_embeddings = !has_tensor(k, "output.weight");
    for (int64_t i = 0; i < gguf_n_tensors(k->g); i++) {
        const struct tensor *t = gguf_tensor(k->g, i, NULL);
        if (t->n_dims != 2 || (t->dtype != DTYPE_F32 && t->dtype != DTYPE_F16 && t->dtype != DTYPE_BF16))
            continue;
        c->dtype = t->dtype;
        return;
    }
}

static int32_t token_id(struct keys *k, const struct model_config *c, const char *key)
{
    int64_t id;
    return gguf_get_int(k->g, key, &id) ? config_token_id(c, id) : -1;
}

static void read_tokens(struct keys *k, struct model_config *c)
{
    c->bos_token_id = token_id(k, c, "tokenizer.ggml.bos_token_id");
    c->pad_token_id = token_id(k, c, "tokenizer.ggml.padding_token_id");
    config_add_eos(c, token_id(k, c, "tokenizer.ggml.eos_token_id"));
    config_add_eos(c, token_id(k, c, "tokenizer.ggml.eot_token_id"));
    config_add_eos(c, token_id(k, c, "tokenizer.ggml.eom_token_id"));
}

static float get_sampling(struct keys *k, const char *key, double min, double max)
{
    return gguf_has(k->g, key) ? (float)get_number(k, key, min, max, NAN) : NAN;
}

static void read_sampling(struct keys *k, struct model_config *c)
{
    const double above_zero = 1e-9;
    c->default_temperature = get_sampling(k, "general.sampling.temp", 0, 1e3);
    c->default_top_p = get_sampling(k, "general.sampling.top_p", above_zero, 1);
    c->default_min_p = get_sampling(k, "general.sampling.min_p", 0, 1);
    c->default_repetition_penalty = get_sampling(k, "general.sampling.penalty_repeat", above_zero, 1e3);
    c->default_top_k = get_int(k, "general.sampling.top_k", -1, INT32_MAX, -1);
}

llm_status config_from_gguf(const struct gguf *g, struct model_config *out, struct llm_error *err)
{
    struct model_config c;
    struct keys k = {g, "", LLM_OK, err};
    config_init(&c);
    c.naming = NAMING_GGUF;
    const struct family *family = read_family(&k, &c);
    if (!family) return k.status;
    c.qk_norm = family->qk_norm;
    read_shape(&k, &c);
    if (k.status != LLM_OK) return k.status;
    read_rope(&k, family, &c);
    read_tensors(&k, &c);
    read_tokens(&k, &c);
    read_sampling(&k, &c);
    llm_status status = k.status == LLM_OK ? config_finish(&c, err) : k.status;
    if (status == LLM_OK) *out = c;
    return status;
}
