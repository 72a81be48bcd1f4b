/* Step 5 of 10. In: a plan. Out: tokens, positions, page tables. Next: model/decoder.c. */

#include "engine/batch.h"

#include "base/mem.h"

#include <string.h>

llm_status batch_init(struct batch_buffers *b, int32_t max_tokens, int32_t max_seqs, int32_t stride,
                      struct llm_error *err)
{
    *b = (struct batch_buffers){.stride = stride};
    b->tokens = mem_array((size_t)max_tokens, sizeof *b->tokens);
    b->positions = mem_array((size_t)max_tokens, sizeof *b->positions);
    b->slots = mem_array((size_t)max_tokens, sizeof *b->slots);
    b->seq_start = mem_array((size_t)max_seqs + 1, sizeof *b->seq_start);
    b->kv_len = mem_array((size_t)max_seqs, sizeof *b->kv_len);
    b->block_table_bytes = (size_t)max_seqs * (size_t)stride * sizeof *b->block_table;
    b->block_table = mem_map(b->block_table_bytes);
    if (b->tokens && b->positions && b->slots && b->seq_start && b->kv_len && b->block_table) return LLM_OK;
    batch_deinit(b);
    return llm_fail(err, LLM_ENOMEM, "no memory for batches of %d tokens and %d sequences", max_tokens,
                    max_seqs);
}

void batch_deinit(struct batch_buffers *b)
{
    mem_free(b->tokens);
    mem_free(b->positions);
    mem_free(b->slots);
    mem_free(b->seq_start);
    mem_free(b->kv_len);
    if (b->block_table) mem_unmap(b->block_table, b->block_table_bytes);
    *b = (struct batch_buffers){0};
}

const struct batch *batch_build(struct batch_buffers *b, const struct plan *plan, int32_t page_size)
{
    int32_t row = 0;
    for (int32_t i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        const struct sequence *q = item->sequence;
        b->seq_start[i] = row;
        b->kv_len[i] = item->start + item->n;
        memcpy(b->block_table + (size_t)i * (size_t)b->stride, q->pages,
               sizeof *q->pages * (size_t)q->n_pages);
        for (int32_t p = item->start; p < item->start + item->n; p++, row++) {
            b->tokens[row] = sequence_token(q, p);
            b->positions[row] = p;
            b->slots[row] = q->pages[p / page_size] * page_size + p % page_size;
        }
    }
    b->seq_start[plan->n_items] = row;
    b->batch = (struct batch){.n_tokens = row,
                              .n_seqs = plan->n_items,
                              .tokens = b->tokens,
                              .positions = b->positions,
                              .slots = b->slots,
                              .seq_start = b->seq_start,
                              .kv_len = b->kv_len,
                              .block_table = b->block_table,
                              .block_table_stride = b->stride};
    return &b->batch;
}

struct batch_shape batch_shape_of(const struct batch *b)
{
    struct batch_shape shape = {0};
    for (int32_t i = 0, decoding = 1; i < b->n_seqs; i++) {
        int32_t rows = b->seq_start[i + 1] - b->seq_start[i];
        decoding &= rows == 1;
        shape.n_decode += decoding;
        if (!decoding && rows > shape.max_query) shape.max_query = rows;
        if (b->kv_len[i] > shape.max_kv) shape.max_kv = b->kv_len[i];
    }
    return shape;
}
