#ifndef LLM_ENGINE_POLICY_H
#define LLM_ENGINE_POLICY_H

/* Policies (llmlua.h) as the engine keeps them: a book of names, each with its generations; and the chain of
 * a request, which holds on to the generations it was submitted with until the request is destroyed. The book
 * has a lock, taken when policies change and when requests that name one are made or destroyed: never on the
 * way of a token. A policy is closed by the thread that gives up its last use, never by the engine's.
 *
 * A chain is made with its request, for all its sequences, and allocates nothing after that but the text of
 * a failure. */

#include "engine/sampler.h"
#include "graph/graph.h"
#include "kernels/sampling.h"
#include "llmlua.h"

#include <pthread.h>
#include <stdatomic.h>

/* A device that runs graphs, as struct sampling_ops (kernels/sampling.h) has it; null functions: none. */
struct graph_device {
    void *self;
    llm_status (*compile)(void *self, const struct graph *g, struct device_graph **out,
                          struct llm_error *err);
    void (*close)(void *self, struct device_graph *g);
    uint64_t (*id)(const struct device_graph *g);
    llm_status (*args_open)(void *self, const struct device_graph *g, const struct graph_args *args,
                            struct device_graph_args **out, struct llm_error *err);
    void (*args_close)(void *self, struct device_graph_args *a);
    const void *(*args_block)(const struct device_graph_args *a);
};

/* One generation of one name. */
struct policy {
    struct llm_policy table;       /* its name is the shelf's */
    struct device_graph *compiled; /* the graph on the device; null: the host runs it */
    char on_host[160];             /* then why, if there is a device */
    int32_t generation;
    uint64_t asked; /* when, among the decisions about policies */
    struct policy_shelf *shelf;
    struct policy *next; /* on the shelf, asked for earlier */
    int32_t n_users;     /* chains; under the book's lock */
    int kept;            /* it is active, or can be rolled back to; under the lock */
    /* written by the engine's thread, n_requests under the lock */
    _Atomic uint64_t n_requests, n_calls, n_failures, ns;
};

struct policy_shelf {
    struct policy_shelf *next;
    char name[64];
    struct policy *policies;   /* the last asked for first */
    struct policy *active;     /* null: removed */
    uint64_t decided, removed; /* when what is active was asked for; and its last removal */
    int32_t n_made, n_policies;
};

struct policy_book {
    struct graph_device device; /* constant */
    pthread_mutex_t lock;
    uint64_t
        n_asked; /* decisions so far: additions, rollbacks, removals. Under the lock, as the shelves are */
    struct policy_shelf *shelves;
};

enum { POLICY_HAS_LOGITS = 1, POLICY_HAS_GRAPH = 2, POLICY_HAS_CANDIDATES = 4 };

struct policy_link {
    struct policy *policy;
    struct llm_policy_args args;
    struct device_graph_args
        *device_args; /* of the compiled graph; null: not open yet, or it has no parameters */
};

/* A sequence under a policy. */
struct policy_run {
    struct llm_policy_run view; /* first */
    double *variables;          /* of the graph */
    int begun, off;             /* off: it has failed and is left out */
};

struct policy_chain {
    struct policy_book *book;
    int32_t n_links, n_sequences;
    unsigned has;            /* POLICY_HAS_… of any link */
    int32_t max_candidates;  /* that some hook wants to see */
    struct policy_run *runs; /* [n_sequences, n_links] */
    struct llm_error error;  /* why the request fails; status 0: it does not. Constant once set */
    char *details;
    struct policy_link links[]; /* [n_links] */
};

/* device null: none. */
void policy_book_init(struct policy_book *book, const struct graph_device *device);
/* No chain may be left. The device must still be there. */
void policy_book_deinit(struct policy_book *book);

/* llm_policy_ask and so on (llmlua.h). Any thread. A graph that is added is compiled for the device, if it
 * can be, without the lock. */
uint64_t policy_book_ask(struct policy_book *book);
llm_status policy_book_add(struct policy_book *book, const struct llm_policy *table, int32_t *generation,
                           struct llm_error *err);
llm_status policy_book_rollback(struct policy_book *book, const char *name, int32_t *generation,
                                struct llm_error *err);
llm_status policy_book_remove(struct policy_book *book, const char *name, struct llm_error *err);
int policy_book_has(struct policy_book *book, const char *name);
size_t policy_book_list(struct policy_book *book, struct llm_policy_info *out, size_t capacity);

/* The chain that a request names, null if it names none. n_sequences: llm_sampling.n. Any thread. Errors:
 * LLM_EINVAL (a name that is not known, with those that are; arguments), LLM_ENOMEM. */
llm_status policy_chain_open(struct policy_book *book, const struct llm_request_spec *spec,
                             struct policy_chain **out, struct llm_error *err);
void policy_chain_close(struct policy_chain *chain); /* null is accepted */

/* ---- the engine's thread ------------------------------------------------------------------------------- */

/* Whose tokens they are: set before begin. */
void policy_chain_bind(struct policy_chain *chain, int32_t sequence, const int32_t *prompt, int32_t n_prompt,
                       const int32_t *output, uint64_t seed);
/* Opens the arguments of its compiled graphs on the device, if they are not. Errors: LLM_ENOMEM, LLM_EFAILED.
 */
llm_status policy_chain_to_device(struct policy_chain *chain, struct llm_error *err);
/* Calls the begin hooks of all sequences. Not LLM_OK: chain->error says why. */
llm_status policy_chain_begin(struct policy_chain *chain);
/* Calls the done hooks of a sequence, once, whatever has been begun. */
void policy_chain_done(struct policy_chain *chain, int32_t sequence);

static inline struct policy_run *policy_chain_runs(const struct policy_chain *chain, int32_t sequence)
{
    return chain->runs + (size_t)sequence * (size_t)chain->n_links;
}

/* POLICY_HAS_… of the links that are not left out on a sequence. */
unsigned policy_chain_wants(const struct policy_chain *chain, int32_t sequence);

/* A hook or graph of link `i` has failed on a sequence: the request fails, or the policy is left out from now
 * on if it says so. Returns 1 in the first case. */
int policy_chain_fail(struct policy_chain *chain, int32_t sequence, int32_t i, const struct llm_error *err);

#endif
