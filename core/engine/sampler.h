#ifndef LLM_ENGINE_SAMPLER_H
#define LLM_ENGINE_SAMPLER_H

/* From a row of logits to a token, with all of struct llm_sampling in vLLM's order: allowed_token_ids,
 * bad_words, min_tokens, logit_bias, penalties; then greedy choice, or temperature, min_p, top_k, top_p and a
 * draw. Log-probabilities are those of the raw row. The vocabulary is never sorted.
 *
 * A draw is a pure function of the row, the parameters and (seed, stream, position). Tokens as likely as the
 * last one that top_k or top_p keeps are kept too, so the choice does not depend on an order among equals.
 * Re-entrant: one struct sampler a thread. */

#include "engine/counts.h"
#include "llmlua.h"

struct sampler {
    int32_t vocab_size;
    float *work; /* [vocab_size] modified logits, then weights */
    float *rest; /* [vocab_size + SELECT_SLACK] candidates of a selection */
    double *sums;
};

struct token_span {
    const int32_t *ids;
    int32_t n;
};

/* What the choice depends on besides the row. */
struct sample_input {
    const struct llm_sampling *params;
    const struct token_counts *counts; /* null: no penalties */
    const struct token_span *bad_words;
    int32_t n_bad_words;
    const int32_t *end_tokens; /* masked before min_tokens */
    int32_t n_end_tokens;
    const int32_t *output; /* so far */
    int32_t n_output;
    uint64_t seed;
    uint32_t stream;
    uint64_t position; /* in the sequence, of the token drawn */
};

/* Errors: LLM_ENOMEM. */
llm_status sampler_init(struct sampler *s, int32_t vocab_size, struct llm_error *err);
void sampler_deinit(struct sampler *s);

/* 1 if the parameters need token counts. */
int sampler_counts_needed(const struct llm_sampling *params);

int32_t sampler_pick(struct sampler *s, const float *logits, const struct sample_input *in);

/* The two halves of sampler_pick, for policies that act in between. First: the row as it is before the
 * choice, `logits` itself or s->work. */
const float *sampler_adjust(struct sampler *s, const float *logits, const struct sample_input *in);
/* Then: a token, -1 if nothing is above -inf. x may be s->work, which is overwritten. best not null: also the
 * likeliest of what is drawn from, up to best->n, in order. */
struct sample_best {
    struct llm_candidate *list;
    int32_t n; /* in: room, at most LLM_MAX_CANDIDATES; out: how many */
};
int32_t sampler_choose(struct sampler *s, const float *x, const struct sample_input *in,
                       struct sample_best *best);

/* Fills row[0 .. k]: `token`, then the k likeliest. Rank counts from 1, ties by lower id. */
void sampler_logprobs(struct sampler *s, const float *logits, int32_t token, int32_t k,
                      struct llm_logprob *row);

#endif
