#ifndef LLM_ENGINE_POLICY_DEVICE_H
#define LLM_ENGINE_POLICY_DEVICE_H

/* What policies do in a step on a device: their hooks, on rows and candidates that come from it, and what
 * became of their graphs, which ran there. Engine thread only. */

#include "engine/engine.h"

/* After the launch of a step with hooked rows: the rows come, the hooks run on one while the next is on its
 * way, and the rest of the step is queued. */
llm_status policy_device_hooks(struct llm_engine *e, const struct step *step, const struct device_step *d,
                               struct llm_error *err);

/* The token of a row whose request has a chain: the device's or a hook's. Not good if the chain has an error
 * afterwards. */
int32_t policy_device_token(struct llm_engine *e, const struct step *step, const struct step_row *row,
                            const struct device_results *results);

#endif
