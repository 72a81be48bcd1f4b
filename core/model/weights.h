#ifndef LLM_MODEL_WEIGHTS_H
#define LLM_MODEL_WEIGHTS_H

/* From a model's stored tensors to a decoder's weights: finds every tensor by its name in either naming,
 * checks its shape against the config, and lays it out through the backend. Used by model.c only. */

#include "base/status.h"
#include "model/model.h"

struct gguf;
struct safetensors;

/* Where the tensors are: one of the two, or neither (random weights). Owned by the model until it is closed,
 * because the embedding is read in place. */
struct model_files {
    struct gguf *gguf;
    struct safetensors *safetensors;
    void *embedding; /* if it is not in a file: mem_map'ed, embedding_bytes long */
    size_t embedding_bytes;
    void **vectors; /* norm weights and biases, [n_vectors] allocations */
    size_t n_vectors, vectors_capacity;
};

/* Fills the weights of `model`, whose config, backend and files are set; bad shapes and missing or unknown
 * tensors are found before any weight is laid out. Pages of the files are given back as soon as they are
 * used, so that about one copy of the weights is resident at any time. On failure model holds what was made
 * so far, for weights_free. Errors: LLM_EFORMAT (tensor, its shape, the shape expected), LLM_EUNSUP,
 * LLM_EINVAL (a value that the dtype asked for cannot hold), LLM_ENOMEM. */
llm_status weights_load(struct model *model, const struct model_options *options, struct llm_error *err);
void weights_free(struct model *model);

/* "float32", "float16" or "bfloat16"; null and "auto" give `stored`. Errors: LLM_EINVAL. */
llm_status weights_dtype(const char *name, enum llm_dtype stored, enum llm_dtype *out, struct llm_error *err);

#endif
