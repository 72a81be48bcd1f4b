#ifndef LLM_ENGINE_ENGINE_H
#define LLM_ENGINE_ENGINE_H

/* The engine's thread and what it owns. Clients reach it through its mailbox (submit) and a few atomic flags
 * (cancel, forget, stop); it reaches them through theirs. Nothing on the way of a token takes a lock.
 *
 * Below it is a model, seen through a table of functions, so that tests can put another one there. */

#include "base/pool.h"
#include "engine/admission.h"
#include "engine/batch.h"
#include "engine/pins.h"
#include "engine/pace.h"
#include "engine/policy_sample.h"
#include "engine/request.h"
#include "engine/seating.h"
#include "kernels/device.h"

#include <pthread.h>

/* A step for a device that samples: what to compute, which rows become tokens, and which score prompts. Of
 * `batch` the tokens may be places where an earlier step leaves them (struct feed_args). All is in host
 * memory. */
struct device_step {
    const struct batch *batch;
    const struct sample_row *rows;  /* [n_rows]; `row` is a row of the batch; each names its slot */
    const struct graph_link *links; /* [n_rows, SAMPLE_MAX_ROUNDS]; null: no row has a graph */
    const struct graph_turn *turns; /* [n_turns] each graph and round of the links, once */
    int32_t n_rows, n_turns;
    int seated, hooked;                  /* 1: some row has a seat; some row is SAMPLE_HOOKED */
    int32_t n_logprobs, n_candidates;    /* the most that a row asks for; -1 and 0: none does */
    const int32_t *scored, *followers;   /* [n_scored] rows of the batch, and the tokens that follow them */
    int32_t n_scored, n_prompt_logprobs; /* n_prompt_logprobs: the most that one of these asks for */
    int mark;                            /* 0 or 1: which of two steps in flight */
};

struct graph_turn {
    const struct device_graph *graph;
    int32_t round;
};

/* What came of a step. A row's logprobs begin with those of its token. */
struct device_results {
    const struct sampled *rows;                /* [n_rows] */
    const struct sample_candidate *candidates; /* [n_rows, n_candidates] */
    const struct sample_logprob *logprobs;     /* [n_rows, 1 + n_logprobs] */
    const struct sample_logprob *scores;       /* [n_scored, 1 + n_prompt_logprobs] */
};

/* What a seat is told of its sequence: everything. Borrowed for the call. */
struct seat_content {
    int32_t number;
    const struct seat *seat;
    int32_t n_words;                /* of seat->words */
    const int32_t *prompt, *output; /* the tokens so far, all known */
    int32_t n_prompt, n_output;
    const int32_t *allowed; /* with SEAT_ALLOWED */
    size_t n_allowed;
    const double *variables;
    int32_t n_variables;
};

/* Seats (kernels/sampling.h) of a device that samples. */
struct device_seats {
    int32_t n; /* 0: none, and nothing below */
    /* Before the launch with this mark. */
    llm_status (*fill)(void *self, int mark, const struct seat_content *content, struct llm_error *err);
    /* Waits until all that was launched has run. */
    llm_status (*variables)(void *self, int32_t seat, double *out, int32_t n, struct llm_error *err);

    /* A step with hooked rows stops before them, and they go to the host and back beside each other: fetch
     * begins when the step is there, await waits until row [vocab_size] has come, give_back returns n
     * elements of the row (0: none) and ends the use of the ticket, 0 .. EXCHANGE_TICKETS - 1. adjusted waits
     * until the step is there; of the rows only flags are good. resume queues the rest of the step, when all
     * that was fetched is given back. */
    llm_status (*adjusted)(void *self, int mark, const struct sampled **rows, struct llm_error *err);
    llm_status (*fetch)(void *self, int32_t ticket, int32_t seat, struct llm_error *err);
    llm_status (*await)(void *self, int32_t ticket, float **row, struct llm_error *err);
    llm_status (*give_back)(void *self, int32_t ticket, int32_t seat, int32_t from, int32_t n,
                            struct llm_error *err);
    llm_status (*resume)(void *self, const struct device_step *step, struct llm_error *err);
};

/* What the engine asks of a model. All calls come from the engine's thread but close. */
struct engine_model {
    void *self;
    int32_t vocab_size;
    /* As decoder_forward and decoder_logits (model/decoder.h). With `launch` there is no forward, and the
     * batch is that of the step that was collected last, which nothing may have been launched after. */
    llm_status (*forward)(void *self, const struct batch *batch, struct llm_error *err);
    llm_status (*logits)(void *self, const int32_t *rows, int32_t n_rows, float *out, struct llm_error *err);
    llm_status (*copy_page)(void *self, int32_t from, int32_t to, struct llm_error *err);
    /* Runs fn(arg, i, n_workers) for all i at once, for sampling; null: sampling is done by one thread. */
    void (*run)(void *self, pool_fn *fn, void *arg);
    int32_t n_workers; /* 1 without run */
    /* Zeroed host memory that `logits` fills fastest; null functions: any memory. */
    void *(*alloc_rows)(void *self, size_t bytes);
    void (*free_rows)(void *self, void *rows);
    /* A device that samples (else null): queues a step, and gives what came of one when it is there, which
     * lives until the mark is used again. */
    llm_status (*launch)(void *self, const struct device_step *step, struct llm_error *err);
    llm_status (*collect)(void *self, int mark, struct device_results *out, struct llm_error *err);
    /* Before anything is launched after the step that was collected last, for tokens that the host chooses.
     * raw_rows: its raw logits by places, out [n, vocab_size], unless `logits` were asked for, which take
     * their memory. amend: its tokens are these, by places, whatever it gave; n_logprobs >= 0: and its
     * results' log-probabilities become theirs. */
    llm_status (*raw_rows)(void *self, const int32_t *places, int32_t n, float *out, struct llm_error *err);
    llm_status (*amend)(void *self, int mark, const int32_t *tokens, int32_t n, int32_t n_logprobs,
                        struct llm_error *err);
    struct device_seats seats;
    struct graph_device graphs; /* policy.h */
    void (*close)(void *self);
};

