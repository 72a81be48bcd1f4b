#ifndef LLM_MODEL_SOURCE_H
#define LLM_MODEL_SOURCE_H

/* Where a model's tensors come from: a GGUF file, safetensors files, or a random generator; found by what
 * they are to the decoder. Used by weights.c only.
 *
 * A model is walked twice by the same code. While `checking`, tensors are looked up, compared with the shape
 * that the config gives them and counted; afterwards they are given out to be laid out. */

#include "base/status.h"
#include "model/model.h"

#include <stddef.h>
#include <stdint.h>

enum tensor_role {
    ROLE_EMBEDDING,
    ROLE_FINAL_NORM,
    ROLE_HEAD,
    ROLE_ROPE_FACTORS,
    ROLE_ATTN_NORM,
    ROLE_MLP_NORM,
    ROLE_Q,
    ROLE_K,
    ROLE_V,
    ROLE_Q_NORM,
    ROLE_K_NORM,
    ROLE_O,
    ROLE_GATE,
    ROLE_UP,
    ROLE_DOWN,
    N_ROLES
};

enum tensor_suffix { SUFFIX_WEIGHT, SUFFIX_BIAS };

struct source {
    const struct model_config *config;
    const struct model_files *files; /* both null in it: random weights */
    const struct model_options *options;
    struct llm_error *err;
    int checking;
    int on_device; /* 1: random matrices are made by the backend */
    int convert;   /* 1: float matrices become `dtype` */
    enum llm_dtype dtype;
    const struct tensor **used; /* stored tensors with a place in the decoder, [n_used] */
    int64_t n_used, used_capacity;
    int64_t bytes_done, bytes_total; /* as stored */
};

/* A tensor in use: a view into a file, or into memory of its own. */
struct source_tensor {
    char name[128];
    struct tensor tensor;
    int64_t stored_bytes;
    void *own;
    size_t own_bytes;
    uint64_t random_state; /* of a random matrix without data */
    float random_deviation;
};

struct tensor_shape {
    int32_t n_dims;
    int64_t dims[2];
};

static inline struct tensor_shape shape_vector(int64_t n)
{
    return (struct tensor_shape){1, {n, 0}};
}

static inline struct tensor_shape shape_matrix(int64_t rows, int64_t columns)
{
    return (struct tensor_shape){2, {rows, columns}};
}

/* Is there a stored tensor for this? Never for random weights. */
int source_has(const struct source *src, enum tensor_role role, int32_t layer, enum tensor_suffix suffix);

/* Finds a tensor; unless checking, *out holds its values until source_put. Errors: LLM_EFORMAT (missing or
 * misshapen), LLM_EUNSUP, LLM_ENOMEM. */
llm_status source_take(struct source *src, enum tensor_role role, int32_t layer, enum tensor_suffix suffix,
                       struct tensor_shape shape, struct source_tensor *out);
/* Its values as the dtype that was asked for. Errors: LLM_EINVAL (a value it cannot hold), LLM_ENOMEM. */
llm_status source_convert(struct source *src, struct source_tensor *t);
/* Done with it: its memory, or its file's pages, go back. Takes one zeroed or put before, too. */
void source_put(struct source_tensor *t);
/* Counts it as laid out. */
void source_progress(struct source *src, const struct source_tensor *t);

/* After the checking walk: LLM_EUNSUP, and the first names, if the files hold tensors that nothing took. */
llm_status source_check_all_used(struct source *src);

#endif
