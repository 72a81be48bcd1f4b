#ifndef LLM_ENGINE_LAUNCH_H
#define LLM_ENGINE_LAUNCH_H

/* Steps on a device that samples: their launch, and what came of them. What the device cannot choose or score
 * is the host's: those rows come to it when the step is collected, and the next step is launched afterwards.
 * Engine thread only. Errors: the model's. */

#include "engine/engine.h"

/* Gives seats to those for whom e->plan makes tokens and who need one. Returns 1 if the step in flight must
 * be collected before the plan is described: a seat must be told a token that is not known yet. */
int launch_prepare(struct llm_engine *e);

/* Makes e->plan a step: its rows have places for their tokens. */
llm_status launch_describe(struct llm_engine *e, struct step *step, struct llm_error *err);
/* Queues the step that was described last. */
llm_status launch_go(struct llm_engine *e, struct step *step, struct llm_error *err);
/* Runs the hooks on the rows of the step that was queued last, if it has any, when the step before it was
 * collected. */
llm_status launch_hooks(struct llm_engine *e, const struct step *step, struct llm_error *err);

/* Puts the tokens of a step where places were, and the scores of prompts where they belong; chooses and
 * scores what is left to the host, runs the hooks on candidates, and tells the device which tokens came of
 * it: a step that feeds on them is queued afterwards (step->waits). A request whose policy has failed gets no
 * token, but its error. */
llm_status launch_collect(struct llm_engine *e, struct step *step, struct llm_error *err);

#endif
