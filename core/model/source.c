#include "model/source.h"

#include "base/file_map.h"
#include "base/mem.h"
#include "base/quote.h"
#include "model/dummy.h"
#include "model/gguf.h"
#include "model/safetensors.h"
#include "model/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- names --------------------------------------------------------------------------------------------- */

/* By naming; %d is the layer. ".weight" or ".bias" follows. Null: the naming has no such tensor. */
static const char *const role_names[N_ROLES][2] = {
    [ROLE_EMBEDDING] = {"model.embed_tokens", "token_embd"},
    [ROLE_FINAL_NORM] = {"model.norm", "output_norm"},
    [ROLE_HEAD] = {"lm_head", "output"},
    [ROLE_ROPE_FACTORS] = {NULL, "rope_freqs"},
    [ROLE_ATTN_NORM] = {"model.layers.%d.input_layernorm", "blk.%d.attn_norm"},
    [ROLE_MLP_NORM] = {"model.layers.%d.post_attention_layernorm", "blk.%d.ffn_norm"},
    [ROLE_Q] = {"model.layers.%d.self_attn.q_proj", "blk.%d.attn_q"},
    [ROLE_K] = {"model.layers.%d.self_attn.k_proj", "blk.%d.attn_k"},
    [ROLE_V] = {"model.layers.%d.self_attn.v_proj", "blk.%d.attn_v"},
    [ROLE_Q_NORM] = {"model.layers.%d.self_attn.q_norm", "blk.%d.attn_q_norm"},
    [ROLE_K_NORM] = {"model.layers.%d.self_attn.k_norm", "blk.%d.attn_k_norm"},
    [ROLE_O] = {"model.layers.%d.self_attn.o_proj", "blk.%d.attn_output"},
    [ROLE_GATE] = {"model.layers.%d.mlp.gate_proj", "blk.%d.ffn_gate"},
    [ROLE_UP] = {"model.layers.%d.mlp.up_proj", "blk.%d.ffn_up"},
    [ROLE_DOWN] = {"model.layers.%d.mlp.down_proj", "blk.%d.ffn_down"},
};

/* Ends of names of tensors that files carry but that follow from the config: buffers of old exports. */
static const char *const derived_names[] = {".rotary_emb.inv_freq", ".attn.masked_bias",
                                            ".attention.masked_bias", ".attention.rotary_emb.inv_freq"};

enum { NAME_SIZE = sizeof((struct source_tensor *)0)->name };

static void tensor_name(char name[NAME_SIZE], enum naming naming, enum tensor_role role, int32_t layer,
                        enum tensor_suffix suffix)
{
    const char *format = role_names[role][naming], *number = strstr(format, "%d");
    const char *end = suffix == SUFFIX_WEIGHT ? "weight" : "bias";
    if (number)
        snprintf(name, NAME_SIZE, "%.*s%d%s.%s", (int)(number - format), format, (int)layer, number + 2, end);
    else
        snprintf(name, NAME_SIZE, "%s.%s", format, end);
}

/* ---- stored tensors ------------------------------------------------------------------------------------ */

