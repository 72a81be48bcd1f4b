#ifndef LLM_ENGINE_PROGRESS_H
#define LLM_ENGINE_PROGRESS_H

/* What happens to requests besides their tokens: they leave the queue, go on, end; and who is told. Engine
 * thread only. What has ended has no pages by the time its client hears of it, and may be gone afterwards. */

#include "engine/engine.h"

/* Publishes the engine's counters, for llm_engine_stats. */
void progress_count(struct llm_engine *e);

/* A request runs for the first time, or will never run. */
void progress_left_queue(struct llm_engine *e, struct llm_request *r);

/* Ends the sequences of a request that have not ended, and tells its client. */
void progress_finish(struct llm_engine *e, struct llm_request *r, enum llm_finish_reason reason);
void progress_finish_all(struct llm_engine *e, enum llm_finish_reason reason);

/* The engine has failed for good: all requests end with this error, and later ones are refused. */
void progress_fail(struct llm_engine *e, const struct llm_error *err);

/* The rows of a step have their tokens: ends what has come to its end, then tells the clients. */
void progress_emit(struct llm_engine *e, struct step *step);

#endif
