#ifndef LLM_ENGINE_FAIRNESS_H
#define LLM_ENGINE_FAIRNESS_H

/* The waiting sequences, a line for each tenant, and whose turn it is: lower priority value first, then the
 * tenant that has been served least (virtual token counters: Sheng et al., "Fairness in Serving Large
 * Language Models", OSDI 2024). So a tenant gets its share however many sequences it has sent, and what it
 * does not use is not saved up. Within a tenant, and where there is one only, the order is sequence_before.
 *
 * The unit of service is a computed token, of a tenant with weight 1; a token of output counts twice, as it
 * takes a step of its own. Tokens found cached, and those computed again after a preemption, cost nothing.
 *
 * Accounts are a table of fixed size. One that nobody uses is forgotten when its place is needed; should more
 * tenants than fit be there at a time, some share an account. Pure; no allocation after init; to find whose
 * turn it is takes a look at each tenant that waits. */

#include "engine/queue.h"

struct fair_account {
    uint64_t tenant;
    double served;   /* virtual time */
    int32_t n_users; /* sequences that wait or run */
    struct queue waiting;
    struct fair_account *next, *previous; /* of those that have waiting sequences */
};

struct fairness {
    struct fair_account *accounts, *active;
    int32_t n_waiting;
    double now; /* what those who were served last have got: who comes anew starts here */
};

/* Errors: LLM_ENOMEM. */
llm_status fairness_init(struct fairness *f, struct llm_error *err);
void fairness_deinit(struct fairness *f);

/* A new sequence, with its tenant and weight set, gets its tenant's account; it ends; it has computed its
 * tokens up to n_computed, or finds them computed: charge 0. */
void fairness_enter(struct fairness *f, struct sequence *s);
void fairness_leave(struct fairness *f, struct sequence *s);
void fairness_serve(struct fairness *f, struct sequence *s, int32_t n_computed, int charge);

void fairness_wait(struct fairness *f, struct sequence *s);
void fairness_go(struct fairness *f, struct sequence *s);
/* Whose turn it is; null: nobody waits. */
struct sequence *fairness_first(const struct fairness *f);

#endif
