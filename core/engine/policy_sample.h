#ifndef LLM_ENGINE_POLICY_SAMPLE_H
#define LLM_ENGINE_POLICY_SAMPLE_H

/* Step 7 where a sequence has policies: what runs in parallel on the sampling workers (adjusting rows,
 * graphs, the choice) and what on the engine's thread in between (hooks). Rows without policies go along, as
 * plainly as ever. Memory is mapped when the engine opens and costs nothing before policies touch it. */

#include "engine/policy.h"

struct llm_engine;
struct output;

/* One token to choose. */
struct policy_job {
    struct output *output;
    const float *logits; /* raw; may be shared with other jobs */

    /* made on the way */
    float *row;        /* the adjusted row, for logits hooks */
    int32_t from, end; /* what they have changed of it at most */
    struct sample_best best;
    int32_t token;
    int barren;           /* the parameters of the request ban everything: policies are not asked */
    int chosen, recorded; /* the token is final; it is in the output */
    uint32_t forgiven;    /* bit i: the graph of link i has failed, and is left out */
    int32_t failed;       /* link whose graph failed, and the request with it; -1: none */
    struct llm_error error;
};

struct policy_desk {
    int32_t vocab_size, n_workers, n_rows;
    float *rows;                      /* [n_rows, vocab_size] */
    float *backup;                    /* [vocab_size] */
    struct llm_candidate *candidates; /* [n_rows, LLM_MAX_CANDIDATES] */
    struct graph_scratch **scratch;   /* [n_workers] */
    struct policy *timed;             /* whose hooks run now */
    int64_t since;                    /* ns */
};

/* Errors: LLM_ENOMEM, LLM_EINVAL (isa, as graph_scratch_open). */
llm_status policy_desk_init(struct policy_desk *d, int32_t vocab_size, int32_t n_workers, int32_t n_rows,
                            struct llm_error *err);
void policy_desk_deinit(struct policy_desk *d);

/* ---- the pieces, for steps on a device (policy_device.h) ----------------------------------------------- */

/* Runs the hooks on the job's row, and notes what they changed. checked_later: the device looks at what the
 * last of them left. */
void policy_logits_hooks(struct policy_desk *d, struct policy_job *j, int checked_later);
/* Runs the hooks on the job's candidates: its token is what is drawn, and then perhaps another. */
void policy_candidates_hooks(struct policy_desk *d, struct policy_job *j);
/* No hook runs until the next one: the time is nobody's. */
void policy_hooks_pause(struct policy_desk *d);
/* Counts a call of each graph. */
void policy_count_graphs(struct policy_chain *c);
/* Leaves out the graphs at these places, a bit each, which have failed and say that this is enough. */
void policy_forgive_graphs(struct policy_chain *c, int32_t sequence, uint32_t places);
/* The place of the last logits hook that is not left out; -1: none. */
int32_t policy_last_logits_hook(const struct policy_chain *c, int32_t sequence);
/* What is wrong with a row that is no good. Returns LLM_EFAILED. */
llm_status policy_row_unusable(struct llm_error *err);

/* ---- on the host --------------------------------------------------------------------------------------- */

/* Gives each job's output its next token, or its request an error. n <= the desk's n_rows. */
void policy_sample(struct llm_engine *e, struct policy_job *jobs, int32_t n);

#endif
