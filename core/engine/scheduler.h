#ifndef LLM_ENGINE_SCHEDULER_H
#define LLM_ENGINE_SCHEDULER_H

/* Which tokens of which sequences a step computes, and in which pages. A pure function of its state: no
 * model, no clock, no threads, no allocation after init, so that a simulator can drive millions of steps.
 *
 * One budget of tokens a step, for prompts and decoding alike. A plan takes, while the budget lasts,
 *   1. one token of every running sequence that decodes,
 *   2. more of the prompts that are being computed, in order,
 *   3. waiting sequences, in order, from the first on; none overtakes one that does not fit yet.
 * As the budget is no smaller than the number of running sequences, every running sequence advances in every
 * step; as nobody is overtaken, every waiting one runs in the end.
 *
 * Order is by priority, then, of those that wait, fair among tenants (fairness.h), then by arrival. When
 * pages run out, idle holdings (holding.h) give theirs back; then the last running sequence in the order of
 * priority and arrival does, or one of the last few that `choose` picks, and waits again (preemption): its
 * tokens are kept, their K and V are computed anew when it is admitted again, found in the prefix cache if
 * they are still there. A sequence is admitted only if all its present tokens fit beside those promised to
 * the running ones, and one page more for each running sequence, so that admission does not cause preemption
 * in the same breath. The first running sequence always gets its pages, as one sequence of the greatest
 * length fits into the pool: so there is always progress.
 *
 * A step is: scheduler_plan, the copies of pages, the model, scheduler_advance, scheduler_name, then for
 * sequences whose last token was computed: fork, a new token, finish. A device may be a step behind: there
 * the new tokens of a step are known, and sequences finished, only after the next step was planned. */

#include "engine/fairness.h"
#include "engine/kvcache.h"

/* Tokens [start, start + n) of a sequence. last: the last of them is the sequence's last token, so its logits
 * give the next one. */
struct plan_item {
    struct sequence *sequence; /* null: taken back */
    int32_t start, n;
    int last;
};

/* Before the model runs, page `from` is copied to page `to`, in order. */
struct page_copy {
    int32_t from, to;
};

struct plan {
    struct plan_item *items;  /* [max_num_seqs] */
    struct page_copy *copies; /* [2 * max_num_seqs]: of those that ran and of those that were admitted */
    int32_t n_items, n_tokens, n_copies;
    int32_t n_admitted, n_preempted; /* in this plan */
};

/* Removes the items taken back. */
void plan_close_holes(struct plan *plan);

struct scheduler_options {
    int32_t max_num_seqs;           /* >= 1 */
    int32_t max_num_batched_tokens; /* >= max_num_seqs; >= max_model_len without chunked_prefill */
    int chunked_prefill;
    int prefix_caching;
    int priority; /* 1: a waiting sequence may preempt one whose priority is lower */
};

enum { SCHEDULER_CHOICE = 4 };

struct scheduler {
    struct scheduler_options options;
    /* Which of the last n running sequences is to be preempted, 0 .. n - 1; anything else: the last. Null:
     * the last. n is 1 if there is no choice. The first running sequence is never among several. */
    int32_t (*choose)(void *ud, struct sequence *const *last, int32_t n);
    void *choose_ud;
    struct fairness line;      /* who waits */
    int32_t budget;            /* tokens of the next plan: max_num_batched_tokens, or fewer */
    struct kv_pool *kv;        /* borrowed */
    struct idle_list idle;     /* holdings that have pages: the first to give them back */
    struct sequence **running; /* [max_num_seqs], in order */
    int32_t n_running;
    int32_t n_seats; /* taken of max_num_seqs: by running sequences, and by forks to come */
    struct plan plan;
    /* for the statistics */
    uint64_t n_preemptions, n_prefix_queries, n_prefix_hits;
    int32_t n_used_peak;
    double waste_peak; /* kv_waste at the step with the most used pages */
};

/* Errors: LLM_ENOMEM. */
llm_status scheduler_init(struct scheduler *s, const struct scheduler_options *options, struct kv_pool *kv,
                          struct llm_error *err);
void scheduler_deinit(struct scheduler *s);

/* Takes a new sequence with a prompt. Its room for pages must hold kv_pages_for(longest form), no more than
 * the pool has. Forks to come are not added: they are given to scheduler_fork. */
void scheduler_add(struct scheduler *s, struct sequence *sequence);

/* The next step's plan, valid until the next call. n_tokens is 0 only if nothing runs or waits. */
struct plan *scheduler_plan(struct scheduler *s);
/* The plan was carried out, or will be before any later one. */
void scheduler_advance(struct scheduler *s);
/* Puts the planned sequences' full blocks whose tokens are known into the prefix index. After
 * scheduler_advance, and before any of them is finished. */
void scheduler_name(struct scheduler *s);

/* `child` has its parent's prompt and no output. It shares all the parent's pages, and runs; if the group has
 * more members than there are seats it waits, and computes its prompt anew. Called once for each other member
 * of the parent's group, between the scheduler_advance that completes the prompt and the first token. */
void scheduler_fork(struct scheduler *s, struct sequence *parent, struct sequence *child);

/* Ends a sequence in any state: its pages are its holding's again, or free, on return. A plan that was not
 * carried out yet loses it. A holding may be used by one sequence at a time, and otherwise changed between
 * steps by the functions of holding.h, with `idle` as the list. */
void scheduler_finish(struct scheduler *s, struct sequence *sequence);

#endif
