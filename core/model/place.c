#include "model/place.h"

#include "kernels/device.h"

static llm_status failed(struct backend *be, struct llm_error *err)
{
    return llm_fail(err, LLM_EFAILED, "%s", be->device->failure(be));
}

llm_status place_embedding(struct model *model, const struct source_tensor *s, struct llm_error *err)
{
    struct backend *be = model->backend;
    const struct tensor *t = &s->tensor;
    enum llm_dtype dtype = dtype_is_quantized(t->dtype) ? DTYPE_F16 : t->dtype;
    int64_t count = tensor_count(t);
    size_t bytes = dtype_bytes(dtype, count);
    void *p = be->alloc(be, bytes);
    if (!p) return llm_fail(err, LLM_ENOMEM, "no memory on the device for the embedding (%zu bytes)", bytes);
    model->placed_embedding = p;
    model->placed_embedding_bytes = bytes;
    model->embedding.data = p;
    model->embedding.dtype = dtype;
    llm_status st = dtype_is_quantized(t->dtype) ? be->device->upload_f16(be, p, t)
                    : t->data                    ? be->device->upload(be, p, t->data, bytes)
                              : be->device->fill(be, p, dtype, count, s->random_state, s->random_deviation);
    return st ? failed(be, err) : LLM_OK;
}

/* ---- vectors ------------------------------------------------------------------------------------------- */

/* A pointer of the model to n floats on the host. */
typedef llm_status visit_fn(void *arg, const float **vector, int64_t n);

static llm_status visit_norm(struct norm *norm, int64_t n, visit_fn *visit, void *arg)
{
    llm_status st = norm->weight ? visit(arg, &norm->weight, n) : LLM_OK;
    return !st && norm->bias ? visit(arg, &norm->bias, n) : st;
}

static llm_status visit_bias(float **bias, int64_t n, visit_fn *visit, void *arg)
{
    return *bias ? visit(arg, (const float **)bias, n) : LLM_OK;
}

static llm_status visit_vectors(struct model *m, visit_fn *visit, void *arg)
{
    const struct model_config *c = &m->config;
    int64_t qkv = (int64_t)(c->n_heads + 2 * c->n_kv_heads) * c->head_dim;
    llm_status st = LLM_OK;
    for (int32_t i = 0; i < c->n_layers && !st; i++) {
        struct layer_weights *w = &m->layers[i];
        st = visit_norm(&w->attn_norm, c->hidden_size, visit, arg);
        if (!st) st = visit_norm(&w->mlp_norm, c->hidden_size, visit, arg);
        if (!st) st = visit_norm(&w->q_norm, c->head_dim, visit, arg);
        if (!st) st = visit_norm(&w->k_norm, c->head_dim, visit, arg);
        if (!st) st = visit_bias(&w->qkv_bias, qkv, visit, arg);
        if (!st) st = visit_bias(&w->o_bias, c->hidden_size, visit, arg);
        if (!st) st = visit_bias(&w->up_bias, c->gated_mlp ? 2 * c->ffn_size : c->ffn_size, visit, arg);
        if (!st) st = visit_bias(&w->down_bias, c->hidden_size, visit, arg);
    }
    if (!st) st = visit_norm(&m->final_norm, c->hidden_size, visit, arg);
    return st ? st : visit_bias(&m->head_bias, c->vocab_size, visit, arg);
}

/* Each vector begins at a multiple of 64 floats, so that kernels may read it 16 bytes at a time. */
static int64_t padded(int64_t n)
{
    return (n + 63) / 64 * 64;
}

static llm_status measure(void *arg, const float **vector, int64_t n)
{
    (void)vector;
    *(int64_t *)arg += padded(n);
    return LLM_OK;
}

struct copier {
    struct backend *be;
    float *at;
};

static llm_status copy(void *arg, const float **vector, int64_t n)
{
    struct copier *c = arg;
    llm_status st = c->be->device->upload(c->be, c->at, *vector, sizeof(float) * (size_t)n);
    *vector = c->at;
    c->at += padded(n);
    return st;
}

llm_status place_vectors(struct model *model, struct llm_error *err)
{
    struct backend *be = model->backend;
    int64_t count = 0;
    visit_vectors(model, measure, &count);
    model->placed_vectors_bytes = sizeof(float) * (size_t)count;
    model->placed_vectors = be->alloc(be, model->placed_vectors_bytes);
    if (!model->placed_vectors)
        return llm_fail(err, LLM_ENOMEM, "no memory on the device for norm weights and biases (%zu bytes)",
                        model->placed_vectors_bytes);
    struct copier c = {be, model->placed_vectors};
    return visit_vectors(model, copy, &c) ? failed(be, err) : LLM_OK;
}

void place_free(struct model *model)
{
    struct backend *be = model->backend;
    if (model->placed_embedding) be->free(be, model->placed_embedding, model->placed_embedding_bytes);
    if (model->placed_vectors) be->free(be, model->placed_vectors, model->placed_vectors_bytes);
}
