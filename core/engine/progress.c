/* Step 8 of 10. In: sequences with a new token. Out: their ends, counters, and news for their clients. Next:
 * client.c. */

#include "engine/progress.h"

#include "engine/handle.h"
#include "engine/output.h"

/* ---- counting ------------------------------------------------------------------------------------------ */

void progress_count(struct llm_engine *e)
{
    struct engine_counters *c = &e->counters;
    const struct scheduler *s = &e->scheduler;
#define SET(field, value) atomic_store_explicit(&c->field, value, memory_order_relaxed)
    SET(n_running, s->n_running);
    SET(n_waiting, s->line.n_waiting);
    SET(n_used, e->kv.n_used);
    SET(n_pinned, e->pins.n_pages);
    SET(n_peak, s->n_used_peak);
    SET(waste, s->waste_peak);
    SET(n_preemptions, s->n_preemptions);
    SET(n_prefix_queries, s->n_prefix_queries);
    SET(n_prefix_hits, s->n_prefix_hits);
    SET(n_steps, e->n_steps);
    SET(n_prompt_tokens, e->n_prompt_tokens);
    SET(n_output_tokens, e->n_output_tokens);
    SET(busy_ns, e->busy_ns);
    SET(wait_ns, e->wait_ns);
#undef SET
}

/* ---- publishing ---------------------------------------------------------------------------------------- */

/* Tells the client how far an output is. If it is finished, it may be gone on return. */
static void publish(struct output *o)
{
    struct mailbox *reply = o->request->reply;
    uint64_t news = news_pack(o->sequence.n_output - o->sequence.n_pending, o->text_end) | NEWS_PENDING;
    if (o->finish != LLM_FINISH_NONE) news |= NEWS_FINAL;
    uint64_t before = atomic_exchange_explicit(&o->news, news, memory_order_acq_rel);
    if (!(before & NEWS_PENDING)) mailbox_post(reply, &o->mail);
}

void progress_left_queue(struct llm_engine *e, struct llm_request *r)
{
    if (r->scheduled) return;
    r->scheduled = 1;
    atomic_fetch_sub_explicit(&e->n_queued, 1, memory_order_relaxed);
}

/* A step in flight owes it nothing any more. */
static void forgo(struct llm_engine *e, struct output *o)
{
    struct step *step = e->flying;
    o->sequence.n_output -= o->sequence.n_pending;
    o->sequence.n_pending = 0;
    for (int32_t i = 0; step && i < step->n; i++)
        if (step->rows[i].output == o) step->rows[i].output = NULL;
    for (int32_t i = 0; step && i < step->n_spans; i++)
        if (step->spans[i].output == o) step->spans[i].output = NULL;
}

/* Ends an output: its pages are free. It must then be published, after which it may be gone. */
static void settle(struct llm_engine *e, struct output *o, enum llm_finish_reason reason)
{
    struct llm_request *r = o->request;
    forgo(e, o);
    scheduler_finish(&e->scheduler, &o->sequence);
    seating_leave(&e->seating, o);
    if (r->chain) policy_chain_done(r->chain, o->sequence.index);
    o->finish = reason;
    if (r->handle && o == r->outputs) r->handle->borrower = NULL;
    if (!o->stopped_by_string) o->text_end = NEWS_ALL_TEXT; /* what was held back is text after all */
    atomic_fetch_add_explicit(&r->n_preemptions, o->sequence.n_preemptions, memory_order_relaxed);
    if (--r->n_live > 0) return;
    admission_end(e, r, reason);
    progress_left_queue(e, r);
    atomic_store_explicit(&r->t_finished, clock_ns(), memory_order_relaxed);
    if (r->previous)
        r->previous->next = r->next;
    else
        e->requests = r->next;
    if (r->next) r->next->previous = r->previous;
    atomic_fetch_add_explicit(&e->counters.n_finished, 1, memory_order_relaxed);
}

void progress_finish(struct llm_engine *e, struct llm_request *r, enum llm_finish_reason reason)
{
    int32_t live = r->n_live; /* r may be gone once the last of them is published */
    for (int32_t i = 0; i < r->n; i++)
        if (r->outputs[i].finish == LLM_FINISH_NONE) settle(e, &r->outputs[i], reason);
    progress_count(e);
    for (int32_t i = 0; live > 0; i++) {
        if (atomic_load_explicit(&r->outputs[i].news, memory_order_relaxed) & NEWS_FINAL) continue;
        live--;
        publish(&r->outputs[i]);
    }
}

void progress_finish_all(struct llm_engine *e, enum llm_finish_reason reason)
{
    while (e->requests) progress_finish(e, e->requests, reason);
}

void progress_fail(struct llm_engine *e, const struct llm_error *err)
{
    e->error = *err;
    e->flying = NULL;
    atomic_store_explicit(&e->failed, 1, memory_order_release);
    progress_finish_all(e, LLM_FINISH_ERROR);
}

static void note_gap(struct llm_engine *e, struct output *o, int64_t now)
{
    if (o->t_token) histogram_add(&e->counters.token_gap, (double)(now - o->t_token) * 1e-9);
    o->t_token = now;
}

void progress_emit(struct llm_engine *e, struct step *step)
{
    int64_t now = clock_ns();
    for (int32_t i = 0; i < step->n; i++) {
        struct output *o = step->rows[i].output;
        if (!o) continue;
        if (o->sequence.index == 0 && sequence_known(&o->sequence) == o->sequence.n_prompt + 1)
            atomic_store_explicit(&o->request->t_first_token, now, memory_order_relaxed);
        e->n_output_tokens += o->request->max_output > 0;
        enum llm_finish_reason reason = output_judge(o, &e->config);
        note_gap(e, o, now);
        if (reason != LLM_FINISH_NONE) settle(e, o, reason);
    }
    progress_count(e);
    for (int32_t i = 0; i < step->n; i++) {
        struct output *o = step->rows[i].output;
        if (o && (o->request->stream || o->finish != LLM_FINISH_NONE)) publish(o);
    }
}
