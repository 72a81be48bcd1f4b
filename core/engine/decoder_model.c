#include "engine/device_io.h"

#include "base/mem.h"
#include "engine/settings.h"
#include "model/weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

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
    pool_run(m->pool, fn, arg);
}

static void close_model(void *self)
{
    struct decoder_model *m = self;
    device_io_close(m);
    if (m->backend && m->backend->device) pool_close(m->pool);
    decoder_close(m->decoder);
    model_close(m->model);
    if (m->kv.base) m->backend->free(m->backend, m->kv.base, m->kv_bytes);
    if (m->backend) m->backend->close(m->backend);
    mem_free(m->path);
    mem_free(m);
}

/* What a device still needs after its KV cache: the steps' arrays, recordings, the driver's own. */
static size_t device_spare(const struct decoder_model *m, const struct engine_config *config, size_t total)
{
    int32_t n_seats;
    size_t logits = sizeof(float) * (size_t)device_logit_rows(config) * (size_t)m->model->config.vocab_size;
    size_t seats = device_seats_bytes(m, config, total, &n_seats);
    return logits + seats + device_scores_bytes(config) + m->kv.page_bytes + ((size_t)768 << 20);
}

static llm_status open_kv(struct decoder_model *m, const struct llm_engine_options *options,
                          struct engine_config *config, struct llm_error *err)
{
    const struct model_config *c = &m->model->config;
    m->kv = (struct kv_cache){.page_size = config->block_size,
                              .n_layers = c->n_layers,
                              .n_kv_heads = c->n_kv_heads,
                              .head_dim = c->head_dim};
    const struct device_ops *device = m->backend->device;
    llm_status status = settings_kv_dtype(options, m->backend->act_dtype, &m->kv.dtype, err);
    if (status) return status;
    m->kv.page_bytes = m->backend->kv_page_bytes(m->backend, &m->kv);
    if (device) {
        size_t total, left = device->memory_left(m->backend, &total);
        size_t spare = device_spare(m, config, total);
        status = settings_device_pages(options, m->kv.page_bytes, left > spare ? left - spare : 0, total,
                                       config, err);
    } else {
        status = settings_pages(options, m->kv.page_bytes, memory_available(), config, err);
    }
    if (status) return status;
    m->kv.n_pages = config->n_pages + (device ? 1 : 0); /* the scratch page of padding rows */
    m->kv_bytes = m->kv.page_bytes * (size_t)m->kv.n_pages;
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
        .isa = m->isa,
        .threads = pool_size(m->pool),
        .default_temperature = c->default_temperature,
        .default_top_p = c->default_top_p,
        .default_min_p = c->default_min_p,
        .default_repetition_penalty = c->default_repetition_penalty,
        .default_top_k = c->default_top_k,
    };
}

/* A directory for what a backend finds out by measuring; "" if there is no place for one. */
static void cache_dir(char *out, size_t room)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = cache && *cache ? snprintf(out, room, "%s/llmlua", cache)
            : home && *home ? snprintf(out, room, "%s/.cache/llmlua", home)
                            : 0;
    if (n <= 0 || (size_t)n >= room) out[0] = 0;
}

/* It and those above it, where they are missing. If that fails nothing is kept, which only costs time. */
static void make_directories(char *path)
{
    for (char *end = strchr(path + 1, '/'); end; end = strchr(end + 1, '/')) {
        *end = 0;
        mkdir(path, 0755);
        *end = '/';
    }
    mkdir(path, 0755);
}

/* The type a device computes in: what was asked for, else what the model was stored in if it has 16 bits. */
static llm_status device_dtype(const struct llm_engine_options *options, const struct model_options *model,
                               enum llm_dtype *out, struct llm_error *err)
{
    enum llm_dtype stored;
    llm_status status = model_stored_dtype(model, &stored, err);
    if (!status)
        status = weights_dtype(options->dtype, stored == DTYPE_F16 ? DTYPE_F16 : DTYPE_BF16, out, err);
    return status;
}

static llm_status open_cuda(struct decoder_model *m, const struct llm_engine_options *options,
                            const struct model_options *model, int32_t ordinal, struct llm_error *err)
{
    char dir[512];
    struct cuda_options cuda = {.device = ordinal, .cache_dir = dir};
    cache_dir(dir, sizeof dir);
    llm_status status = device_dtype(options, model, &cuda.act_dtype, err);
    if (!status) status = cuda_backend_open(&cuda, &m->backend, err);
    if (status) return status;
    if (*dir) make_directories(dir);
    m->isa = cuda_backend_describe(m->backend);
    int32_t n = pool_cpu_count();
    return pool_open(options->threads ? options->threads : n < 8 ? n : 8, &m->pool, err);
}

