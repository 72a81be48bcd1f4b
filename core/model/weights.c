#include "model/weights.h"

#include "base/mem.h"
#include "model/place.h"
#include "model/source.h"

#include <string.h>

struct loader {
    struct model *model;
    struct source source;
};

/* ---- pieces of a model --------------------------------------------------------------------------------- */

struct part {
    enum tensor_role role;
    int64_t n_out;
};

/* The linear layer of up to three stored matrices, stacked. */
static llm_status load_linear(struct loader *ld, int32_t layer, int32_t n_parts, const struct part *parts,
                              int64_t n_in, enum weight_layout layout, struct weight **out)
{
    struct backend *be = ld->model->backend;
    struct source_tensor sources[3] = {0};
    struct weight_spec spec = {.n_parts = n_parts, .layout = layout};
    llm_status st = LLM_OK;
    for (int32_t i = 0; i < n_parts && !st; i++) {
        st = source_take(&ld->source, parts[i].role, layer, SUFFIX_WEIGHT, shape_matrix(parts[i].n_out, n_in),
                         &sources[i]);
        if (!st && !ld->source.checking) st = source_convert(&ld->source, &sources[i]);
        spec.part[i] = sources[i].tensor;
        spec.random_state[i] = sources[i].random_state;
        spec.random_deviation[i] = sources[i].random_deviation;
    }
    if (!st && !ld->source.checking) {
        st = be->weight_create(be, &spec, out, ld->source.err);
        if (st) llm_fail_in(ld->source.err, "tensor \"%s\"", sources[0].name);
    }
    if (!st && !ld->source.checking) {
        ld->model->weight_bytes += be->weight_bytes(*out);
        for (int32_t i = 0; i < n_parts; i++) source_progress(&ld->source, &sources[i]);
    }
    if (!ld->source.checking)
        for (int32_t i = 0; i < n_parts; i++) source_put(&sources[i]);
    return st;
}

/* n floats, zero, that live as long as the model. */
static float *new_vector(struct loader *ld, int64_t n)
{
    struct model_files *files = ld->model->files;
    if (files->n_vectors == files->vectors_capacity) {
        size_t capacity = files->vectors_capacity ? 2 * files->vectors_capacity : 64;
        void *grown = mem_grow(files->vectors, capacity, sizeof *files->vectors);
        if (!grown) return NULL;
        files->vectors = grown;
        files->vectors_capacity = capacity;
    }
    float *v = mem_array((size_t)n, sizeof *v);
    if (v) files->vectors[files->n_vectors++] = v;
    return v;
}

/* Copies a stored vector as f32. */
static llm_status read_vector(struct loader *ld, enum tensor_role role, int32_t layer,
                              enum tensor_suffix suffix, int64_t n, float *out)
{
    struct source_tensor s;
    llm_status st = source_take(&ld->source, role, layer, suffix, shape_vector(n), &s);
    if (st || ld->source.checking) return st;
    dequantize_row(&s.tensor, 0, out);
    ld->model->weight_bytes += (size_t)n * sizeof *out;
    source_progress(&ld->source, &s);
    source_put(&s);
    return LLM_OK;
}

static llm_status load_vector(struct loader *ld, enum tensor_role role, int32_t layer,
                              enum tensor_suffix suffix, int64_t n, float **out)
{
    float *v = NULL;
    if (!ld->source.checking && !(v = new_vector(ld, n)))
        return llm_fail(ld->source.err, LLM_ENOMEM, "no memory for a vector of %lld floats", (long long)n);
    llm_status st = read_vector(ld, role, layer, suffix, n, v);
    if (!st) *out = v;
    return st;
}

static llm_status load_norm(struct loader *ld, enum tensor_role role, int32_t layer, enum norm_kind kind,
                            int64_t n, struct norm *out)
{
    const struct model_config *config = &ld->model->config;
    float *weight = NULL, *bias = NULL;
    llm_status st = load_vector(ld, role, layer, SUFFIX_WEIGHT, n, &weight);
    if (!st && kind == NORM_LAYER) st = load_vector(ld, role, layer, SUFFIX_BIAS, n, &bias);
    if (st) return st;
    if (weight && config->norm_unit_offset)
        for (int64_t i = 0; i < n; i++) weight[i] += 1;
    *out = (struct norm){kind, config->norm_eps, weight, bias};
    return LLM_OK;
}

/* The parts' biases, stacked like their weights; null if there are none. Hugging Face's configs say whether a
 * model has them, GGUF's tensors do. */
