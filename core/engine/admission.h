#ifndef LLM_ENGINE_ADMISSION_H
#define LLM_ENGINE_ADMISSION_H

/* What is decided when a request comes: tenant, priority, deadline, or that it is refused; by a scheduler
 * (llmlua.h) if there is one. And who keeps which scheduler: a new one is handed to the engine's thread
 * through one atomic pointer; those before it stay while requests that came under them run, and are then left
 * in a list for the next thread that sets one, or the engine's end, to close. */

#include "llmlua.h"

#include <pthread.h>
#include <stdatomic.h>

struct llm_request;

/* One scheduler. */
struct hooks {
    struct llm_scheduler table; /* all null: none */
    int32_t n_users;            /* requests, and being the present one */
    struct hooks *next;
};

struct admission {
    _Atomic(struct hooks *) incoming; /* anybody's: set, and not taken yet */
    _Atomic(struct hooks *) unused;   /* a list of those to be closed */
    /* the engine's thread's */
    struct hooks *hooks;   /* null: none */
    int64_t next_deadline; /* ns, no later than the first of any request's; INT64_MAX: there is none */
};

void admission_init(struct admission *a);
void admission_deinit(struct admission *a);

/* ---- the engine's thread ------------------------------------------------------------------------------- */

/* A request has come. Not LLM_OK: r->error says why it is refused. */
llm_status admission_arrive(struct llm_engine *e, struct llm_request *r);
/* Its last sequence has ended. */
void admission_end(struct llm_engine *e, struct llm_request *r, enum llm_finish_reason reason);
/* Between steps: takes a new scheduler, and ends requests whose deadline has passed. */
void admission_look(struct llm_engine *e);

#endif
