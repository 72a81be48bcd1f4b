#include "model/decoder.h"

#include "base/mem.h"
#include "kernels/device.h"
#include "model/rope.h"

/* Scratch, all in the backend's activation type but for rope_table. Rows are tokens of the batch. */
struct decoder {
    const struct model *model;
    struct decoder_options options;
    int32_t q_size, qkv_size; /* a row's queries; its queries, keys and values */

    char *x;    /* [max_tokens, hidden] the residual stream, before the last layer's output projection */
    char *qkv;  /* [max_tokens, qkv_size]; after attention free for other use */
    char *attn; /* [max_tokens, q_size] attention's result */
    char *up;   /* [max_tokens, ffn] the MLP's inner activations */
    char *tail; /* [max_tokens, hidden] the residual stream of the rows whose logits are asked for */
    float *rope_table; /* [max_model_len, rotary_dim] */
    char *scratch;     /* all of these */
    size_t scratch_bytes;

    int32_t n_tokens;  /* of the batch just run */
    int tuning;        /* linear layers are not run but tuned */
    llm_status status; /* first failure of an operation; later ones are skipped */
};

/* ---- operations ---------------------------------------------------------------------------------------- */

static void linear(struct decoder *d, struct linear_args a)
{
    struct backend *be = d->model->backend;
    if (!d->status) d->status = d->tuning ? be->device->tune(be, &a) : be->linear(be, &a);
}

static void embed(struct decoder *d, const struct batch *b)
{
    struct backend *be = d->model->backend;
    const struct model_config *c = &d->model->config;
    struct embed_args a = {
        .n_tokens = b->n_tokens,
        .n = c->hidden_size,
        .tokens = b->tokens,
        .table = &d->model->embedding,
        .scale = c->embed_scale,
        .positions = b->positions,
        .x = d->x,
        .x_stride = c->hidden_size,
    };
    d->status = be->embed(be, &a);
}

static void project_qkv(struct decoder *d, int32_t layer, int32_t n_rows)
{
    const struct model_config *c = &d->model->config;
    const struct layer_weights *w = &d->model->layers[layer];
    linear(d, (struct linear_args){.n_rows = n_rows,
                                   .x = d->x,
                                   .x_stride = c->hidden_size,
                                   .norm = w->attn_norm,
                                   .w = w->qkv,
                                   .bias = w->qkv_bias,
                                   .y = d->qkv,
                                   .y_stride = d->qkv_size});
}

/* Queries and keys are rotated; keys and values go to the cache. */
static void rotate(struct decoder *d, int32_t layer, const struct kv_cache *kv, const struct batch *b)
{
    struct backend *be = d->model->backend;
    const struct model_config *c = &d->model->config;
    const struct layer_weights *w = &d->model->layers[layer];
    struct rope_kv_args a = {
        .n_tokens = b->n_tokens,
        .n_heads = c->n_heads,
        .qkv = d->qkv,
        .qkv_stride = d->qkv_size,
        .q_norm = w->q_norm,
        .k_norm = w->k_norm,
        .rope = c->no_rope[layer] ? ROPE_NONE : c->rope.kind,
        .rotary_dim = c->rope.rotary_dim,
        .rope_table = d->rope_table,
        .positions = b->positions,
        .slots = b->slots,
        .kv = kv,
        .layer = layer,
    };
    if (!d->status) d->status = be->rope_kv(be, &a);
}

static void attend(struct decoder *d, int32_t layer, const struct kv_cache *kv, const struct batch *b)
{
    struct backend *be = d->model->backend;
    const struct model_config *c = &d->model->config;
    struct attention_args a = {
        .n_seqs = b->n_seqs,
        .n_heads = c->n_heads,
        .q = d->qkv,
        .q_stride = d->qkv_size,
        .seq_start = b->seq_start,
        .kv_len = b->kv_len,
        .block_table = b->block_table,
        .block_table_stride = b->block_table_stride,
        .scale = c->attn_scale,
        .softcap = c->attn_softcap,
        .window = config_layer_window(c, layer),
        .kv = kv,
        .layer = layer,
        .out = d->attn,
        .out_stride = d->q_size,
    };
    if (!d->status) d->status = be->attention(be, &a);
}

/* The rest of a layer, row by row: x += O attn; x += Down(act(Gate norm(x)) * Up norm(x)). */
static void finish_layer(struct decoder *d, int32_t layer, int32_t n_rows, const void *attn, void *x)
{
    const struct model_config *c = &d->model->config;
    const struct layer_weights *w = &d->model->layers[layer];
    linear(d, (struct linear_args){.n_rows = n_rows,
                                   .x = attn,
                                   .x_stride = d->q_size,
                                   .w = w->o,
                                   .bias = w->o_bias,
                                   .epilogue = LINEAR_ADD,
                                   .y = x,
                                   .y_stride = c->hidden_size});
    linear(d, (struct linear_args){.n_rows = n_rows,
                                   .x = x,
                                   .x_stride = c->hidden_size,
                                   .norm = w->mlp_norm,
                                   .w = w->up,
                                   .bias = w->up_bias,
                                   .epilogue = c->gated_mlp ? LINEAR_GATED : LINEAR_STORE,
                                   .act = c->act,
                                   .y = d->up,
                                   .y_stride = c->ffn_size});
    linear(d, (struct linear_args){.n_rows = n_rows,
                                   .x = d->up,
                                   .x_stride = c->ffn_size,
                                   .w = w->down,
                                   .bias = w->down_bias,
                                   .epilogue = LINEAR_ADD,
                                   .y = x,
                                   .y_stride = c->hidden_size});
}

