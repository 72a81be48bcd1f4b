#include "model/weights.h"

#include "base/file_map.h"
#include "base/mem.h"
#include "base/quote.h"
#include "model/dummy.h"
#include "model/gguf.h"
#include "model/safetensors.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names --------------------------------------------------------------------------------------------- */

/* What a tensor is to the decoder. */
enum role {
    EMBEDDING,
    FINAL_NORM,
    HEAD,
    ROPE_FACTORS,
    ATTN_NORM,
    MLP_NORM,
    Q,
    K,
    V,
    Q_NORM,
    K_NORM,
    O,
    GATE,
    UP,
    DOWN,
    N_ROLES
};

/* By naming; %d is the layer. ".weight" or ".bias" follows. Null: the naming has no such tensor. */
static const char *const role_names[N_ROLES][2] = {
    [EMBEDDING] = {"model.embed_tokens", "token_embd"},
    [FINAL_NORM] = {"model.norm", "output_norm"},
    [HEAD] = {"lm_head", "output"},
    [ROPE_FACTORS] = {NULL, "rope_freqs"},
    [ATTN_NORM] = {"model.layers.%d.input_layernorm", "blk.%d.attn_norm"},
    [MLP_NORM] = {"model.layers.%d.post_attention_layernorm", "blk.%d.ffn_norm"},
    [Q] = {"model.layers.%d.self_attn.q_proj", "blk.%d.attn_q"},
    [K] = {"model.layers.%d.self_attn.k_proj", "blk.%d.attn_k"},
    [V] = {"model.layers.%d.self_attn.v_proj", "blk.%d.attn_v"},
    [Q_NORM] = {"model.layers.%d.self_attn.q_norm", "blk.%d.attn_q_norm"},
    [K_NORM] = {"model.layers.%d.self_attn.k_norm", "blk.%d.attn_k_norm"},
    [O] = {"model.layers.%d.self_attn.o_proj", "blk.%d.attn_output"},
    [GATE] = {"model.layers.%d.mlp.gate_proj", "blk.%d.ffn_gate"},
    [UP] = {"model.layers.%d.mlp.up_proj", "blk.%d.ffn_up"},
    [DOWN] = {"model.layers.%d.mlp.down_proj", "blk.%d.ffn_down"},
};

/* Ends of names of tensors that files carry but that follow from the config: buffers of old exports. */
static const char *const derived_names[] = {".rotary_emb.inv_freq", ".attn.masked_bias",
                                            ".attention.masked_bias", ".attention.rotary_emb.inv_freq"};

enum suffix { WEIGHT, BIAS };
enum { NAME_SIZE = 128 };

static void tensor_name(char name[NAME_SIZE], enum naming naming, enum role role, int32_t layer,
                        enum suffix suffix)
{
    const char *format = role_names[role][naming], *number = strstr(format, "%d");
    const char *end = suffix == WEIGHT ? "weight" : "bias";
    if (number)
        snprintf(name, NAME_SIZE, "%.*s%d%s.%s", (int)(number - format), format, (int)layer, number + 2, end);
    else
        snprintf(name, NAME_SIZE, "%s.%s", format, end);
}

/* ---- the loader ---------------------------------------------------------------------------------------- */

/* The model is walked twice by the same code: first to check every tensor and add up their bytes, then to lay
 * them out. */
struct loader {
    struct model *model;
    const struct model_options *options;
    int laying_out;
    int convert; /* float weights to this dtype */
    enum llm_dtype dtype;
    const struct tensor **used; /* stored tensors with a place in the decoder, in the first walk */
    int64_t n_used, used_capacity;
    int64_t bytes_done, bytes_total;
    struct llm_error *err;
};

/* A tensor in use: a view into a file, or into memory of its own. */
struct source {
    char name[NAME_SIZE];
    struct tensor tensor;
    void *own;
    size_t own_bytes;
};

struct shape {
    int32_t n_dims;
    int64_t dims[2];
};

static struct shape vector(int64_t n)
{
    return (struct shape){1, {n, 0}};
}

static struct shape matrix(int64_t rows, int64_t columns)
{
    return (struct shape){2, {rows, columns}};
}

static int is_dummy(const struct loader *ld)
{
    return !ld->model->files->gguf && !ld->model->files->safetensors;
}

static const struct tensor *find_stored(const struct model_files *files, const char *name)
{
    return files->gguf ? gguf_find(files->gguf, name) : safetensors_find(files->safetensors, name);
}

static int64_t n_stored(const struct model_files *files)
{
    return files->gguf ? gguf_n_tensors(files->gguf) : safetensors_n_tensors(files->safetensors);
}

