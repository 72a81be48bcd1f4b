#ifndef LLM_ENGINE_DECODER_MODEL_H
#define LLM_ENGINE_DECODER_MODEL_H

/* The real model behind the engine's seam: a backend, a model on it, its decoder and its KV memory. On a
 * device that is not the CPU, device_model.c stands between the engine, whose arrays are the host's, and the
 * decoder. */

#include "engine/engine.h"
#include "model/decoder.h"
#include "model/model.h"

struct device_io;

struct decoder_model {
    struct backend *backend;
    struct model *model;
    struct decoder *decoder;
    struct kv_cache kv;
    size_t kv_bytes;
    char *path;
    const char *isa;      /* a line about what it runs on */
    struct pool *pool;    /* for sampling on the host; the CPU backend's is borrowed, else own */
    struct device_io *io; /* null on the CPU */
};

/* A model as options say, on this backend, whatever they say of devices: takes it, and a device's pool too,
 * whether or not it succeeds. As decoder_model_open. */
llm_status decoder_model_open_on(struct backend *backend, struct pool *pool,
                                 const struct llm_engine_options *options, struct engine_config *config,
                                 struct llm_model_info *info, struct engine_model *out,
                                 struct llm_error *err);

/* device_model.c. Opens what a step needs besides the decoder: staging memory and recordings. After the KV
 * cache, whose last page is the scratch page that padding rows use. Errors: LLM_ENOMEM. */
llm_status device_io_open(struct decoder_model *m, const struct engine_config *config, struct llm_error *err);
void device_io_close(struct decoder_model *m);

/* The engine_model functions of a device. */
llm_status device_logits(void *self, const int32_t *rows, int32_t n_rows, float *out, struct llm_error *err);
void *device_alloc_rows(void *self, size_t bytes);
void device_free_rows(void *self, void *rows);
llm_status device_launch(void *self, const struct device_step *step, struct llm_error *err);
llm_status device_collect(void *self, int mark, struct device_results *out, struct llm_error *err);
llm_status device_raw_rows(void *self, const int32_t *places, int32_t n, float *out, struct llm_error *err);
llm_status device_amend(void *self, int mark, const int32_t *tokens, int32_t n, int32_t n_logprobs,
                        struct llm_error *err);

#endif
