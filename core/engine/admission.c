#include "engine/admission.h"

#include "base/mem.h"
#include "engine/engine.h"
#include "engine/progress.h"

#include <stdio.h>
#include <string.h>

void admission_init(struct admission *a)
{
    *a = (struct admission){.next_deadline = INT64_MAX};
}

/* ---- schedulers ---------------------------------------------------------------------------------------- */

static void close_all(struct hooks *list)
{
    for (struct hooks *h = list, *next; h; h = next) {
        next = h->next;
        if (h->table.close) h->table.close(h->table.self);
        mem_free(h);
    }
}

void admission_deinit(struct admission *a)
{
    close_all(atomic_load(&a->incoming));
    close_all(atomic_load(&a->unused));
    close_all(a->hooks);
}

llm_status llm_scheduler_set(struct llm_engine *e, const struct llm_scheduler *scheduler,
                             struct llm_error *err)
{
    struct admission *a = &e->admission;
    struct hooks *h = mem_zalloc(sizeof *h);
    if (!h) return llm_fail(err, LLM_ENOMEM, "no memory for a scheduler");
    if (scheduler) h->table = *scheduler;
    h->n_users = 1;
    close_all(atomic_exchange_explicit(&a->incoming, h, memory_order_acq_rel)); /* never used */
    close_all(atomic_exchange_explicit(&a->unused, NULL, memory_order_acquire));
    mailbox_wake(&e->inbox);
    return LLM_OK;
}

static void let_go(struct admission *a, struct hooks *h)
{
    if (!h || --h->n_users > 0) return;
    h->next = atomic_load_explicit(&a->unused, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&a->unused, &h->next, h, memory_order_release,
                                                  memory_order_relaxed)) {
    }
}

static int32_t choose(void *ud, struct sequence *const *last, int32_t n)
{
    struct llm_engine *e = ud;
    struct hooks *h = e->admission.hooks;
    struct llm_victim victims[SCHEDULER_CHOICE];
    for (int32_t i = 0; i < n; i++) {
        const struct sequence *q = last[i];
        const struct llm_request *r = ((struct output *)last[i])->request; /* its first member */
        victims[i] = (struct llm_victim){.id = q->arrival,
                                         .index = q->index,
                                         .priority = q->priority,
                                         .n_prompt = q->n_prompt,
                                         .n_output = q->n_output,
                                         .n_preemptions = q->n_preemptions,
                                         .tenant = r->tenant,
                                         .own = r->hooks == h ? r->own : NULL};
    }
    return h->table.preempt(h->table.self, victims, n);
}

static void take_hooks(struct llm_engine *e)
{
    struct admission *a = &e->admission;
    if (!atomic_load_explicit(&a->incoming, memory_order_relaxed)) return;
    struct hooks *h = atomic_exchange_explicit(&a->incoming, NULL, memory_order_acquire);
    if (!h) return;
    let_go(a, a->hooks);
    a->hooks = h;
    e->scheduler.choose = h->table.preempt ? choose : NULL;
    e->scheduler.choose_ud = e;
}

/* ---- requests ------------------------------------------------------------------------------------------ */

static void set_deadline(struct admission *a, struct llm_request *r, int64_t deadline)
{
    r->deadline = deadline;
    if (deadline && deadline < a->next_deadline) a->next_deadline = deadline;
}

static llm_status ask_hooks(struct llm_engine *e, struct llm_request *r, struct llm_arrival *v)
{
    struct hooks *h = e->admission.hooks;
    struct llm_arrival asked = *v;
    llm_status status = h->table.arrive(h->table.self, v);
    if (status) {
        *v = asked;
        return LLM_OK;
    }
    v->tenant[sizeof v->tenant - 1] = v->message[sizeof v->message - 1] = 0;
    r->hooks = h;
    r->own = v->own;
    h->n_users++;
    snprintf(r->tenant, sizeof r->tenant, "%s", v->tenant);
    double left = v->timeout - asked.timeout; /* not touched: the deadline is as it was */
    if (left != 0 && v->timeout < 1e9)
        set_deadline(&e->admission, r, v->timeout > 0 ? r->t_submitted + (int64_t)(v->timeout * 1e9) : 0);
    if (!v->refusal) return LLM_OK;
    r->refusal = v->refusal;
    return llm_fail(&r->error, LLM_EFULL, "%s",
                    v->message[0] ? v->message : "the server refuses this request");
}

