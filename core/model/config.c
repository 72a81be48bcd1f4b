#include "model/config.h"
#include "base/mem.h"
#include "model/config_build.h"

#include <math.h>
#include <string.h>

void config_init(struct model_config *c)
{
    memset(c, 0, sizeof *c);
    c->norm = NORM_RMS;
    c->act = ACT_SILU;
    c->gated_mlp = 1;
    c->embed_scale = c->residual_scale = c->logit_scale = 1;
    c->dtype = DTYPE_F32;
    c->rope.factor = 1;
    c->rope.truncate = 1;
    c->bos_token_id = c->pad_token_id = -1;
    c->default_temperature = c->default_top_p = c->default_min_p = c->default_repetition_penalty = NAN;
    c->default_top_k = -1;
}

void config_free(struct model_config *config)
{
    mem_free(config->rope.short_factor);
    mem_free(config->rope.long_factor);
    config->rope.short_factor = config->rope.long_factor = NULL;
}

int32_t config_token_id(const struct model_config *c, int64_t id)
{
    return id >= 0 && id < c->vocab_size ? (int32_t)id : -1;
}

int config_add_eos(struct model_config *c, int64_t id)
{
    if (config_token_id(c, id) < 0) return 1;
    for (int32_t i = 0; i < c->n_eos; i++)
        if (c->eos_token_ids[i] == id) return 1;
    if (c->n_eos == CONFIG_MAX_EOS) return 0;
    c->eos_token_ids[c->n_eos++] = (int32_t)id;
    return 1;
}

int32_t config_layer_window(const struct model_config *config, int32_t layer)
{
    return config->full_attention[layer] ? 0 : config->window;
}

/* Linear, dynamic and yarn scaling stretch the context by their factor. Files disagree on whether the number
 * they give is the stretched one; as vLLM does, yarn's is taken as original * factor where that is more. */
static void scale_context(struct model_config *c)
{
    double base = c->max_position;
    if (c->rope.scaling == ROPE_SCALE_YARN)
        base = c->rope.original_max_position;
    else if (c->rope.scaling != ROPE_SCALE_LINEAR && c->rope.scaling != ROPE_SCALE_DYNAMIC)
        return;
    double scaled = floor(base * c->rope.factor);
    if (scaled > CONFIG_MAX_POSITION) scaled = CONFIG_MAX_POSITION;
    if (scaled > c->max_position) c->max_position = (int32_t)scaled;
}

llm_status config_finish(struct model_config *c, struct llm_error *err)
{
    if (c->n_kv_heads > c->n_heads || c->n_heads % c->n_kv_heads != 0)
        return llm_fail(err, LLM_EFORMAT, "%d attention heads cannot share %d key-value heads evenly",
                        (int)c->n_heads, (int)c->n_kv_heads);
    if (c->rope.kind != ROPE_NONE && (c->rope.rotary_dim % 2 != 0 || c->rope.rotary_dim > c->head_dim))
        return llm_fail(err, LLM_EFORMAT,
                        "%d dimensions of a head of %d are rotated; the number must be even and at most that",
                        (int)c->rope.rotary_dim, (int)c->head_dim);
    c->attn_scale = (float)(1 / sqrt((double)c->head_dim));
    scale_context(c);
    return LLM_OK;
}
