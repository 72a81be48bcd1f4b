/* Handles on the engine's thread. */

#include "engine/handle.h"
#include "engine/progress.h"

#include "base/mem.h"

/* A request that its client has let go of may not have ended yet. It has to, before another one takes over.
 */
static void end_borrower(struct llm_engine *e, struct handle *h)
{
    if (h->borrower) progress_finish(e, h->borrower, LLM_FINISH_ABORT);
}

static void rewind_to(struct llm_engine *e, struct handle *h, int32_t n_tokens)
{
    end_borrower(e, h);
    holding_rewind(&e->scheduler.idle, &e->kv, &h->holding, n_tokens);
}

void handle_lend(struct llm_engine *e, struct llm_request *r)
{
    struct handle *h = r->handle;
    rewind_to(e, h, r->n_agreed);
    h->borrower = r;
    r->outputs[0].sequence.holding = &h->holding;
}

void handle_arrive(struct llm_engine *e, struct handle *h)
{
    rewind_to(e, h->parent, h->n_agreed);
    holding_share(&e->scheduler.idle, &e->kv, &h->parent->holding, &h->holding);
}

void handle_depart(struct llm_engine *e, struct handle *h)
{
    rewind_to(e, h, 0);
    mem_free(h);
}
