#ifndef LLM_ENGINE_LAUNCH_H
#define LLM_ENGINE_LAUNCH_H

/* Steps on a device that samples: which plans it can carry out, their launch, and what came of them. Engine
 * thread only. Errors: the model's. */

#include "engine/engine.h"

enum launch_way {
    LAUNCH_NEVER,   /* some token must be made by the host */
    LAUNCH_SETTLED, /* all tokens before it must be known */
    LAUNCH_AHEAD    /* while the step before it runs */
};

/* For e->plan. Gives seats to those who need them. */
enum launch_way launch_way(struct llm_engine *e);

/* Makes e->plan a step: its rows have places for their tokens. */
llm_status launch_describe(struct llm_engine *e, struct step *step, struct llm_error *err);
/* Queues the step that was described last. */
llm_status launch_go(struct llm_engine *e, struct step *step, struct llm_error *err);
/* Runs the hooks on the rows of the step that was queued last, if it has any, when the step before it was
 * collected. */
llm_status launch_hooks(struct llm_engine *e, const struct step *step, struct llm_error *err);

/* Puts the tokens of a step where places were; runs the hooks on candidates, and tells the device what they
 * chose: a step that feeds on it is queued afterwards. A request whose policy has failed gets no token, but
 * its error. */
llm_status launch_collect(struct llm_engine *e, struct step *step, struct llm_error *err);

#endif