static llm_status open_cpu(struct decoder_model *m, const struct llm_engine_options *options,
                           struct llm_error *err)
{
    struct cpu_options cpu = {.n_threads = options->threads, .isa = options->cpu_isa};
    llm_status status = cpu_backend_open(&cpu, &m->backend, err);
    if (status) return status;
    m->pool = cpu_backend_pool(m->backend);
    m->isa = cpu_backend_isa(m->backend);
    return LLM_OK;
}

static llm_status open_backend(struct decoder_model *m, const struct llm_engine_options *options,
                               const struct model_options *model, struct llm_error *err)
{
    const char *device = options->device && *options->device ? options->device : "auto";
    char *end = NULL;
    long ordinal = strncmp(device, "cuda:", 5) == 0 ? strtol(device + 5, &end, 10) : 0;
    int is_cuda =
        !strcmp(device, "cuda") || (end && end > device + 5 && !*end && ordinal >= 0 && ordinal < 1024);
    if (is_cuda) return open_cuda(m, options, model, (int32_t)ordinal, err);
    if (!strcmp(device, "cpu") || (!strcmp(device, "auto") && options->cpu_isa))
        return open_cpu(m, options, err);
    if (strcmp(device, "auto") != 0)
        return llm_fail(err, LLM_EINVAL, "device is \"%s\"; it must be auto, cpu, cuda, or cuda:0, cuda:1, …",
                        device);
    llm_status status = open_cuda(m, options, model, 0, err);
    return status == LLM_EUNSUP ? open_cpu(m, options, err) : status;
}

static llm_status open_model(struct decoder_model *m, const struct llm_engine_options *options,
                             struct engine_config *config, struct llm_error *err)
{
    if (!options->model || !*options->model)
        return llm_fail(err, LLM_EINVAL, "model is not set; it must name a GGUF file or a model directory");
    m->path = mem_strdup(options->model);
    if (!m->path) return llm_fail(err, LLM_ENOMEM, "no memory for a path");
    struct model_options model = {.path = options->model,
                                  .tokenizer = options->tokenizer,
                                  .load_format = options->load_format,
                                  .dtype = options->dtype,
                                  .seed = options->seed,
                                  .skip_tokenizer = options->skip_tokenizer_init,
                                  .progress = options->on_load,
                                  .progress_ud = options->on_load_ud};
    llm_status status = m->backend ? LLM_OK : open_backend(m, options, &model, err);
    if (!status) status = model_open(m->backend, &model, &m->model, err);
    int on_device = !status && m->backend->device;
    if (!status) status = settings_limits(options, m->model->config.max_position, on_device, config, err);
    if (status) return status;
    struct decoder_options decoder = {.max_tokens = config->max_num_batched_tokens,
                                      .max_seqs = config->max_num_seqs,
                                      .max_model_len = config->max_model_len};
    status = decoder_open(m->model, &decoder, &m->decoder, err);
    if (!status) status = open_kv(m, options, config, err);
    if (status || !on_device) return status;
    status = device_io_open(m, config, err);
    return status ? status : decoder_tune(m->decoder, m->io->logits, m->io->max_logit_rows, err);
}

/* Takes m. */
static llm_status open_all(struct decoder_model *m, const struct llm_engine_options *options,
                           struct engine_config *config, struct llm_model_info *info,
                           struct engine_model *out, struct llm_error *err)
{
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
                                 .n_workers = pool_size(m->pool),
                                 .close = close_model};
    if (m->backend->device) {
        out->forward = NULL;
        out->logits = device_logits;
        out->alloc_rows = device_alloc_rows;
        out->free_rows = device_free_rows;
        out->launch = device_launch;
        out->collect = device_collect;
        out->raw_rows = device_raw_rows;
        out->amend = device_amend;
        out->seats = (struct device_seats){.n = m->io->room.seats.n,
                                           .fill = device_seat_fill,
                                           .variables = device_seat_variables,
                                           .adjusted = device_adjusted,
                                           .fetch = device_fetch,
                                           .await = device_await,
                                           .give_back = device_give_back,
                                           .resume = device_resume};
        out->graphs = device_graphs(m);
    }
    return LLM_OK;
}

llm_status decoder_model_open(const struct llm_engine_options *options, struct engine_config *config,
                              struct llm_model_info *info, struct engine_model *out, struct llm_error *err)
{
    struct decoder_model *m = mem_zalloc(sizeof *m);
    if (!m) return llm_fail(err, LLM_ENOMEM, "no memory for a model");
    return open_all(m, options, config, info, out, err);
}

llm_status decoder_model_open_on(struct backend *backend, struct pool *pool,
                                 const struct llm_engine_options *options, struct engine_config *config,
                                 struct llm_model_info *info, struct engine_model *out, struct llm_error *err)
{
    struct decoder_model *m = mem_zalloc(sizeof *m);
    if (!m) {
        if (backend->device) pool_close(pool);
        backend->close(backend);
        return llm_fail(err, LLM_ENOMEM, "no memory for a model");
    }
    m->backend = backend;
    m->pool = pool;
    m->isa = backend->name;
    return open_all(m, options, config, info, out, err);
}