static void unembed(struct decoder *d, int32_t n_rows, const void *x, float *out)
{
    const struct model_config *c = &d->model->config;
    linear(d, (struct linear_args){.n_rows = n_rows,
                                   .x = x,
                                   .x_stride = c->hidden_size,
                                   .norm = d->model->final_norm,
                                   .w = d->model->head,
                                   .bias = d->model->head_bias,
                                   .y = out,
                                   .y_stride = c->vocab_size,
                                   .f32_out = 1});
    if (d->status || (c->logit_scale == 1 && c->logit_softcap == 0)) return;
    struct backend *be = d->model->backend;
    struct logits_args a = {.n_rows = n_rows,
                            .n = c->vocab_size,
                            .x = out,
                            .x_stride = c->vocab_size,
                            .scale = c->logit_scale,
                            .softcap = c->logit_softcap};
    d->status = be->logits(be, &a);
}

/* ---- a step -------------------------------------------------------------------------------------------- */

static llm_status report(const struct decoder *d, struct llm_error *err)
{
    struct backend *be = d->model->backend;
    if (d->status)
        llm_fail(err, d->status, "the %s backend failed in a forward pass: %s", be->name,
                 be->device ? be->device->failure(be) : "no reason known");
    return d->status;
}

/* The last layer stops after attention. What follows in it works on each row by itself, and mostly only a
 * prompt's last row is wanted: decoder_logits does the rest. */
llm_status decoder_forward(struct decoder *d, const struct kv_cache *kv, const struct batch *batch,
                           struct llm_error *err)
{
    int32_t last = d->model->config.n_layers - 1;
    d->n_tokens = batch->n_tokens;
    embed(d, batch);
    for (int32_t layer = 0; layer <= last; layer++) {
        project_qkv(d, layer, batch->n_tokens);
        rotate(d, layer, kv, batch);
        attend(d, layer, kv, batch);
        if (layer < last) finish_layer(d, layer, batch->n_tokens, d->attn, d->x);
    }
    return report(d, err);
}

static void gather(struct decoder *d, const int32_t *rows, int32_t n_rows, int32_t n, const void *x, void *y)
{
    struct backend *be = d->model->backend;
    struct gather_args a = {
        .n_rows = n_rows, .n = n, .rows = rows, .x = x, .x_stride = n, .y = y, .y_stride = n};
    if (!d->status) d->status = be->gather(be, &a);
}

llm_status decoder_logits(struct decoder *d, const int32_t *rows, int32_t n_rows, float *out,
                          struct llm_error *err)
{
    const struct model *m = d->model;
    if (n_rows > d->options.max_tokens)
        return llm_fail(err, LLM_EINVAL, "logits of %d rows asked for; a call gives at most %d", (int)n_rows,
                        (int)d->options.max_tokens);
    for (int32_t i = 0; i < n_rows && !m->backend->device; i++)
        if (rows[i] < 0 || rows[i] >= d->n_tokens)
            return llm_fail(err, LLM_EINVAL, "logits of row %d asked for; the batch had %d rows",
                            (int)rows[i], (int)d->n_tokens);
    gather(d, rows, n_rows, m->config.hidden_size, d->x, d->tail);
    gather(d, rows, n_rows, d->q_size, d->attn, d->qkv);
    finish_layer(d, m->config.n_layers - 1, n_rows, d->qkv, d->tail);
    unembed(d, n_rows, d->tail, out);
    return report(d, err);
}

/* Of activations only the size matters here, so all of the scratch is as random as normed rows are. */
llm_status decoder_tune(struct decoder *d, float *logits, int32_t n_rows, struct llm_error *err)
{
    enum { STATE = 1 };
    struct backend *be = d->model->backend;
    if (!be->device || !be->device->tune) return LLM_OK;
    const int64_t n =
        (int64_t)((size_t)((char *)(void *)d->rope_table - d->x) / dtype_bytes(be->act_dtype, 1));
    const int32_t rows = d->options.max_tokens;
    d->status = be->device->fill(be, d->x, be->act_dtype, n, STATE, 1);
    d->tuning = 1;
    project_qkv(d, 0, rows);
    finish_layer(d, 0, rows, d->attn, d->x);
    unembed(d, n_rows < rows ? n_rows : rows, d->tail, logits);
    d->tuning = 0;
    return report(d, err);
}

