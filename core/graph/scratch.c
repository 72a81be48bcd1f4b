#include "graph/scratch.h"

#include "base/mem.h"

llm_status graph_scratch_open(int32_t vocab_size, const char *isa, struct graph_scratch **out,
                              struct llm_error *err)
{
    if (vocab_size < 1 || vocab_size > GRAPH_MAX_VOCAB)
        return llm_fail(err, LLM_EINVAL, "graphs run on vocabularies of 1 to %d tokens, not %d",
                        GRAPH_MAX_VOCAB, vocab_size);
    const struct block_isa *blocks = block_isa_find(isa);
    if (!blocks)
        return llm_fail(err, LLM_EINVAL,
                        "this machine cannot run graphs with \"%s\"; try ref, avx2 or avx512", isa);
    size_t stride = ((size_t)vocab_size + BLOCK_LANES + 63) / 64 * 64;
    size_t rows = stride * sizeof(float) * (PLAN_MAX_STORED + 2 * PLAN_MAX_TABLES + PLAN_MAX_WORK);
    size_t buffers = sizeof(float) * BLOCK * PLAN_MAX_BUFFERS;
    size_t vecs = sizeof(double) * GRAPH_MAX_NODES * GRAPH_MAX_VEC;
    struct graph_scratch *s = mem_zalloc(sizeof *s);
    char *memory = s ? mem_map(buffers + rows + vecs) : NULL;
    if (!memory) {
        mem_free(s);
        return llm_fail(err, LLM_ENOMEM, "no memory to run graphs on %d tokens", vocab_size);
    }
    s->vocab_size = vocab_size;
    s->stride = stride;
    s->isa = blocks;
    s->memory = memory;
    s->bytes = buffers + rows + vecs;
    s->vecs = (double *)memory;
    s->buffers = (float *)(memory + vecs);
    s->stored = s->buffers + BLOCK * PLAN_MAX_BUFFERS;
    s->tables = s->stored + stride * PLAN_MAX_STORED;
    s->touched = (int32_t *)(s->tables + stride * PLAN_MAX_TABLES);
    s->work = (float *)(s->touched + stride * PLAN_MAX_TABLES);
    *out = s;
    return LLM_OK;
}

void graph_scratch_close(struct graph_scratch *s)
{
    if (!s) return;
    mem_unmap(s->memory, s->bytes);
    mem_free(s);
}

const char *graph_scratch_isa(const struct graph_scratch *s)
{
    return s->isa->name;
}
