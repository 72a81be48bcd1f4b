#ifndef LLM_KERNELS_SAMPLING_H
#define LLM_KERNELS_SAMPLING_H

/* Sampling on a device, in the one order there is (core/engine/sampler.h, policy_sample.h):
 *
 *   raw logits
 *   adjust      what the request asks of its logits: allowed tokens, bad words, min_tokens, bias, penalties
 *   (hooks)     the host looks at rows that ask for it, and may change them; check looks at what it left
 *   graphs      policy graphs, in rounds: the first of each row's chain, the second, ...
 *   sample      temperature, min_p, top_k, top_p and a draw, of rows that no graph has given a token
 *   candidates  the likeliest of what sample drew from
 *   logprobs    of the raw row: of the token, and the likeliest
 *
 * Each stage is an op over all rows of a step, and concerns the rows that ask for it; a step queues the
 * stages that some row asks for. Raw logits are never written.
 *
 * What a sequence brings beyond a few numbers has a seat: memory that its sequence keeps from step to step,
 * and that the device itself brings up to date with each token. The host can fill a seat anew at any time,
 * and must after it has advanced the sequence by itself. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct graph;
struct graph_args;

enum {
    SEAT_WORDS = 4096,        /* of lists; what needs more is sampled by the host */
    SEAT_VARIABLES = 256,     /* f64, of all graphs of a chain */
    SAMPLE_MAX_ROUNDS = 4,    /* graphs a row */
    SAMPLE_MAX_LOGPROBS = 64, /* likeliest a row; more: by the host */
    SAMPLE_MAX_CANDIDATES = 256
};

/* ---- seats --------------------------------------------------------------------------------------------- */

enum {
    SEAT_ALLOWED = 1, /* its bits in seats.allowed say which tokens may come */
    SEAT_COUNTED = 2  /* its counts are kept: for penalties, or graphs that use them */
};

/* Constant while the sequence sits. The lists lie one after the other in `words`: n_bias tokens (none twice),
 * n_bias f32 values, n_young tokens, n_bad_words numbers that say where each word ends in the list that
 * follows, and that list: the ids of all words. A word has one id at least. */
struct seat {
    uint32_t flags;
    int32_t n_prompt;
    int32_t n_bias, n_young, n_bad_words;
    int32_t min_tokens; /* the young tokens are banned before the output has so many */
    float repetition_penalty, frequency_penalty, presence_penalty;
    int32_t words[SEAT_WORDS];
};

/* Bit of seats.counts: the prompt has the token. The others count the output's. */
#define SEAT_IN_PROMPT 0x80000000u

/* All seats, on the device. */
struct seats {
    int32_t n, max_len, vocab_size;
    struct seat *seat; /* [n] */
    int32_t *history;  /* [n, max_len] tokens of the prompt and the output */
    uint32_t *counts;  /* [n, vocab_size] */
    uint32_t *allowed; /* [n, seat_bit_words(vocab_size)] bit t % 32 of word t / 32 */
    double *variables; /* [n, SEAT_VARIABLES] of policy graphs */
    float *work;       /* [n, 2, vocab_size] the row between stages, by turns */
};

static inline int32_t seat_bit_words(int32_t vocab_size)
{
    return (vocab_size + 31) / 32;
}

/* A seat whose `seat`, `allowed` (if SEAT_ALLOWED), `variables` and `history` [n] have been copied in. The op
 * makes its counts, of all tokens but the last: that one is counted, like every later one, by the step whose
 * row it is fed to. n >= 1. */
struct seat_fill {
    int32_t seat, n;
};

/* ---- rows ---------------------------------------------------------------------------------------------- */

enum { SAMPLE_HOOKED = 1 /* the host sees its row: adjust leaves it in half 0 of the seat's work */ };

/* How one row is sampled: llm_sampling's parameters, to the same token for the same row as the host. */
struct sample_row {
    int32_t
        row; /* of the batch: tokens[row] is the last token so far. Logits are by index: row i's are i's */
    int32_t slot; /* where the token goes; -1: padding */
    int32_t top_k;
    float temperature, top_p, min_p;
    uint32_t stream;
    uint64_t seed, position; /* position: in the sequence, of the token to be chosen */
    int32_t n_logprobs;      /* -1: none; 0: of the token; k: of the k likeliest too */
    int32_t seat;            /* -1: none, then nothing below, and no graph */
    uint32_t flags;
    int32_t n_candidates; /* 0: none */
};

/* A graph of a row's chain. */
struct graph_link {
    uint64_t graph;    /* device_graph_id; 0: none in this round */
    const void *args;  /* device_graph_args_block; null: the graph has no parameters */
    int32_t variables; /* of the seat's: where its own begin; after them one more, 1 if it is left out */
    int32_t place;     /* in the chain, for the report of a failure */
    int32_t forgiving; /* 1: after a failure it is left out of this sequence's rows, which the seat notes */
};

