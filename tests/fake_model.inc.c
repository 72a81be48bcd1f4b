/* Included by the tests that use it. */

#include "fake_model.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static uint64_t fake_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

static uint64_t fake_step(uint64_t state, int32_t token, int32_t position)
{
    return fake_mix(state * 31 + (uint64_t)(uint32_t)token * 0x9E3779B97F4A7C15u + (uint64_t)position + 1);
}

static void fake_row(uint64_t state, int32_t vocab_size, float *out)
{
    for (int32_t i = 0; i < vocab_size; i++)
        out[i] = (float)(fake_mix(state + (uint64_t)i * 0x9E3779B97F4A7C15u) >> 40) * 0x1p-24f * 8 - 4;
}

void fake_logits(const int32_t *tokens, int32_t n, int32_t vocab_size, float *out)
{
    uint64_t state = 0;
    for (int32_t i = 0; i < n; i++) state = fake_step(state, tokens[i], i);
    fake_row(state, vocab_size, out);
}

static llm_status fake_forward(void *self, const struct batch *b, struct llm_error *err)
{
    struct fake_model *m = self;
    int32_t calls = ++m->n_forward;
    if (m->fail_after >= 0 && calls > m->fail_after)
        return llm_fail(err, LLM_EFAILED, "the fake device broke");
    if (m->gated) sem_wait(&m->gate);
    if (b->n_tokens > m->max_tokens) return llm_fail(err, LLM_EFAILED, "batch of %d tokens", b->n_tokens);
    for (int32_t i = 0; i < b->n_tokens; i++) m->slots[b->slots[i]] = b->tokens[i];
    for (int32_t s = 0; s < b->n_seqs; s++) {
        uint64_t state = 0;
        int32_t rows = b->seq_start[s + 1] - b->seq_start[s];
        for (int32_t p = 0; p < b->kv_len[s]; p++) {
            int32_t page =
                b->block_table[(size_t)s * (size_t)b->block_table_stride + (size_t)(p / m->page_size)];
            int32_t token = m->slots[page * m->page_size + p % m->page_size];
            state = fake_step(state, token, p);
            int32_t row = b->seq_start[s] + p - (b->kv_len[s] - rows);
            if (row < b->seq_start[s]) continue;
            if (b->positions[row] != p) return llm_fail(err, LLM_EFAILED, "row %d is not at %d", row, p);
            m->state[row] = state;
        }
    }
    return LLM_OK;
}

static llm_status fake_model_logits(void *self, const int32_t *rows, int32_t n_rows, float *out,
                                    struct llm_error *err)
{
    struct fake_model *m = self;
    (void)err;
    for (int32_t i = 0; i < n_rows; i++)
        fake_row(m->state[rows[i]], m->vocab_size, out + (size_t)i * (size_t)m->vocab_size);
    return LLM_OK;
}

static llm_status fake_copy(void *self, int32_t from, int32_t to, struct llm_error *err)
{
    struct fake_model *m = self;
    (void)err;
    memcpy(m->slots + to * m->page_size, m->slots + from * m->page_size,
           sizeof *m->slots * (size_t)m->page_size);
    return LLM_OK;
}

static void fake_close(void *self)
{
    struct fake_model *m = self;
    sem_destroy(&m->gate);
    free(m->slots);
    free(m->state);
    free(m);
}

struct fake_model *fake_model_new(int32_t vocab_size, int32_t page_size, int32_t n_pages, int32_t max_tokens)
{
    struct fake_model *m = calloc(1, sizeof *m);
    *m = (struct fake_model){.vocab_size = vocab_size,
                             .page_size = page_size,
                             .n_pages = n_pages,
                             .max_tokens = max_tokens,
                             .fail_after = -1};
    m->slots = malloc(sizeof *m->slots * (size_t)n_pages * (size_t)page_size);
    memset(m->slots, 255, sizeof *m->slots * (size_t)n_pages * (size_t)page_size);
    m->state = calloc((size_t)max_tokens, sizeof *m->state);
    sem_init(&m->gate, 0, 0);
    return m;
}

struct engine_model fake_model_table(struct fake_model *m)
{
    return (struct engine_model){.self = m,
                                 .vocab_size = m->vocab_size,
                                 .forward = fake_forward,
                                 .logits = fake_model_logits,
                                 .copy_page = fake_copy,
                                 .close = fake_close};
}
