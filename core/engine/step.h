#ifndef LLM_ENGINE_STEP_H
#define LLM_ENGINE_STEP_H

#include "engine/engine.h"

/* Carries e->plan out, or launches it; collects what was launched before. A plan of no tokens only collects.
 * Engine thread only. Errors: the model's. */
llm_status step_run(struct llm_engine *e, struct llm_error *err);

#endif
