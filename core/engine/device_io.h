#ifndef LLM_ENGINE_DEVICE_IO_H
#define LLM_ENGINE_DEVICE_IO_H

/* What the parts of a device's steps share: device_model.c says what is computed, device_seats.c how tokens
 * come of it where that is more than plain sampling, device_scores.c how prompts are scored. */

#include "engine/decoder_model.h"

enum { MAX_SIZES = 64 };

/* Arrays of a step, the same in pinned memory and on the device. */
struct layout {
    size_t from, positions, slots, kv_len, rows, seq_start,
        sample;                                   /* offsets; [max_seqs] but for seq_start */
    size_t wide_from, wide_positions, wide_slots; /* [max_tokens] */
    size_t scored; /* [2 * max_tokens] n_scored rows of the batch, then the tokens that follow them */
    size_t table;  /* [max_seqs, stride]; pinned: INTAKE_TABLE_HEAD, [n_seqs, pages of the longest] */
    size_t bytes;
};

struct recording {
    int32_t n_seqs;
    int seen; /* 1: has run once, so all that is made lazily is there */
    struct device_recording *recorded;
};

/* A step that ends in tokens, or in logits. */
enum recording_kind { RECORD_TOKENS, RECORD_LOGITS, N_RECORDINGS };

/* A step as it is queued or recorded: everything in it is on the device. */
struct queued {
    int32_t n_tokens, n_seqs, n_decode, max_query, max_kv, n_rows;
    int wide, samples; /* samples: plainly */
    int32_t n_scored, n_prompt_logprobs;
    int mark; /* whose scores they are */
};

/* Memory of seats, and of what comes of them. */
struct seat_room {
    struct seats seats; /* n == 0: none, and nothing below but links, candidates and logprobs */
    char *memory;       /* of all arrays on the device */
    size_t bytes;
    struct graph_link *links; /* [max_seqs, SAMPLE_MAX_ROUNDS] */
    struct seat_fill *fills;  /* [max_seqs] */
    struct sample_state *state;
    struct sample_candidate *candidates;
    struct sample_logprob *logprobs;
    /* pinned, one a mark */
    struct graph_link *links_pinned[2];
    struct seat_fill *fills_pinned[2];
    struct sample_candidate *candidates_pinned[2];
    struct sample_logprob *logprobs_pinned[2];
    int32_t *tokens_pinned[2]; /* [max_seqs] that hooks have chosen */
    int32_t n_fills;           /* of the step to come */
    char *staging[2];          /* what seats are filled from */
    size_t staging_used;       /* of that of the step to come */
    float *tickets;            /* [EXCHANGE_TICKETS or max_seqs, vocab_size] rows on the host */
};

/* Scores of prompts, [max_tokens, 1 + SAMPLE_MAX_LOGPROBS] at most, as wide as the step's. */
struct score_room {
    struct sample_logprob *scores, *pinned[2];
    size_t bytes;
};

struct device_io {
    const struct device_ops *ops;
    struct layout layout;
    int32_t max_tokens, max_seqs, stride, scratch_page, max_model_len, max_logit_rows, vocab_size;
    char *pinned[2], *device;
    struct sampled *out_pinned[2]; /* [max_seqs] */
    int turn;                      /* whose pinned buffers the next step has; the device counts it too */
    int turn_of[2];                /* of the step with a mark */
    int32_t *device_turn;
    int32_t *tokens;     /* [max_tokens] after feeding */
    int32_t *last;       /* [2 * max_seqs] */
    struct sampled *out; /* [max_seqs] */
    float *logits;       /* [max_logit_rows, vocab_size] */
    size_t tokens_bytes, last_bytes, out_bytes, logits_bytes;
    struct recording sizes[N_RECORDINGS][MAX_SIZES];
    int32_t n_sizes;
    struct seat_room room;
    struct score_room scores;
};

llm_status device_failed(const struct decoder_model *m, struct llm_error *err);

/* Everything that the stages of sampling need of this step, but seats. */
struct sample_args device_sample_args(const struct decoder_model *m, int32_t n_rows);

/* ---- device_seats.c ------------------------------------------------------------------------------------ */

/* Bytes on the device for seats and results, and for how many seats: one for each sequence if that is at most
 * 1/32 of the device's memory. */
size_t device_seats_bytes(const struct decoder_model *m, const struct engine_config *config, size_t total,
                          int32_t *n_seats);
/* Errors: LLM_ENOMEM. */
llm_status device_seats_open(struct decoder_model *m, const struct engine_config *config,
                             struct llm_error *err);
void device_seats_close(struct decoder_model *m);

/* ---- device_scores.c ----------------------------------------------------------------------------------- */

/* Rows of logits that are on the device at once. */
int32_t device_logit_rows(const struct engine_config *config);
/* Bytes on the device for scores. */
size_t device_scores_bytes(const struct engine_config *config);
/* Errors: LLM_ENOMEM. */
llm_status device_scores_open(struct decoder_model *m, const struct engine_config *config,
                              struct llm_error *err);
void device_scores_close(struct decoder_model *m);
/* Puts what a step scores where it is staged. */
void device_scores_fill(const struct device_io *io, char *pinned, const struct device_step *step);
/* Queues the scoring of the step whose layers have been queued, which uses the memory of logits, and the copy
 * of the scores to the host. */
llm_status device_scores_queue(struct decoder_model *m, const struct queued *q, struct llm_error *err);

/* ---- all ----------------------------------------------------------------------------------------------- */

/* Offset of the next array in memory laid out so far up to *total. */
static inline size_t device_place(size_t *total, size_t count, size_t size)
{
    size_t at = *total;
    *total += (count * size + 255) / 256 * 256;
    return at;
}

/* Where the results of the step with this mark are, pinned. */
static inline struct sampled *device_results(const struct device_io *io, int mark)
{
    return io->out_pinned[io->turn_of[mark]];
}

/* Queues the fills noted for this mark: before the step. */
llm_status device_seats_settle(struct decoder_model *m, int mark, struct llm_error *err);
/* Queues the stages of a step whose logits are there: up to its hooks if it has any, else to its results. */
llm_status device_tail(struct decoder_model *m, const struct device_step *step, struct llm_error *err);

/* The functions of struct device_seats (engine.h). */
llm_status device_seat_fill(void *self, int mark, const struct seat_content *content, struct llm_error *err);
llm_status device_seat_variables(void *self, int32_t seat, double *out, int32_t n, struct llm_error *err);
llm_status device_adjusted(void *self, int mark, const struct sampled **rows, struct llm_error *err);
llm_status device_fetch(void *self, int32_t ticket, int32_t seat, struct llm_error *err);
llm_status device_await(void *self, int32_t ticket, float **row, struct llm_error *err);
llm_status device_give_back(void *self, int32_t ticket, int32_t seat, int32_t from, int32_t n,
                            struct llm_error *err);
llm_status device_resume(void *self, const struct device_step *step, struct llm_error *err);

/* The table of graphs, empty if the backend compiles none. */
struct graph_device device_graphs(struct decoder_model *m);

#endif