static llm_status load_bias(struct loader *ld, int32_t layer, int wanted, int32_t n_parts,
                            const struct part *parts, float **out)
{
    int64_t n = 0, at = 0;
    for (int32_t i = 0; i < n_parts; i++) {
        n += parts[i].n_out;
        if (ld->model->config.naming == NAMING_GGUF &&
            source_has(&ld->source, parts[i].role, layer, SUFFIX_BIAS))
            wanted = 1;
    }
    if (!wanted) return LLM_OK;
    float *bias = NULL;
    if (!ld->source.checking && !(bias = new_vector(ld, n)))
        return llm_fail(ld->source.err, LLM_ENOMEM, "no memory for a bias of %lld floats", (long long)n);
    for (int32_t i = 0; i < n_parts; at += parts[i++].n_out) {
        llm_status st =
            read_vector(ld, parts[i].role, layer, SUFFIX_BIAS, parts[i].n_out, bias ? bias + at : NULL);
        if (st) return st;
    }
    *out = bias;
    return LLM_OK;
}

static llm_status load_layer(struct loader *ld, int32_t layer, struct layer_weights *w)
{
    const struct model_config *c = &ld->model->config;
    int64_t q_size = (int64_t)c->n_heads * c->head_dim, kv_size = (int64_t)c->n_kv_heads * c->head_dim;
    const struct part qkv[] = {{ROLE_Q, q_size}, {ROLE_K, kv_size}, {ROLE_V, kv_size}};
    const struct part o[] = {{ROLE_O, c->hidden_size}}, down[] = {{ROLE_DOWN, c->hidden_size}};
    const struct part gated[] = {{ROLE_GATE, c->ffn_size}, {ROLE_UP, c->ffn_size}};
    const struct part *up = c->gated_mlp ? gated : gated + 1;
    int32_t n_up = c->gated_mlp ? 2 : 1;
    enum weight_layout up_layout = c->gated_mlp ? WEIGHT_GATED : WEIGHT_PLAIN;

    llm_status st = load_norm(ld, ROLE_ATTN_NORM, layer, c->norm, c->hidden_size, &w->attn_norm);
    if (!st) st = load_linear(ld, layer, 3, qkv, c->hidden_size, WEIGHT_PLAIN, &w->qkv);
    if (!st) st = load_bias(ld, layer, c->qkv_bias, 3, qkv, &w->qkv_bias);
    if (!st && c->qk_norm) st = load_norm(ld, ROLE_Q_NORM, layer, NORM_RMS, c->head_dim, &w->q_norm);
    if (!st && c->qk_norm) st = load_norm(ld, ROLE_K_NORM, layer, NORM_RMS, c->head_dim, &w->k_norm);
    if (!st) st = load_linear(ld, layer, 1, o, q_size, WEIGHT_PLAIN, &w->o);
    if (!st) st = load_bias(ld, layer, c->o_bias, 1, o, &w->o_bias);
    if (!st) st = load_norm(ld, ROLE_MLP_NORM, layer, c->norm, c->hidden_size, &w->mlp_norm);
    if (!st) st = load_linear(ld, layer, n_up, up, c->hidden_size, up_layout, &w->up);
    if (!st) st = load_bias(ld, layer, c->mlp_bias, n_up, up, &w->up_bias);
    if (!st) st = load_linear(ld, layer, 1, down, c->ffn_size, WEIGHT_PLAIN, &w->down);
    if (!st) st = load_bias(ld, layer, c->mlp_bias, 1, down, &w->down_bias);
    return st;
}

/* The table stays where it is stored, in its stored type: a step reads a few of its rows. */
static llm_status load_embedding(struct loader *ld)
{
    struct model *model = ld->model;
    struct source_tensor s;
    llm_status st = source_take(&ld->source, ROLE_EMBEDDING, 0, SUFFIX_WEIGHT,
                                shape_matrix(model->config.vocab_size, model->config.hidden_size), &s);
    if (st || ld->source.checking) return st;
    model->embedding = s.tensor;
    model->files->embedding = s.own;
    model->files->embedding_bytes = s.own_bytes;
    st = model->backend->device ? place_embedding(model, &s, ld->source.err) : LLM_OK;
    source_progress(&ld->source, &s);
    return st;
}