static int is_random(const struct source *src)
{
    return !src->files->gguf && !src->files->safetensors;
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

static llm_status check_tensor(struct source *src, const char *name, const struct tensor *t,
                               struct tensor_shape want)
{
    int same = t->n_dims == want.n_dims;
    for (int32_t i = 0; same && i < want.n_dims; i++) same = t->dims[i] == want.dims[i];
    if (!same) {
        char has[96], wants[96];
        format_dims(has, sizeof has, t->n_dims, t->dims);
        format_dims(wants, sizeof wants, want.n_dims, want.dims);
        return llm_fail(src->err, LLM_EFORMAT,
                        "tensor \"%s\" has shape [%s], but the model's config makes it [%s]", name, has,
                        wants);
    }
    if (t->dtype == DTYPE_I32)
        return llm_fail(src->err, LLM_EUNSUP,
                        "tensor \"%s\" holds integers (I32); weights must be floats or one of "
                        "GGUF's quantized types",
                        name);
    return LLM_OK;
}

static llm_status remember_used(struct source *src, const struct tensor *t)
{
    if (src->n_used == src->used_capacity) {
        int64_t capacity = src->used_capacity ? 2 * src->used_capacity : 512;
        void *grown = mem_grow(src->used, (size_t)capacity, sizeof *src->used);
        if (!grown) return llm_fail(src->err, LLM_ENOMEM, "no memory for the list of tensors");
        src->used = grown;
        src->used_capacity = capacity;
    }
    src->used[src->n_used++] = t;
    return LLM_OK;
}

int source_has(const struct source *src, enum tensor_role role, int32_t layer, enum tensor_suffix suffix)
{
    char name[NAME_SIZE];
    if (is_random(src) || !role_names[role][src->config->naming]) return 0;
    tensor_name(name, src->config->naming, role, layer, suffix);
    return find_stored(src->files, name) != NULL;
}

/* Memory of its own for a source of the given shape. */
static llm_status allocate_own(struct source *src, struct source_tensor *s, struct tensor t)
{
    size_t bytes = dtype_bytes(t.dtype, tensor_count(&t));
    s->own = mem_map(bytes);
    if (!s->own)
        return llm_fail(src->err, LLM_ENOMEM, "no memory for tensor \"%s\" (%zu bytes)", s->name, bytes);
    s->own_bytes = bytes;
    t.data = s->own;
    s->tensor = t;
    return LLM_OK;
}

/* Made-up values: small weights of the size that keeps activations level, plain norms. */
static llm_status make_dummy(struct source *src, enum tensor_role role, struct tensor_shape shape,
                             struct source_tensor *s)
{
    struct tensor t = {src->dtype, shape.n_dims, {shape.dims[0], shape.dims[1]}, NULL};
    int is_norm = shape.n_dims == 1 && (role == ROLE_FINAL_NORM || role == ROLE_ATTN_NORM ||
                                        role == ROLE_MLP_NORM || role == ROLE_Q_NORM || role == ROLE_K_NORM);
    if (shape.n_dims == 1) t.dtype = DTYPE_F32;
    s->stored_bytes = (int64_t)dtype_bytes(t.dtype, tensor_count(&t));
    if (src->checking) return LLM_OK;
    float deviation = shape.n_dims == 1 ? 0.02f : 1 / sqrtf((float)shape.dims[1]);
    if (src->on_device && shape.n_dims > 1) {
        s->tensor = t;
        s->random_state = dummy_state(s->name, src->options->seed);
        s->random_deviation = deviation;
        return LLM_OK;
    }
    llm_status st = allocate_own(src, s, t);
    if (st) return st;
    float *w = s->own;
    if (is_norm)
        for (int64_t i = 0; i < shape.dims[0]; i++) w[i] = src->config->norm_unit_offset ? 0 : 1;
    else
        dummy_fill(s->name, src->options->seed, t.dtype, deviation, tensor_count(&t), s->own);
    return LLM_OK;
}

/* Looks a stored tensor up; while checking, compares it with the shape wanted. */
static llm_status take_stored(struct source *src, struct tensor_shape shape, struct source_tensor *s)
{
    const struct tensor *t = find_stored(src->files, s->name);
    if (!t && src->files->safetensors)
        return safetensors_explain_missing(src->files->safetensors, s->name, src->err);
    if (!t) return llm_fail(src->err, LLM_EFORMAT, "tensor \"%s\" is not in the file", s->name);
    s->tensor = *t;
    s->stored_bytes = (int64_t)dtype_bytes(t->dtype, tensor_count(t));
    if (!src->checking) return LLM_OK;
    llm_status st = check_tensor(src, s->name, t, shape);
    return st ? st : remember_used(src, t);
}

llm_status source_take(struct source *src, enum tensor_role role, int32_t layer, enum tensor_suffix suffix,
                       struct tensor_shape shape, struct source_tensor *out)
{
    *out = (struct source_tensor){0};
    tensor_name(out->name, src->config->naming, role, layer, suffix);
    llm_status st = is_random(src) ? make_dummy(src, role, shape, out) : take_stored(src, shape, out);
    if (!st && src->checking) src->bytes_total += out->stored_bytes;
    return st;
}

void source_put(struct source_tensor *s)
{
    if (s->own)
        mem_unmap(s->own, s->own_bytes);
    else if (s->tensor.data)
        file_map_drop(s->tensor.data, (size_t)s->stored_bytes);
    s->own = NULL;
    s->tensor.data = NULL;
}

void source_progress(struct source *src, const struct source_tensor *s)
{
    src->bytes_done += s->stored_bytes;
    if (src->options->progress)
        src->options->progress(src->options->progress_ud, src->bytes_done, src->bytes_total);
}

/* Errors: LLM_EINVAL for a finite value that rounds beyond the largest half. */
static llm_status convert_row(struct source *src, const char *name, const float *row, int64_t n, void *out)
{
    float *f32 = out;
    uint16_t *half = out;
    for (int64_t i = 0; i < n; i++) {
        if (src->dtype == DTYPE_F32)
            f32[i] = row[i];
        else if (src->dtype == DTYPE_BF16)
            half[i] = f32_to_bf16(row[i]);
        else if (fabsf(row[i]) < 65520 || !isfinite(row[i]))
            half[i] = f32_to_f16(row[i]);
        else
            return llm_fail(src->err, LLM_EINVAL,
                            "tensor \"%s\" holds %g, too large for dtype float16; use bfloat16 or float32",
                            name, (double)row[i]);
    }
    return LLM_OK;
}

llm_status source_convert(struct source *src, struct source_tensor *s)
{
    const struct tensor from = s->tensor;
    if (!src->convert || from.dtype == src->dtype || dtype_is_quantized(from.dtype) || s->own || !from.data)
        return LLM_OK;
    int64_t columns = from.dims[from.n_dims - 1], rows = tensor_count(&from) / columns;
    size_t row_bytes = dtype_bytes(src->dtype, columns);
    float *row = mem_array((size_t)columns, sizeof *row);
    if (!row) return llm_fail(src->err, LLM_ENOMEM, "no memory for a row of tensor \"%s\"", s->name);
    struct tensor to = from;
    to.dtype = src->dtype;
    llm_status st = allocate_own(src, s, to);
    for (int64_t r = 0; !st && r < rows; r++) {
        dequantize_row(&from, r, row);
        st = convert_row(src, s->name, row, columns, (char *)s->own + (size_t)r * row_bytes);
    }
    mem_free(row);
    file_map_drop(from.data, (size_t)s->stored_bytes);
    return st;
}

/* ---- nothing left over --------------------------------------------------------------------------------- */

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
llm_status source_check_all_used(struct source *src)
{
    enum { N_NAMED = 3 };
    char names[3 * NAME_SIZE] = "";
    int64_t n_unknown = 0;
    size_t at = 0;
    if (is_random(src)) return LLM_OK;
    qsort(src->used, (size_t)src->n_used, sizeof *src->used, compare_pointers);
    for (int64_t i = 0; i < n_stored(src->files); i++) {
        const char *name;
        struct quoted q;
        const struct tensor *t = stored_at(src->files, i, &name);
        if (bsearch(&t, src->used, (size_t)src->n_used, sizeof *src->used, compare_pointers)) continue;
        if (may_be_ignored(src->config, name)) continue;
        if (n_unknown++ < N_NAMED && at < sizeof names)
            at +=
                (size_t)snprintf(names + at, sizeof names - at, "%s%s", at ? ", " : "", quote_text(&q, name));
    }
    if (n_unknown == 0) return LLM_OK;
    return llm_fail(src->err, LLM_EUNSUP,
                    "%lld tensor%s no place in a %s model as its config describes it: %s%s",
                    (long long)n_unknown, n_unknown == 1 ? " has" : "s have", src->config->arch, names,
                    n_unknown > N_NAMED ? ", …" : "");
}
