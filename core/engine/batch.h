#ifndef LLM_ENGINE_BATCH_H
#define LLM_ENGINE_BATCH_H

/* A plan as the flat arrays that the decoder reads. Engine thread only. */

#include "engine/scheduler.h"
#include "model/decoder.h"

struct batch_buffers {
    int32_t *tokens, *positions, *slots; /* [max_tokens] */
    int32_t *seq_start, *kv_len;         /* [max_seqs + 1] */
    int32_t *block_table;                /* [max_seqs, stride], mapped: only what is used is backed */
    size_t block_table_bytes;
    int32_t stride; /* pages of the longest sequence */
    struct batch batch;
};

/* Errors: LLM_ENOMEM. */
llm_status batch_init(struct batch_buffers *b, int32_t max_tokens, int32_t max_seqs, int32_t stride,
                      struct llm_error *err);
void batch_deinit(struct batch_buffers *b);

/* What a device plans by, as in struct step_shape (kernels/device.h). */
struct batch_shape {
    int32_t n_decode, max_query, max_kv;
};
struct batch_shape batch_shape_of(const struct batch *batch);

/* Item i of the plan becomes sequence i of the batch, its tokens rows seq_start[i] and on. */
const struct batch *batch_build(struct batch_buffers *b, const struct plan *plan, int32_t page_size);

#endif