/* GGUF stores the divisors that Llama 3's scaling gives to each frequency. */
static llm_status load_rope_factors(struct loader *ld)
{
    struct rope_config *rope = &ld->model->config.rope;
    if (!source_has(&ld->source, ROLE_ROPE_FACTORS, 0, SUFFIX_WEIGHT)) return LLM_OK;
    if (!ld->source.checking && !rope->short_factor) {
        rope->short_factor = mem_array((size_t)rope->rotary_dim / 2, sizeof(float));
        if (!rope->short_factor)
            return llm_fail(ld->source.err, LLM_ENOMEM, "no memory for rotation factors");
    }
    return read_vector(ld, ROLE_ROPE_FACTORS, 0, SUFFIX_WEIGHT, rope->rotary_dim / 2, rope->short_factor);
}

static llm_status load_head(struct loader *ld)
{
    struct model *model = ld->model;
    const struct model_config *c = &model->config;
    int tied =
        c->naming == NAMING_GGUF ? !source_has(&ld->source, ROLE_HEAD, 0, SUFFIX_WEIGHT) : c->tied_embeddings;
    const struct part head = {tied ? ROLE_EMBEDDING : ROLE_HEAD, c->vocab_size};
    llm_status st = load_linear(ld, 0, 1, &head, c->hidden_size, WEIGHT_PLAIN, &model->head);
    if (!st && source_has(&ld->source, ROLE_HEAD, 0, SUFFIX_BIAS))
        st = load_vector(ld, ROLE_HEAD, 0, SUFFIX_BIAS, c->vocab_size, &model->head_bias);
    return st;
}

/* The head first: it is the largest, and for a moment it is in memory twice. */
static llm_status walk(struct loader *ld)
{
    struct model *model = ld->model;
    const struct model_config *c = &model->config;
    llm_status st = load_embedding(ld);
    if (!st) st = load_head(ld);
    if (!st) st = load_rope_factors(ld);
    for (int32_t i = 0; i < c->n_layers && !st; i++) st = load_layer(ld, i, &model->layers[i]);
    if (!st) st = load_norm(ld, ROLE_FINAL_NORM, 0, c->norm, c->hidden_size, &model->final_norm);
    return st;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

llm_status weights_dtype(const char *name, enum llm_dtype stored, enum llm_dtype *out, struct llm_error *err)
{
    if (!name || strcmp(name, "auto") == 0)
        *out = stored;
    else if (strcmp(name, "float32") == 0)
        *out = DTYPE_F32;
    else if (strcmp(name, "float16") == 0)
        *out = DTYPE_F16;
    else if (strcmp(name, "bfloat16") == 0)
        *out = DTYPE_BF16;
    else
        return llm_fail(err, LLM_EINVAL, "dtype is \"%s\"; it must be auto, float32, float16 or bfloat16",
                        name);
    return LLM_OK;
}

llm_status weights_load(struct model *model, const struct model_options *options, struct llm_error *err)
{
    struct loader ld = {model,
                        {.config = &model->config, .files = model->files, .options = options, .err = err}};
    struct source *src = &ld.source;
    src->on_device = model->backend->device != NULL;
    src->convert = options->dtype && strcmp(options->dtype, "auto") != 0;
    llm_status st = weights_dtype(options->dtype, model->config.dtype, &src->dtype, err);
    if (st) return st;
    model->layers = mem_array((size_t)model->config.n_layers, sizeof *model->layers);
    if (!model->layers)
        return llm_fail(err, LLM_ENOMEM, "no memory for %d layers", (int)model->config.n_layers);
    src->checking = 1;
    st = walk(&ld);
    if (!st) st = source_check_all_used(src);
    mem_free(src->used);
    if (st) return st;
    src->checking = 0;
    st = walk(&ld);
    return !st && model->backend->device ? place_vectors(model, err) : st;
}

void weights_free(struct model *model)
{
    struct backend *be = model->backend;
    struct model_files *files = model->files;
    for (int32_t i = 0; model->layers && i < model->config.n_layers; i++) {
        struct weight *all[] = {model->layers[i].qkv, model->layers[i].o, model->layers[i].up,
                                model->layers[i].down};
        for (size_t k = 0; k < sizeof all / sizeof *all; k++)
            if (all[k]) be->weight_destroy(be, all[k]);
    }
    if (model->head) be->weight_destroy(be, model->head);
    mem_free(model->layers);
    place_free(model);
    for (size_t i = 0; i < files->n_vectors; i++) mem_free(files->vectors[i]);
    mem_free(files->vectors);
    mem_unmap(files->embedding, files->embedding_bytes);
}
