#ifndef LLM_ENGINE_NULL_MODEL_H
#define LLM_ENGINE_NULL_MODEL_H

/* A model that computes nothing, for measuring and testing all that is around a model: scheduler, sampler,
 * mailboxes, detokenizer, server. It has real rows of logits, but the likeliest token depends on the position
 * alone, and its KV pages have no memory behind them. load_format "null" of the engine's options asks for it.
 *
 * Its vocabulary: 256 bytes, 64 English words of four to six bytes with their leading space (these are what
 * it says), <s> and </s> (which it never says); or that of the option `tokenizer`, of which it says 64 words.
 * A step takes null_step_ms at least, in place of the time that a real model would need. */

#include "engine/engine.h"

/* Fills what decoder_model_open fills. Errors: LLM_EINVAL, those of opening a tokenizer, LLM_ENOMEM. */
llm_status null_model_open(const struct llm_engine_options *options, struct engine_config *config,
                           struct llm_model_info *info, struct engine_model *out, struct llm_error *err);

#endif