static struct block_hash root_of(const struct llm_engine *e, const struct llm_request *r, int isolate)
{
    struct block_hash root = prefix_root(&e->kv.index, r->cache_salt, r->salt_bytes);
    if (!isolate) return root;
    int32_t name[LLM_TENANT_BYTES / 4] = {0};
    memcpy(name, r->tenant, strlen(r->tenant));
    return prefix_next(&e->kv.index, root, name, LLM_TENANT_BYTES / 4);
}

llm_status admission_arrive(struct llm_engine *e, struct llm_request *r)
{
    take_hooks(e); /* set before this was submitted, perhaps */
    const struct sequence *first = &r->outputs[0].sequence;
    struct llm_arrival v = {.id = first->arrival,
                            .prompt = r->prompt,
                            .cache_salt = r->cache_salt,
                            .n_prompt = r->n_prompt,
                            .n = r->n,
                            .max_output = r->max_output,
                            .n_running = e->scheduler.n_running,
                            .n_waiting = e->scheduler.line.n_waiting,
                            .n_blocks = e->kv.n_pages,
                            .n_blocks_used = e->kv.n_used,
                            .priority = e->config.priority ? first->priority : 0,
                            .weight = 1,
                            .timeout = r->deadline ? (double)(r->deadline - r->t_submitted) * 1e-9 : 0};
    memcpy(v.tenant, r->tenant, sizeof v.tenant);
    set_deadline(&e->admission, r, r->deadline);
    const struct hooks *h = e->admission.hooks;
    llm_status status = h && h->table.arrive ? ask_hooks(e, r, &v) : LLM_OK;
    struct block_hash root = root_of(e, r, v.isolate);
    uint64_t tenant = r->tenant[0] ? prefix_root(&e->kv.index, r->tenant, strlen(r->tenant)).low : 0;
    for (int32_t i = 0; i < r->n; i++) {
        struct sequence *q = &r->outputs[i].sequence;
        q->root = root;
        q->priority = v.priority;
        q->tenant = tenant;
        q->weight = v.weight;
    }
    return status;
}

void admission_end(struct llm_engine *e, struct llm_request *r, enum llm_finish_reason reason)
{
    struct hooks *h = r->hooks;
    if (!h) return;
    r->hooks = NULL;
    int32_t n_output = 0;
    for (int32_t i = 0; i < r->n; i++) n_output += r->outputs[i].sequence.n_output;
    if (h->table.ended) h->table.ended(h->table.self, r->own, reason, n_output);
    let_go(&e->admission, h);
}

/* ---- deadlines ----------------------------------------------------------------------------------------- */

static void end_late(struct llm_engine *e)
{
    e->admission.next_deadline = INT64_MAX;
    for (struct llm_request *r = e->requests, *next; r; r = next) {
        next = r->next;
        if (r->deadline && r->deadline <= e->now) {
            llm_fail(&r->error, LLM_ECANCELED, "the request took longer than its timeout, %.3g s%s",
                     (double)(r->deadline - r->t_submitted) * 1e-9,
                     r->scheduled ? "" : "; it was still waiting for its turn");
            progress_finish(e, r, LLM_FINISH_ERROR);
        } else {
            set_deadline(&e->admission, r, r->deadline);
        }
    }
}

void admission_look(struct llm_engine *e)
{
    take_hooks(e);
    if (e->now >= e->admission.next_deadline) end_late(e);
}