enum sample_flag {
    /* No finite logit is the largest after adjust, as where the request's parameters ban everything: the
     * token is the likeliest of the raw row; no policy is asked. Where nothing changes the row, sample
     * notices. */
    SAMPLED_BARREN = 1,
    SAMPLED_CHOSEN = 2, /* a graph has given the token */
    SAMPLED_FAILED = 4  /* a graph failed, or check did (place -1): the token is any of the vocabulary */
};

/* What comes back of a row: of one without a seat the token only. flags are begun by adjust, and may be read
 * as soon as it has run. */
struct sampled {
    int32_t token;
    uint32_t flags;
    uint32_t forgiven; /* bit p: the forgiving graph at place p of the chain has failed, in this step */
    int32_t n_candidates;
    int32_t place;          /* of the graph that failed, in the chain */
    int32_t failure, where; /* enum graph_failure, and its node or variable (graph/graph.h) */
    double number;
};

/* As struct llm_candidate and struct llm_logprob (llmlua.h). */
struct sample_candidate {
    int32_t token;
    float prob, logprob;
};
struct sample_logprob {
    int32_t token, rank;
    float logprob;
};

/* A row between the stages. Zeroed when it is allocated, and then the device's. */
struct sample_state {
    const float *at;    /* [vocab_size] its logits as they are now */
    uint32_t votes;     /* of adjust's blocks; 0 between its runs */
    float least;        /* sample leaves for candidates: logits from here on are drawn from, */
    double total;       /* and their weights' sum, */
    float max, inverse; /* with the weight exp((x - max) * inverse) */
};

/* The rows of a step, on the device. */
struct sample_args {
    int32_t n, vocab_size;
    const struct sample_row *rows;  /* [n] */
    const struct graph_link *links; /* [n, SAMPLE_MAX_ROUNDS]; null: no row has a graph */
    const int32_t *tokens;          /* of the batch, [*] */
    const float *logits;            /* [n, logits_stride] raw */
    int64_t logits_stride;
    struct seats seats;
    struct sample_state *state; /* [n] */
    int32_t *last;              /* [*] last[rows[i].slot] is row i's token, for feed of the next step */
    struct sampled *out;        /* [n] */
    struct sample_candidate *candidates; /* [n, SAMPLE_MAX_CANDIDATES] */
    struct sample_logprob *logprobs;     /* [n, 1 + SAMPLE_MAX_LOGPROBS] */
};

/* Rows of prompts, each with the token that follows it: as the logprobs stage, with as many of the likeliest
 * for all. */
struct score_args {
    int32_t n, vocab_size, n_logprobs; /* 0 .. SAMPLE_MAX_LOGPROBS */
    const int32_t *tokens;             /* [n] */
    const float *logits;               /* [n, logits_stride] raw */
    int64_t logits_stride;
    struct sample_logprob *out; /* [n, 1 + n_logprobs]: of the token, then the likeliest */
};

/* ---- policy graphs ------------------------------------------------------------------------------------- */

struct device_graph;      /* a compiled graph */
struct device_graph_args; /* a request's arguments of one */
struct backend;

/* The stages. A step that has any of them but sample and logprobs runs adjust first. Padding is left alone.
 * All enqueue, and may be recorded. Errors: LLM_EFAILED. */
struct sampling_ops {
    /* fills [n] on the device */
    llm_status (*fill_seats)(struct backend *be, const struct seat_fill *fills, int32_t n,
                             const struct seats *seats);
    llm_status (*adjust)(struct backend *be, const struct sample_args *a);
    llm_status (*check)(struct backend *be,
                        const struct sample_args *a); /* hooked rows: NaN, +inf, all banned */
    llm_status (*run_graph)(struct backend *be, const struct device_graph *g, int32_t round,
                            const struct sample_args *a);
    llm_status (*sample)(struct backend *be, const struct sample_args *a);
    llm_status (*candidates)(struct backend *be, const struct sample_args *a);
    llm_status (*logprobs)(struct backend *be, const struct sample_args *a);
    llm_status (*score)(struct backend *be, const struct score_args *a); /* no stage; n >= 1 */

    /* Any thread, while the engine's thread works. Takes up to a second, or a millisecond if it is in the
     * cache of compiled graphs. g must live until graph_close. Errors: LLM_EUNSUP (no compiler here, or more
     * than the device does: say what; the host can run the graph), LLM_ENOMEM. */
    llm_status (*graph_compile)(struct backend *be, const struct graph *g, int32_t vocab_size,
                                struct device_graph **out, struct llm_error *err);
    /* Any thread: freed when no step that was queued before can run any more. Null: nothing. */
    void (*graph_close)(struct backend *be, struct device_graph *g);
    uint64_t (*graph_id)(const struct device_graph *g); /* not 0, never used twice */

    /* The engine's thread; close: any, as above. `args` must live until then. Errors: LLM_ENOMEM,
     * LLM_EFAILED. */
    llm_status (*graph_args_open)(struct backend *be, const struct device_graph *g,
                                  const struct graph_args *args, struct device_graph_args **out,
                                  struct llm_error *err);
    void (*graph_args_close)(struct backend *be, struct device_graph_args *a);
    const void *(*graph_args_block)(const struct device_graph_args *a); /* on the device */
};

#endif
