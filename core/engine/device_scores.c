/* Scores of prompts (prompt_logprobs). The head is multiplied with a slab of rows at a time, and of its
 * logits the device keeps what was asked for: a few numbers a row, where a row of logits is half a megabyte.
 */

#include "engine/device_io.h"

#include <string.h>

/* Rows of a slab: the head's weights are read once for each. */
enum { SLAB_ROWS = 256 };

int32_t device_logit_rows(const struct engine_config *config)
{
    return config->max_num_seqs > SLAB_ROWS ? config->max_num_seqs : SLAB_ROWS;
}

size_t device_scores_bytes(const struct engine_config *config)
{
    return (size_t)config->max_num_batched_tokens * (1 + SAMPLE_MAX_LOGPROBS) * sizeof(struct sample_logprob);
}

llm_status device_scores_open(struct decoder_model *m, const struct engine_config *config,
                              struct llm_error *err)
{
    const struct device_ops *ops = m->io->ops;
    struct score_room *room = &m->io->scores;
    room->bytes = device_scores_bytes(config);
    int made = !!(room->scores = m->backend->alloc(m->backend, room->bytes));
    for (int k = 0; k < 2; k++) made &= !!(room->pinned[k] = ops->alloc_pinned(m->backend, room->bytes));
    if (made) return LLM_OK;
    return llm_fail(err, LLM_ENOMEM,
                    "no memory for the log-probabilities of %d prompt tokens (%zu bytes): set "
                    "max_num_batched_tokens lower",
                    (int)config->max_num_batched_tokens, room->bytes);
}

void device_scores_close(struct decoder_model *m)
{
    struct score_room *room = &m->io->scores;
    for (int k = 0; k < 2; k++) m->io->ops->free_pinned(m->backend, room->pinned[k]);
    m->backend->free(m->backend, room->scores, room->bytes);
}

void device_scores_fill(const struct device_io *io, char *pinned, const struct device_step *step)
{
    int32_t *to = (int32_t *)(void *)(pinned + io->layout.scored);
    size_t n = (size_t)step->n_scored;
    if (n == 0) return;
    memcpy(to, step->scored, n * sizeof *to);
    memcpy(to + n, step->followers, n * sizeof *to);
}

llm_status device_scores_queue(struct decoder_model *m, const struct queued *q, struct llm_error *err)
{
    const struct device_io *io = m->io;
    const int32_t *rows = (const int32_t *)(const void *)(io->device + io->layout.scored);
    size_t width = (size_t)(1 + q->n_prompt_logprobs), n = (size_t)q->n_scored;
    llm_status st = LLM_OK;
    for (int32_t i = 0; i < q->n_scored && !st; i += io->max_logit_rows) {
        struct score_args a = {.n = q->n_scored - i < io->max_logit_rows ? q->n_scored - i
                                                                         : io->max_logit_rows,
                               .vocab_size = io->vocab_size,
                               .n_logprobs = q->n_prompt_logprobs,
                               .tokens = rows + q->n_scored + i,
                               .logits = io->logits,
                               .logits_stride = io->vocab_size,
                               .out = io->scores.scores + (size_t)i * width};
        st = decoder_logits(m->decoder, rows + i, a.n, io->logits, err);
        if (!st && io->ops->sampling->score(m->backend, &a)) st = device_failed(m, err);
    }
    if (st) return st;
    size_t bytes = n * width * sizeof *io->scores.scores;
    return io->ops->copy_out(m->backend, io->scores.pinned[q->mark], io->scores.scores, bytes)
               ? device_failed(m, err)
               : LLM_OK;
}
