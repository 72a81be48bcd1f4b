#ifndef LLM_MODEL_CONFIG_BUILD_H
#define LLM_MODEL_CONFIG_BUILD_H

/* Inside of config.h: what config_json.c and config_gguf.c share. */

#include "model/config.h"

/* Bounds of what is read. Their products fit: (heads + 2 kv heads) * head_dim and 2 * ffn in int32_t. */
enum {
    CONFIG_MAX_VOCAB = 1 << 24,
    CONFIG_MAX_HIDDEN = 1 << 20,
    CONFIG_MAX_HEADS = 4096,
    CONFIG_MAX_HEAD_DIM = 4096,
    CONFIG_MAX_FFN = 1 << 24,
    CONFIG_MAX_POSITION = 1 << 28
};

/* Zeroes *c and sets what holds for most models: RMS norm, SiLU, gated MLP, scales of 1, no token ids. */
void config_init(struct model_config *c);

/* Adds an end-of-sequence id unless it is there or beyond the vocabulary. 0: the list is full. */
int config_add_eos(struct model_config *c, int64_t id);

/* id, or -1 if the vocabulary has no such token. */
int32_t config_token_id(const struct model_config *c, int64_t id);

/* Derives what is left (scale of attention, scaled context) and checks what involves several fields; the
 * last step of a reader. Errors: LLM_EFORMAT. */
llm_status config_finish(struct model_config *c, struct llm_error *err);

#endif
