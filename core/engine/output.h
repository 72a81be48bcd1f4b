#ifndef LLM_ENGINE_OUTPUT_H
#define LLM_ENGINE_OUTPUT_H

/* What happens to an output when its logits are there: a token, and perhaps its end. Engine thread only. */

#include "engine/engine.h"

/* Step 7: picks a token for every sequence whose last token was computed; forks those whose prompt is now
 * complete; scores prompts that asked for it. Errors: the model's. */
llm_status engine_sample(struct llm_engine *e, const struct batch *batch, struct llm_error *err);

/* What the choice of an output's next token depends on besides the row. */
struct sample_input output_input(const struct llm_engine *e, const struct output *o);
/* Adds the token chosen from these raw logits to an output, and its log-probabilities. */
void output_record(struct output *o, struct sampler *sampler, const float *logits, int32_t token);

/* Step 8: whether the token just picked (or, if it wants none, its whole prompt computed) ends the output,
 * and why; sets what the event will say of it and how much text may be shown. */
enum llm_finish_reason output_judge(struct output *o, const struct engine_config *config);

#endif