enum { ENGINE_MAX_END_TOKENS = 64, ENGINE_LOGIT_ROWS = 32 };

/* Everything decided: no defaults left. */
struct engine_config {
    int32_t max_model_len, max_num_seqs, max_num_batched_tokens, block_size, n_pages;
    int prefix_caching, chunked_prefill, priority;
    int32_t max_num_queued_reqs; /* 0: no bound */
    int32_t max_logprobs;        /* -1: the vocabulary */
    float step_time_target;      /* ms, of steps that read prompts while others decode; 0: no target */
    uint64_t seed;
    const struct tokenizer *tokenizer; /* borrowed from the model; null: none */
    int32_t end_tokens[ENGINE_MAX_END_TOKENS];
    int32_t n_end_tokens;
};

/* An output that a step gives a token; null: it has ended meanwhile. */
struct step_row {
    struct output *output;
    int32_t place; /* on a device: among the rows that it samples; -1: no token is wanted */
    int by_host;   /* 1: of that row the host makes the token */
};

/* Rows of a step's batch that score a prompt (prompt_logprobs): n rows from `row` on, the first of which is
 * at `position`; each scores the token that follows it. */
struct score_span {
    struct output *output; /* null: it has ended meanwhile */
    int32_t row, position, n;
    int32_t place; /* on a device: among the rows that it scores; -1: the host does */
};

struct step {
    struct step_row *rows;    /* [max_num_seqs] */
    struct score_span *spans; /* [max_num_seqs] */
    int32_t n, n_spans, n_tokens;
    int mark;
    int waits; /* 1: nothing can be launched after it before it is collected */
    int32_t n_logprobs, n_candidates, n_prompt_logprobs; /* entries of a row of the results */
    int64_t launched;                                    /* ns */
};

/* The step that is being described, for a device that samples. */
struct launcher {
    struct sample_row *rows;  /* [max_num_seqs] */
    struct graph_link *links; /* [max_num_seqs, SAMPLE_MAX_ROUNDS] */
    struct graph_turn *turns; /* the same */
    int32_t *tokens;          /* [max_num_seqs] of the step that is collected */
    int32_t *scored;          /* [max_num_batched_tokens] */
    int32_t *followers;       /* the same */
    struct device_step step;  /* described last */
};

/* What llm_engine_stats reads; written by the engine's thread once a step. */
struct engine_counters {
    _Atomic int32_t n_running, n_waiting, n_used, n_peak, n_pinned;
    _Atomic uint64_t n_steps, n_prompt_tokens, n_output_tokens, n_preemptions, n_prefix_queries,
        n_prefix_hits, n_finished, busy_ns, wait_ns;
    _Atomic double waste;
    struct histogram step_tokens, token_gap;
};

struct llm_engine {
    /* constant once open */
    struct engine_config config;
    struct request_limits limits;
    struct engine_model model;
    struct llm_model_info info;
    pthread_t thread;

    /* anybody's */
    struct mailbox inbox;
    _Atomic int cancels, forget, stop; /* 1: some request is cancelled; forget prefixes; end the thread */
    _Atomic int failed;                /* 1: `error` is set and constant */
    _Atomic int map_wanted;            /* 1: somebody wants a picture of the pages */
    _Atomic uint8_t *map;              /* [n_pages]; drawn by the engine's thread, read by anybody */
    struct llm_error error;
    _Atomic uint64_t n_submitted;
    _Atomic int32_t n_queued; /* submitted, not scheduled yet */
    struct engine_counters counters;
    struct policy_book policies;
    struct admission admission; /* partly the engine's thread's */

    /* the engine's thread's */
    struct kv_pool kv;
    struct pins pins;
    struct scheduler scheduler;
    struct batch_buffers batch;
    struct sampler *samplers; /* [model.n_workers] */
    float *logits;            /* [ENGINE_LOGIT_ROWS, vocab_size] */
    int32_t rows[ENGINE_LOGIT_ROWS];
    struct policy_desk desk;
    struct policy_job jobs[ENGINE_LOGIT_ROWS];
    struct plan *plan;
    struct step steps[2];
    struct step *flying; /* launched, not collected; null: none */
    int mark;            /* of the last step launched */
    struct pace pace;
    struct launcher launcher; /* if the model samples */
    struct seating seating;
    int64_t now; /* ns, at the step's start */
    struct llm_request *requests;
    uint64_t n_steps, n_prompt_tokens, n_output_tokens, busy_ns, wait_ns;
};

/* Starts an engine over a model, which it takes whether or not this succeeds. Errors: LLM_ENOMEM, LLM_EIO. */
llm_status engine_start(const struct engine_config *config, const struct engine_model *model,
                        struct llm_engine **out, struct llm_error *err);

/* The real model: loads it on the backend that options->device names, decides all settings, fills *config,
 * *info and *out, for engine_start. Errors: those of llm_engine_open. */
llm_status decoder_model_open(const struct llm_engine_options *options, struct engine_config *config,
                              struct llm_model_info *info, struct engine_model *out, struct llm_error *err);

/* Draws e->map if it is wanted. */
void page_map_draw(struct llm_engine *e);

int64_t clock_ns(void); /* CLOCK_MONOTONIC */

#endif
