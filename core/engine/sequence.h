#ifndef LLM_ENGINE_SEQUENCE_H
#define LLM_ENGINE_SEQUENCE_H

/* What the scheduler knows of one sequence: its tokens, its place in the order, its pages. Knows nothing of
 * requests, clients or text, so that a simulator can make one from nothing. Engine thread only. */

#include "engine/holding.h"

#include <stdint.h>

enum sequence_state {
    SEQUENCE_NEW,      /* not known to the scheduler: not submitted yet, or waiting to be forked */
    SEQUENCE_WAITING,  /* in the queue; owns no page (its holding may) */
    SEQUENCE_RUNNING,  /* in every plan the budget allows */
    SEQUENCE_FINISHED, /* owns no page, never comes back */
};

struct sequence {
    /* Its tokens: the prompt (shared within a request), then the output. Of the output the last n_pending are
     * being made by a device: instead of a token there is -1 - the place where the device will find it. */
    const int32_t *prompt;
    int32_t *output;
    int32_t n_prompt, n_output, n_pending;
    int32_t most_output; /* a sequence that has so many computes no more; 0: no bound */

    /* Its place: lower priority value first, then lower arrival, then lower index. */
    int32_t priority;
    int32_t index; /* within its request */
    uint64_t arrival;

    /* Whom it is for, and how much a tenant's service is worth (fairness.h); weight 0: 1. */
    uint64_t tenant;
    float weight;
    int32_t n_served; /* tokens that are paid for */
    struct fair_account *account;

    /* Sequences that will be forked from this one when its prompt is computed, and itself; 1: none. */
    int32_t group;
    int32_t seats; /* while it runs: what it takes of max_num_seqs, for itself and forks to come */

    /* Of its prompt, it must compute each token from here on itself (its logits are wanted), whatever is
     * cached; n_prompt or more: only the last one. */
    int32_t compute_from;

    /* Where its pages come from when it is admitted and go to when it ends; null: nobody keeps them. */
    struct holding *holding;

    enum sequence_state state;
    int32_t n_computed; /* leading tokens whose K and V are in its pages */
    int32_t n_pages;
    int32_t *pages; /* room for its longest form */

    struct block_hash root;    /* of its cache salt: what the chain starts from */
    struct block_hash *hashes; /* of its full blocks, made when needed; room as for pages */
    int32_t n_hashes;
    int32_t n_named; /* leading pages that scheduler_name has seen to */

    int32_t n_cached; /* prompt tokens found cached at first admission; -1: not admitted yet */
    int32_t n_preemptions;

    struct sequence *child, *sibling, *previous; /* links of the waiting queue (queue.h) */
};

static inline int32_t sequence_length(const struct sequence *s)
{
    return s->n_prompt + s->n_output;
}

/* Tokens that are known. */
static inline int32_t sequence_known(const struct sequence *s)
{
    return s->n_prompt + s->n_output - s->n_pending;
}

/* The next token is this: the first of those being made, or one more. Returns its place in the output. */
static inline int32_t sequence_learn(struct sequence *s, int32_t token)
{
    int32_t at = s->n_output - s->n_pending;
    s->output[at] = token;
    if (s->n_pending)
        s->n_pending--;
    else
        s->n_output++;
    return at;
}

static inline int32_t sequence_token(const struct sequence *s, int32_t i)
{
    return i < s->n_prompt ? s->prompt[i] : s->output[i - s->n_prompt];
}

/* 1 if a goes before b. A total order: no two sequences share arrival and index. */
static inline int sequence_before(const struct sequence *a, const struct sequence *b)
{
    if (a->priority != b->priority) return a->priority < b->priority;
    if (a->arrival != b->arrival) return a->arrival < b->arrival;
    return a->index < b->index;
}

#endif
