#ifndef LLM_ENGINE_OUTPUT_H
#define LLM_ENGINE_OUTPUT_H

/* What happens to an output when its logits are there: a token, and perhaps its end. Engine thread only. */

#include "engine/engine.h"

/* Step 7: picks a token for every sequence whose last token was computed; forks those whose prompt is now
 * complete; scores prompts that asked for it. Errors: the model's. */
llm_status engine_sample(struct llm_engine *e, const struct batch *batch, struct llm_error *err);

/* Step 8: whether the token just picked ends the output, and why; sets what the event will say of it and how
 * much text may be shown. */
enum llm_finish_reason output_judge(struct output *o, const struct engine_config *config);

#endif
