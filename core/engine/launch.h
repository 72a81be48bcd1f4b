#ifndef LLM_ENGINE_LAUNCH_H
#define LLM_ENGINE_LAUNCH_H

/* Steps on a device that samples: which plans it can carry out, their launch, and what came of them. Engine
 * thread only. Errors: the model's. */

#include "engine/engine.h"

enum launch_way {
    LAUNCH_NEVER,   /* some token must be made by the host */
    LAUNCH_SETTLED, /* the host must know all tokens before it, and sees rows of it */
    LAUNCH_AHEAD    /* before the tokens of the step before it are known */
};

/* For e->plan. Gives seats to those who need them. */
enum launch_way launch_way(struct llm_engine *e);

/* Queues e->plan as `step`; with `settled`, runs the hooks on rows of logits. */
llm_status launch_step(struct llm_engine *e, struct step *step, struct llm_error *err);

/* Puts the tokens of a step where places were; runs the hooks on candidates. A request whose policy has
 * failed gets no token, but its error. */
llm_status launch_collect(struct llm_engine *e, struct step *step, struct llm_error *err);

#endif