static const struct tensor *stored_at(const struct model_files *files, int64_t i, const char **name)
{
    return files->gguf ? gguf_tensor(files->gguf, i, name) : safetensors_tensor(files->safetensors, i, name);
}

static void format_dims(char *out, size_t size, int32_t n_dims, const int64_t *dims)
{
    size_t at = 0;
    out[0] = '\0';
    for (int32_t i = 0; i < n_dims && at < size; i++)
        at += (size_t)snprintf(out + at, size - at, "%s%lld", i ? ", " : "", (long long)dims[i]);
}

static llm_status check_tensor(struct loader *ld, const char *name, const struct tensor *t, struct shape want)
{
    int same = t->n_dims == want.n_dims;
    for (int32_t i = 0; same && i < want.n_dims; i++) same = t->dims[i] == want.dims[i];
    if (!same) {
        char has[96], wants[96];
        format_dims(has, sizeof has, t->n_dims, t->dims);
        format_dims(wants, sizeof wants, want.n_dims, want.dims);
        return llm_fail(ld->err, LLM_EFORMAT,
                        "tensor \"%s\" has shape [%s], but the model's config makes it [%s]", name, has,
                        wants);
    }
    if (t->dtype == DTYPE_I32)
        return llm_fail(ld->err, LLM_EUNSUP,
                        "tensor \"%s\" holds integers (I32); weights must be floats or one of "
                        "GGUF's quantized types",
                        name);
    return LLM_OK;
}

static llm_status remember_used(struct loader *ld, const struct tensor *t)
{
    if (ld->n_used == ld->used_capacity) {
        int64_t capacity = ld->used_capacity ? 2 * ld->used_capacity : 512;
        void *grown = mem_grow(ld->used, (size_t)capacity, sizeof *ld->used);
        if (!grown) return llm_fail(ld->err, LLM_ENOMEM, "no memory for the list of tensors");
        ld->used = grown;
        ld->used_capacity = capacity;
    }
    ld->used[ld->n_used++] = t;
    return LLM_OK;
}

static int is_present(const struct loader *ld, enum role role, int32_t layer, enum suffix suffix)
{
    char name[NAME_SIZE];
    if (is_dummy(ld) || !role_names[role][ld->model->config.naming]) return 0;
    tensor_name(name, ld->model->config.naming, role, layer, suffix);
    return find_stored(ld->model->files, name) != NULL;
}

/* Memory of its own for a source of the given shape. */
static llm_status allocate_own(struct loader *ld, struct source *s, struct tensor t)
{
    size_t bytes = dtype_bytes(t.dtype, tensor_count(&t));
    s->own = mem_map(bytes);
    if (!s->own)
        return llm_fail(ld->err, LLM_ENOMEM, "no memory for tensor \"%s\" (%zu bytes)", s->name, bytes);
    s->own_bytes = bytes;
    t.data = s->own;
    s->tensor = t;
    return LLM_OK;
}

/* Made-up values for a tensor: small weights of the size that keeps activations level, plain norms. */
static llm_status make_dummy(struct loader *ld, enum role role, struct shape shape, struct source *s)
{
    const struct model_config *config = &ld->model->config;
    struct tensor t = {ld->dtype, shape.n_dims, {shape.dims[0], shape.dims[1]}, NULL};
    int is_norm =
        role == FINAL_NORM || role == ATTN_NORM || role == MLP_NORM || role == Q_NORM || role == K_NORM;
    if (is_norm) t.dtype = DTYPE_F32;
    llm_status st = allocate_own(ld, s, t);
    if (st) return st;
    if (is_norm) {
        float *w = s->own;
        for (int64_t i = 0; i < shape.dims[0]; i++) w[i] = config->norm_unit_offset ? 0 : 1;
    } else {
        float deviation = shape.n_dims == 1 ? 0.02f : 1 / sqrtf((float)shape.dims[1]);
        dummy_fill(s->name, ld->options->seed, t.dtype, deviation, tensor_count(&t), s->own);
    }
    return LLM_OK;
}

