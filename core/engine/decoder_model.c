/* The real model behind the engine's seam: a backend, a model on it, its decoder and its KV memory. */

#include "engine/engine.h"

#include "base/mem.h"
#include "engine/settings.h"
#include "model/decoder.h"
#include "model/model.h"

#include <string.h>

struct decoder_model {
    struct backend *backend;
    struct model *model;
    struct decoder *decoder;
    struct kv_cache kv;
    size_t kv_bytes;
    char *path;
};

static llm_status forward(void *self, const struct batch *batch, struct llm_error *err)
{
    struct decoder_model *m = self;
    return decoder_forward(m->decoder, &m->kv, batch, err);
}

static llm_status logits(void *self, const int32_t *rows, int32_t n_rows, float *out, struct llm_error *err)
{
    struct decoder_model *m = self;
    return decoder_logits(m->decoder, rows, n_rows, out, err);
}

static llm_status copy_page(void *self, int32_t from, int32_t to, struct llm_error *err)
{
    struct decoder_model *m = self;
    llm_status status = m->backend->kv_copy(m->backend, &m->kv, from, to);
    return status ? llm_fail(err, status, "copying KV page %d to %d failed", from, to) : LLM_OK;
}

static void run(void *self, pool_fn *fn, void *arg)
{
    struct decoder_model *m = self;
    pool_run(cpu_backend_pool(m->backend), fn, arg);
}

static void close_model(void *self)
{
    struct decoder_model *m = self;
    decoder_close(m->decoder);
    model_close(m->model);
    if (m->kv.base) m->backend->free(m->backend, m->kv.base, m->kv_bytes);
    if (m->backend) m->backend->close(m->backend);
    mem_free(m->path);
    mem_free(m);
}

static llm_status open_kv(struct decoder_model *m, const struct llm_engine_options *options,
                          struct engine_config *config, struct llm_error *err)
{
    const struct model_config *c = &m->model->config;
    m->kv = (struct kv_cache){.page_size = config->block_size,
                              .n_layers = c->n_layers,
                              .n_kv_heads = c->n_kv_heads,
                              .head_dim = c->head_dim};
    llm_status status = settings_kv_dtype(options, &m->kv.dtype, err);
    if (status) return status;
    m->kv.page_bytes = m->backend->kv_page_bytes(m->backend, &m->kv);
    status = settings_pages(options, m->kv.page_bytes, memory_available(), config, err);
    if (status) return status;
    m->kv.n_pages = config->n_pages;
    m->kv_bytes = m->kv.page_bytes * (size_t)config->n_pages;
    m->kv.base = m->backend->alloc(m->backend, m->kv_bytes);
    if (m->kv.base) return LLM_OK;
    return llm_fail(err, LLM_ENOMEM, "no memory for a KV cache of %s; set kv_cache_memory lower",
                    size_text(m->kv_bytes).text);
}

/* Ids that end an output: those of the model's generation settings and those the tokenizer knows. */
static void collect_end_tokens(const struct model *model, struct engine_config *config)
{
    int32_t n = 0;
    const int32_t *more = model->tokenizer ? tokenizer_end_tokens(model->tokenizer, &n) : NULL;
    for (int32_t i = 0; i < model->config.n_eos + n; i++) {
        int32_t id = i < model->config.n_eos ? model->config.eos_token_ids[i] : more[i - model->config.n_eos];
        int known = id < 0 || id >= model->config.vocab_size;
        for (int32_t k = 0; k < config->n_end_tokens; k++) known |= config->end_tokens[k] == id;
        if (!known && config->n_end_tokens < ENGINE_MAX_END_TOKENS)
            config->end_tokens[config->n_end_tokens++] = id;
    }
}

static void fill_info(const struct decoder_model *m, const struct engine_config *config,
                      struct llm_model_info *info)
{
    const struct model_config *c = &m->model->config;
    *info = (struct llm_model_info){
        .path = m->path,
        .architecture = c->arch,
        .vocab_size = c->vocab_size,
        .hidden_size = c->hidden_size,
        .n_layers = c->n_layers,
        .n_heads = c->n_heads,
        .n_kv_heads = c->n_kv_heads,
        .head_dim = c->head_dim,
        .max_model_len = config->max_model_len,
        .block_size = config->block_size,
        .n_blocks = config->n_pages,
        .weight_bytes = m->model->weight_bytes,
        .kv_bytes_per_token = m->kv.page_bytes / (size_t)m->kv.page_size,
        .backend = m->backend->name,
        .isa = cpu_backend_isa(m->backend),
        .threads = cpu_backend_threads(m->backend),
        .default_temperature = c->default_temperature,
        .default_top_p = c->default_top_p,
        .default_min_p = c->default_min_p,
        .default_repetition_penalty = c->default_repetition_penalty,
        .default_top_k = c->default_top_k,
    };
}

static llm_status open_model(struct decoder_model *m, const struct llm_engine_options *options,
                             struct engine_config *config, struct llm_error *err)
{
    m->path = mem_strdup(options->model);
    if (!m->path) return llm_fail(err, LLM_ENOMEM, "no memory for a path");
    struct cpu_options cpu = {.n_threads = options->threads, .isa = options->cpu_isa};
    llm_status status = cpu_backend_open(&cpu, &m->backend, err);
    if (status) return status;
    struct model_options model = {.path = options->model,
                                  .tokenizer = options->tokenizer,
                                  .load_format = options->load_format,
                                  .dtype = options->dtype,
                                  .seed = options->seed,
                                  .skip_tokenizer = options->skip_tokenizer_init,
                                  .progress = options->on_load,
                                  .progress_ud = options->on_load_ud};
    status = model_open(m->backend, &model, &m->model, err);
    if (!status) status = settings_limits(options, m->model->config.max_position, config, err);
    if (!status) status = open_kv(m, options, config, err);
    if (status) return status;
    struct decoder_options decoder = {.max_tokens = config->max_num_batched_tokens,
                                      .max_seqs = config->max_num_seqs,
                                      .max_model_len = config->max_model_len};
    return decoder_open(m->model, &decoder, &m->decoder, err);
}

llm_status decoder_model_open(const struct llm_engine_options *options, struct engine_config *config,
                              struct llm_model_info *info, struct engine_model *out, struct llm_error *err)
{
    if (!options->model || !*options->model)
        return llm_fail(err, LLM_EINVAL, "model is not set; it must name a GGUF file or a model directory");
    struct decoder_model *m = mem_zalloc(sizeof *m);
    if (!m) return llm_fail(err, LLM_ENOMEM, "no memory for a model");
    *config = (struct engine_config){0};
    llm_status status = open_model(m, options, config, err);
    if (status) {
        close_model(m);
        return status;
    }
    config->tokenizer = m->model->tokenizer;
    collect_end_tokens(m->model, config);
    fill_info(m, config, info);
    *out = (struct engine_model){.self = m,
                                 .vocab_size = m->model->config.vocab_size,
                                 .forward = forward,
                                 .logits = logits,
                                 .copy_page = copy_page,
                                 .run = run,
                                 .n_workers = cpu_backend_threads(m->backend),
                                 .close = close_model};
    return LLM_OK;
}
