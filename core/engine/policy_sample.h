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
    float *row; /* the adjusted row, for logits hooks */
    struct sample_best best;
    int32_t token;
    int barren;           /* the parameters of the request ban everything: policies are not asked */
    int chosen, recorded; /* the token is final; it is in the output */
    int32_t failed;       /* link whose graph failed; -1: none */
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

/* Gives each job's output its next token, or its request an error. n <= the desk's n_rows. */
void policy_sample(struct llm_engine *e, struct policy_job *jobs, int32_t n);

#endif