/* ---- open ---------------------------------------------------------------------------------------------- */

/* Adds an array to a block of memory of *total bytes; returns its offset. *total becomes SIZE_MAX on
 * overflow. */
static size_t add_array(size_t *total, int32_t rows, int32_t columns, size_t element)
{
    size_t at = *total, bytes;
    if (__builtin_mul_overflow((size_t)rows * (size_t)columns, element, &bytes) ||
        __builtin_add_overflow(bytes, 63, &bytes) || __builtin_add_overflow(at, bytes & ~(size_t)63, total))
        *total = SIZE_MAX;
    return at;
}

static llm_status fill_rope_table(struct decoder *d, int32_t positions, struct llm_error *err)
{
    struct backend *be = d->model->backend;
    const struct rope_config *rope = &d->model->config.rope;
    if (!be->device) return rope_table_fill(rope, positions, d->rope_table, err);
    size_t bytes = sizeof(float) * (size_t)positions * (size_t)rope->rotary_dim;
    float *table = mem_map(bytes);
    if (!table) return llm_fail(err, LLM_ENOMEM, "no memory for a rotation table (%zu bytes)", bytes);
    llm_status st = rope_table_fill(rope, positions, table, err);
    if (!st && be->device->upload(be, d->rope_table, table, bytes))
        st = llm_fail(err, LLM_EFAILED, "%s", be->device->failure(be));
    mem_unmap(table, bytes);
    return st;
}

static llm_status open_scratch(struct decoder *d, struct llm_error *err)
{
    struct backend *be = d->model->backend;
    const struct model_config *c = &d->model->config;
    int32_t rows = d->options.max_tokens,
            positions = c->rope.kind == ROPE_NONE ? 0 : d->options.max_model_len;
    size_t element = dtype_bytes(be->act_dtype, 1), total = 0;
    size_t x = add_array(&total, rows, c->hidden_size, element);
    size_t qkv = add_array(&total, rows, d->qkv_size, element);
    size_t attn = add_array(&total, rows, d->q_size, element);
    size_t up = add_array(&total, rows, c->ffn_size, element);
    size_t tail = add_array(&total, rows, c->hidden_size, element);
    size_t table = add_array(&total, positions, c->rope.rotary_dim, sizeof(float));
    d->scratch = be->alloc(be, total);
    if (!d->scratch)
        return llm_fail(err, LLM_ENOMEM, "no memory for the activations of %d tokens (%zu bytes)", (int)rows,
                        total);
    d->scratch_bytes = total;
    d->x = d->scratch + x;
    d->qkv = d->scratch + qkv;
    d->attn = d->scratch + attn;
    d->up = d->scratch + up;
    d->tail = d->scratch + tail;
    d->rope_table = (float *)(void *)(d->scratch + table);
    return positions > 0 ? fill_rope_table(d, positions, err) : LLM_OK;
}

/* The widest row that a linear layer of the model reads or writes. */
static int32_t widest(const struct decoder *d)
{
    const struct model_config *c = &d->model->config;
    int32_t up = c->gated_mlp ? 2 * c->ffn_size : c->ffn_size;
    int32_t n = c->hidden_size > d->qkv_size ? c->hidden_size : d->qkv_size;
    return n > up ? n : up;
}

llm_status decoder_open(const struct model *model, const struct decoder_options *options,
                        struct decoder **out, struct llm_error *err)
{
    const struct model_config *c = &model->config;
    if (options->max_tokens < 1 || options->max_seqs < 1 || options->max_model_len < 1)
        return llm_fail(err, LLM_EINVAL, "max_tokens, max_seqs and max_model_len must be at least 1");
    if (options->max_model_len > c->max_position)
        return llm_fail(err, LLM_EINVAL, "max_model_len is %d, but the model has positions for %d tokens",
                        (int)options->max_model_len, (int)c->max_position);
    struct decoder *d = mem_zalloc(sizeof *d);
    if (!d) return llm_fail(err, LLM_ENOMEM, "no memory for a decoder");
    d->model = model;
    d->options = *options;
    d->q_size = c->n_heads * c->head_dim;
    d->qkv_size = (c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    struct backend_limits limits = {
        .max_rows = options->max_tokens,
        .max_n = widest(d),
        .max_seqs = options->max_seqs,
        .max_model_len = options->max_model_len,
        .n_heads = c->n_heads,
        .head_dim = c->head_dim,
    };
    llm_status st = open_scratch(d, err);
    if (!st) st = model->backend->reserve(model->backend, &limits, err);
    if (st) {
        decoder_close(d);
        return st;
    }
    *out = d;
    return LLM_OK;
}

void decoder_close(struct decoder *d)
{
    if (!d) return;
    struct backend *be = d->model->backend;
    be->free(be, d->scratch, d->scratch_bytes);
    mem_free(d);
}
