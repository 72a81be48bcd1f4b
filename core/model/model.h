#ifndef LLM_MODEL_MODEL_H
#define LLM_MODEL_MODEL_H

/* A model opened on a backend: its config, its weights in the backend's layout, its tokenizer. Immutable once
 * open, so any thread may read it; the decoder's scratch memory is apart (decoder.h). */

#include "base/status.h"
#include "kernels/kernels.h"
#include "model/config.h"
#include "model/tokenizer.h"

struct layer_weights {
    struct norm attn_norm, mlp_norm;                /* before attention, before the MLP */
    struct norm q_norm, k_norm;                     /* NORM_NONE for most */
    struct weight *qkv, *o, *up, *down;             /* up: gate and up stacked if gated */
    float *qkv_bias, *o_bias, *up_bias, *down_bias; /* null: none */
};

struct model {
    struct model_config config;
    struct backend *backend;      /* borrowed */
    struct tokenizer *tokenizer;  /* owned; null if the files have none */
    struct tensor embedding;      /* [vocab, hidden], stored form, read row by row */
    struct layer_weights *layers; /* [n_layers] */
    struct norm final_norm;
    struct weight *head; /* [vocab, hidden] */
    float *head_bias;    /* null: none */
    size_t weight_bytes; /* read from memory by one decode step (head included, embedding not) */
    void *placed_embedding, *placed_vectors; /* on a device: its copies */
    size_t placed_embedding_bytes, placed_vectors_bytes;
    struct model_files *files; /* what stays mapped: the embedding */
};

struct model_options {
    const char *path;      /* GGUF file (first part of a split one), Hugging Face directory; for dummy: a
                              directory with a config.json, or that file */
    const char *tokenizer; /* another path to take the tokenizer from; null: the model's own */
    const char
        *load_format; /* null or "auto", "gguf", "safetensors"; "dummy": random weights from config.json */
    /* null or "auto" (as stored), "float32", "float16", "bfloat16": of float matrices. Quantized ones, norms,
     * biases and the embedding's rows stay as stored. */
    const char *dtype;
    uint64_t seed;      /* of dummy weights */
    int skip_tokenizer; /* 1: token ids only */
    /* Called on the opening thread as weights are laid out; null: nothing. */
    void (*progress)(void *ud, int64_t bytes_done, int64_t bytes_total);
    void *progress_ud;
};

/* The type of the model's float matrices, from its config alone: what a backend for it should compute in.
 * Errors: as model_open's. */
llm_status model_stored_dtype(const struct model_options *options, enum llm_dtype *out,
                              struct llm_error *err);

/* Errors: those of the parsers, each naming the file; LLM_EFORMAT for a missing or misshapen tensor (its
 * name, its shape, the shape expected); LLM_ENOMEM. */
llm_status model_open(struct backend *backend, const struct model_options *options, struct model **out,
                      struct llm_error *err);
void model_close(struct model *model);

#endif