/* First walk: checks the tensor and counts it. Second walk: gives its values until put_source. */
static llm_status take_source(struct loader *ld, enum role role, int32_t layer, enum suffix suffix,
                              struct shape shape, struct source *s)
{
    const struct model *model = ld->model;
    *s = (struct source){0};
    tensor_name(s->name, model->config.naming, role, layer, suffix);
    if (is_dummy(ld)) {
        int64_t n = shape.dims[0] * (shape.n_dims == 2 ? shape.dims[1] : 1);
        if (ld->laying_out) return make_dummy(ld, role, shape, s);
        ld->bytes_total += (int64_t)dtype_bytes(ld->dtype, n);
        return LLM_OK;
    }
    const struct tensor *t = find_stored(model->files, s->name);
    if (!t && model->files->safetensors)
        return safetensors_explain_missing(model->files->safetensors, s->name, ld->err);
    if (!t) return llm_fail(ld->err, LLM_EFORMAT, "tensor \"%s\" is not in the file", s->name);
    s->tensor = *t;
    if (ld->laying_out) return LLM_OK;
    ld->bytes_total += (int64_t)dtype_bytes(t->dtype, tensor_count(t));
    llm_status st = check_tensor(ld, s->name, t, shape);
    return st ? st : remember_used(ld, t);
}

/* Done with a source: its memory or its file's pages go back. */
static void put_source(struct source *s)
{
    size_t bytes = s->tensor.data ? dtype_bytes(s->tensor.dtype, tensor_count(&s->tensor)) : 0;
    if (s->own)
        mem_unmap(s->own, s->own_bytes);
    else if (s->tensor.data)
        file_map_drop(s->tensor.data, bytes);
    s->own = NULL;
    s->tensor.data = NULL;
}

static void report_progress(struct loader *ld, const struct tensor *t)
{
    ld->bytes_done += (int64_t)dtype_bytes(t->dtype, tensor_count(t));
    if (ld->options->progress)
        ld->options->progress(ld->options->progress_ud, ld->bytes_done, ld->bytes_total);
}

/* The source's values as the dtype the caller of model_open asked for. */
static llm_status convert_source(struct loader *ld, struct source *s)
{
    const struct tensor from = s->tensor;
    if (!ld->convert || from.dtype == ld->dtype || dtype_is_quantized(from.dtype) || s->own) return LLM_OK;
    int64_t columns = from.dims[from.n_dims - 1], rows = tensor_count(&from) / columns;
    float *row = mem_array((size_t)columns, sizeof *row);
    if (!row) return llm_fail(ld->err, LLM_ENOMEM, "no memory for a row of tensor \"%s\"", s->name);
    struct tensor to = from;
    to.dtype = ld->dtype;
    llm_status st = allocate_own(ld, s, to);
    for (int64_t r = 0; !st && r < rows; r++) {
        dequantize_row(&from, r, row);
        float *f32 = (float *)s->own + r * columns;
        uint16_t *half = (uint16_t *)s->own + r * columns;
        for (int64_t i = 0; i < columns; i++) {
            if (ld->dtype == DTYPE_F32)
                f32[i] = row[i];
            else if (ld->dtype == DTYPE_BF16)
                half[i] = f32_to_bf16(row[i]);
            else if (fabsf(row[i]) < 65520 ||
                     !isfinite(row[i])) /* what rounds to a finite half, or never was */
                half[i] = f32_to_f16(row[i]);
            else {
                st = llm_fail(ld->err, LLM_EINVAL,
                              "tensor \"%s\" holds %g, too large for dtype float16; use bfloat16 or float32",
                              s->name, (double)row[i]);
                break;
            }
        }
    }
    mem_free(row);
    file_map_drop(from.data, dtype_bytes(from.dtype, tensor_count(&from)));
    return st;
}

/* ---- pieces of a model --------------------------------------------------------------------------------- */

struct part {
    enum role role;
    int64_t n_out;
};

