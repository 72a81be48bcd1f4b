#ifndef LLM_MODEL_DECODER_H
#define LLM_MODEL_DECODER_H

/* THE decoder: one forward pass over a batch of sequences at any stage (whole prompts, chunks of prompts,
 * single tokens, all mixed), for every family. Owns only scratch memory, sized at open. Engine thread only.
 */

#include "base/status.h"
#include "model/model.h"

struct decoder;

/* What one step computes. Built by core/engine/batch.c from the scheduler's plan; borrowed for the call. The
 * arrays are in memory of the backend.
 * Sequence s has rows seq_start[s] .. seq_start[s+1]-1, consecutive positions ending at kv_len[s] - 1. */
struct batch {
    int32_t n_tokens, n_seqs;
    const int32_t *tokens;      /* [n_tokens] ids */
    const int32_t *positions;   /* [n_tokens] */
    const int32_t *slots;       /* [n_tokens] where their KV goes: page * page_size + offset */
    const int32_t *seq_start;   /* [n_seqs + 1] */
    const int32_t *kv_len;      /* [n_seqs] tokens in the cache after this step */
    const int32_t *block_table; /* [n_seqs, block_table_stride] page numbers */
    int32_t block_table_stride;
};

/* max_tokens: of one batch. max_seqs: of one batch. max_model_len: longest sequence; rotation tables are made
 * for it. */
struct decoder_options {
    int32_t max_tokens, max_seqs, max_model_len;
};

/* Errors: LLM_ENOMEM, LLM_EINVAL (max_model_len beyond what the model's positions allow). */
llm_status decoder_open(const struct model *model, const struct decoder_options *options,
                        struct decoder **out, struct llm_error *err);
void decoder_close(struct decoder *decoder);

/* Lets a device find out how the model's linear layers are done fastest, so that no request waits for that:
 * by those of the first layer, which the others are like, and by the head for up to n_rows rows of logits
 * [n_rows, vocab]. Elsewhere it does nothing. Errors: LLM_EFAILED. */
llm_status decoder_tune(struct decoder *decoder, float *logits, int32_t n_rows, struct llm_error *err);

/* Runs all layers; writes K and V of the batch's tokens to the cache, keeps the last hidden states for
 * decoder_logits. Errors: LLM_EFAILED (a device). No allocation. */
llm_status decoder_forward(struct decoder *decoder, const struct kv_cache *kv, const struct batch *batch,
                           struct llm_error *err);

/* Logits of the given rows of the batch just run, in the order given: the rest of the last layer, final norm,
 * head, soft-cap. rows [n_rows] and out [n_rows, vocab] f32 are in memory of the backend. At most max_tokens
 * rows a call; a caller that wants many asks in slices, so that the logits of a whole prompt never exist at
 * once. Errors: LLM_EINVAL (a row that the batch does not have), LLM_EFAILED. */
llm_status decoder_logits(struct decoder *decoder, const int32_t *rows, int32_t n_rows, float *out,
                          struct llm_error *err);

#endif