/* The linear layer of up to three stored matrices, stacked. */
static llm_status load_linear(struct loader *ld, int32_t layer, int32_t n_parts, const struct part *parts,
                              int64_t n_in, enum weight_layout layout, struct weight **out)
{
    struct backend *be = ld->model->backend;
    struct source sources[3] = {0};
    struct weight_spec spec = {.n_parts = n_parts, .layout = layout};
    llm_status st = LLM_OK;
    for (int32_t i = 0; i < n_parts && !st; i++) {
        st = take_source(ld, parts[i].role, layer, WEIGHT, matrix(parts[i].n_out, n_in), &sources[i]);
        if (!st && ld->laying_out) st = convert_source(ld, &sources[i]);
        spec.part[i] = sources[i].tensor;
    }
    if (!st && ld->laying_out) {
        st = be->weight_create(be, &spec, out, ld->err);
        if (st) llm_fail_in(ld->err, "tensor \"%s\"", sources[0].name);
    }
    if (!st && ld->laying_out) {
        ld->model->weight_bytes += be->weight_bytes(*out);
        for (int32_t i = 0; i < n_parts; i++) report_progress(ld, &sources[i].tensor);
    }
    if (ld->laying_out)
        for (int32_t i = 0; i < n_parts; i++) put_source(&sources[i]);
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
static llm_status read_vector(struct loader *ld, enum role role, int32_t layer, enum suffix suffix, int64_t n,
                              float *out)
{
    struct source s;
    llm_status st = take_source(ld, role, layer, suffix, vector(n), &s);
    if (st || !ld->laying_out) return st;
    dequantize_row(&s.tensor, 0, out);
    ld->model->weight_bytes += (size_t)n * sizeof *out;
    report_progress(ld, &s.tensor);
    put_source(&s);
    return LLM_OK;
}

static llm_status load_vector(struct loader *ld, enum role role, int32_t layer, enum suffix suffix, int64_t n,
                              float **out)
{
    float *v = NULL;
    if (ld->laying_out && !(v = new_vector(ld, n)))
        return llm_fail(ld->err, LLM_ENOMEM, "no memory for a vector of %lld floats", (long long)n);
    llm_status st = read_vector(ld, role, layer, suffix, n, v);
    if (!st) *out = v;
    return st;
}

static llm_status load_norm(struct loader *ld, enum role role, int32_t layer, enum norm_kind kind, int64_t n,
                            struct norm *out)
{
    const struct model_config *config = &ld->model->config;
    float *weight = NULL, *bias = NULL;
    llm_status st = load_vector(ld, role, layer, WEIGHT, n, &weight);
    if (!st && kind == NORM_LAYER) st = load_vector(ld, role, layer, BIAS, n, &bias);
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
        if (ld->model->config.naming == NAMING_GGUF && is_present(ld, parts[i].role, layer, BIAS)) wanted = 1;
    }
    if (!wanted) return LLM_OK;
    float *bias = NULL;
    if (ld->laying_out && !(bias = new_vector(ld, n)))
        return llm_fail(ld->err, LLM_ENOMEM, "no memory for a bias of %lld floats", (long long)n);
    for (int32_t i = 0; i < n_parts; at += parts[i++].n_out) {
        llm_status st = read_vector(ld, parts[i].role, layer, BIAS, parts[i].n_out, bias ? bias + at : NULL);
        if (st) return st;
    }
    *out = bias;
    return LLM_OK;
}

static llm_status load_layer(struct loader *ld, int32_t layer, struct layer_weights *w)
{
    const struct model_config *c = &ld->model->config;
    int64_t q_size = (int64_t)c->n_heads * c->head_dim, kv_size = (int64_t)c->n_kv_heads * c->head_dim;
    const struct part qkv[] = {{Q, q_size}, {K, kv_size}, {V, kv_size}}, o[] = {{O, c->hidden_size}};
    const struct part gated[] = {{GATE, c->ffn_size}, {UP, c->ffn_size}}, down[] = {{DOWN, c->hidden_size}};
    const struct part *up = c->gated_mlp ? gated : gated + 1;
    int32_t n_up = c->gated_mlp ? 2 : 1;
    enum weight_layout up_layout = c->gated_mlp ? WEIGHT_GATED : WEIGHT_PLAIN;

    llm_status st = load_norm(ld, ATTN_NORM, layer, c->norm, c->hidden_size, &w->attn_norm);
    if (!st) st = load_linear(ld, layer, 3, qkv, c->hidden_size, WEIGHT_PLAIN, &w->qkv);
    if (!st) st = load_bias(ld, layer, c->qkv_bias, 3, qkv, &w->qkv_bias);
    if (!st && c->qk_norm) st = load_norm(ld, Q_NORM, layer, NORM_RMS, c->head_dim, &w->q_norm);
    if (!st && c->qk_norm) st = load_norm(ld, K_NORM, layer, NORM_RMS, c->head_dim, &w->k_norm);
    if (!st) st = load_linear(ld, layer, 1, o, q_size, WEIGHT_PLAIN, &w->o);
    if (!st) st = load_bias(ld, layer, c->o_bias, 1, o, &w->o_bias);
    if (!st) st = load_norm(ld, MLP_NORM, layer, c->norm, c->hidden_size, &w->mlp_norm);
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
    struct source s;
    llm_status st = take_source(ld, EMBEDDING, 0, WEIGHT,
                                matrix(model->config.vocab_size, model->config.hidden_size), &s);
    if (st || !ld->laying_out) return st;
    model->embedding = s.tensor;
    model->files->embedding = s.own;
    model->files->embedding_bytes = s.own_bytes;
    report_progress(ld, &s.tensor);
    return LLM_OK;
}

/* GGUF stores the divisors that Llama 3's scaling gives to each frequency. */
static llm_status load_rope_factors(struct loader *ld)
{
    struct rope_config *rope = &ld->model->config.rope;
    if (!is_present(ld, ROPE_FACTORS, 0, WEIGHT)) return LLM_OK;
    if (ld->laying_out && !rope->short_factor) {
        rope->short_factor = mem_array((size_t)rope->rotary_dim / 2, sizeof(float));
        if (!rope->short_factor) return llm_fail(ld->err, LLM_ENOMEM, "no memory for rotation factors");
    }
    return read_vector(ld, ROPE_FACTORS, 0, WEIGHT, rope->rotary_dim / 2, rope->short_factor);
}

static llm_status load_head(struct loader *ld)
{
    struct model *model = ld->model;
    const struct model_config *c = &model->config;
    int tied = c->naming == NAMING_GGUF ? !is_present(ld, HEAD, 0, WEIGHT) : c->tied_embeddings;
    const struct part head = {tied ? EMBEDDING : HEAD, c->vocab_size};
    llm_status st = load_linear(ld, 0, 1, &head, c->hidden_size, WEIGHT_PLAIN, &model->head);
    if (!st && is_present(ld, HEAD, 0, BIAS))
        st = load_vector(ld, HEAD, 0, BIAS, c->vocab_size, &model->head_bias);
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
    if (!st) st = load_norm(ld, FINAL_NORM, 0, c->norm, c->hidden_size, &model->final_norm);
    return st;
}

/* ---- the whole ----------------------------------------------------------------------------------------- */

static int compare_pointers(const void *a, const void *b)
{
    uintptr_t x = (uintptr_t) * (const void *const *)a, y = (uintptr_t) * (const void *const *)b;
    return (x > y) - (x < y);
}

static int ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && memcmp(s + n - m, end, m) == 0;
}

static int may_be_ignored(const struct model_config *config, const char *name)
{
    for (size_t i = 0; i < sizeof derived_names / sizeof *derived_names; i++)
        if (ends_with(name, derived_names[i])) return 1;
    /* A tied head is sometimes stored all the same; Hugging Face's own loader drops it. */
    return config->naming == NAMING_HF && config->tied_embeddings && strcmp(name, "lm_head.weight") == 0;
}

/* A tensor without a place in the decoder means that it would compute something else than the model. */
static llm_status check_all_used(struct loader *ld)
{
    enum { N_NAMED = 3 };
    const struct model *model = ld->model;
    char names[3 * NAME_SIZE] = "";
    int64_t n_unknown = 0;
    size_t at = 0;
    if (is_dummy(ld)) return LLM_OK;
    qsort(ld->used, (size_t)ld->n_used, sizeof *ld->used, compare_pointers);
    for (int64_t i = 0; i < n_stored(model->files); i++) {
        const char *name;
        struct quoted q;
        const struct tensor *t = stored_at(model->files, i, &name);
        if (bsearch(&t, ld->used, (size_t)ld->n_used, sizeof *ld->used, compare_pointers)) continue;
        if (may_be_ignored(&model->config, name)) continue;
        if (n_unknown++ < N_NAMED && at < sizeof names)
            at +=
                (size_t)snprintf(names + at, sizeof names - at, "%s%s", at ? ", " : "", quote_text(&q, name));
    }
    if (n_unknown == 0) return LLM_OK;
    return llm_fail(ld->err, LLM_EUNSUP,
                    "%lld tensor%s no place in a %s model as its config describes it: %s%s",
                    (long long)n_unknown, n_unknown == 1 ? " has" : "s have", model->config.arch, names,
                    n_unknown > N_NAMED ? ", …" : "");
}

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
    struct loader ld = {.model = model, .options = options, .err = err};
    ld.convert = options->dtype && strcmp(options->dtype, "auto") != 0;
    llm_status st = weights_dtype(options->dtype, model->config.dtype, &ld.dtype, err);
    if (st) return st;
    model->layers = mem_array((size_t)model->config.n_layers, sizeof *model->layers);
    if (!model->layers)
        return llm_fail(err, LLM_ENOMEM, "no memory for %d layers", (int)model->config.n_layers);
    st = walk(&ld);
    if (!st) st = check_all_used(&ld);
    mem_free(ld.used);
    if (st) return st;
    ld.laying_out = 1;
    return walk(&ld);
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
    for (size_t i = 0; i < files->n_vectors; i++) mem_free(files->vectors[i]);
    mem_free(files->vectors);
    mem_unmap(files->embedding, files->embedding_bytes);
}
