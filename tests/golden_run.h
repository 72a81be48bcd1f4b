#ifndef LLM_TESTS_GOLDEN_RUN_H
#define LLM_TESTS_GOLDEN_RUN_H

/* For tests: a model with a decoder and a KV cache, driven piece by piece without an engine. */

#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/decoder.h"
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

enum { RUN_PAGE_SIZE = 8, RUN_MAX_SEQS = 4 };

struct run {
    struct backend *backend;
    struct model *model;
    struct decoder *decoder;
    struct kv_cache kv;
    int32_t max_len, pages_a_seq;
    int32_t *block_table; /* [RUN_MAX_SEQS, pages_a_seq]; pages interleaved and backwards */
};

/* Tokens [begin, end) of a sequence, to be run in one batch with others. */
struct piece {
    int32_t seq, begin, end;
    const int32_t *ids; /* of the whole sequence */
};

/* The backend for an instruction set; null if this machine has not got it. */
static struct backend *run_backend(const char *isa, int32_t n_threads)
{
    struct llm_error err;
    struct backend *be = NULL;
    struct cpu_options options = {n_threads, isa};
    llm_status st = cpu_backend_open(&options, &be, &err);
    if (st == LLM_EINVAL) return NULL;
    assert_int_equal(st, LLM_OK);
    return be;
}

static void run_open(struct run *r, struct backend *be, const struct model_options *options, int32_t max_len,
                     int32_t max_tokens, enum llm_dtype kv_dtype)
{
    struct llm_error err = {0};
    *r = (struct run){.backend = be, .max_len = max_len};
    if (model_open(be, options, &r->model, &err)) fail_msg("model_open: %s", err.message);
    struct decoder_options d = {max_tokens, RUN_MAX_SEQS, max_len};
    if (decoder_open(r->model, &d, &r->decoder, &err)) fail_msg("decoder_open: %s", err.message);
    r->pages_a_seq = (max_len + RUN_PAGE_SIZE - 1) / RUN_PAGE_SIZE;
    const struct model_config *c = &r->model->config;
    r->kv = (struct kv_cache){.n_pages = RUN_MAX_SEQS * r->pages_a_seq,
                              .page_size = RUN_PAGE_SIZE,
                              .n_layers = c->n_layers,
                              .n_kv_heads = c->n_kv_heads,
                              .head_dim = c->head_dim,
                              .dtype = kv_dtype};
    r->kv.page_bytes = be->kv_page_bytes(be, &r->kv);
    r->kv.base = be->alloc(be, r->kv.page_bytes * (size_t)r->kv.n_pages);
    assert_non_null(r->kv.base);
    r->block_table = malloc(sizeof(int32_t) * (size_t)r->kv.n_pages);
    for (int32_t s = 0; s < RUN_MAX_SEQS; s++)
        for (int32_t p = 0; p < r->pages_a_seq; p++)
            r->block_table[s * r->pages_a_seq + p] = r->kv.n_pages - 1 - (p * RUN_MAX_SEQS + s);
}

static void run_close(struct run *r)
{
    r->backend->free(r->backend, r->kv.base, r->kv.page_bytes * (size_t)r->kv.n_pages);
    decoder_close(r->decoder);
    model_close(r->model);
    free(r->block_table);
}

/* One batch. logits of all rows, in order: [rows, vocab], or of each piece's last row only. */
static void run_batch(struct run *r, int32_t n_pieces, const struct piece *pieces, int last_only,
                      float *logits)
{
    int32_t n = 0, total = 0;
    for (int32_t i = 0; i < n_pieces; i++) total += pieces[i].end - pieces[i].begin;
    int32_t *a = malloc(sizeof(int32_t) * ((size_t)total * 4 + 1)), *tokens = a, *positions = a + total;
    int32_t *slots = a + 2 * total, *rows = a + 3 * total, n_rows = 0;
    int32_t seq_start[RUN_MAX_SEQS + 1], kv_len[RUN_MAX_SEQS];
    int32_t *table = malloc(sizeof(int32_t) * (size_t)(n_pieces * r->pages_a_seq));
    for (int32_t i = 0; i < n_pieces; i++) {
        const struct piece *p = &pieces[i];
        int32_t *pages = r->block_table + p->seq * r->pages_a_seq;
        seq_start[i] = n;
        kv_len[i] = p->end;
        memcpy(table + i * r->pages_a_seq, pages, sizeof(int32_t) * (size_t)r->pages_a_seq);
        for (int32_t t = p->begin; t < p->end; t++, n++) {
            tokens[n] = p->ids[t];
            positions[n] = t;
            slots[n] = pages[t / RUN_PAGE_SIZE] * RUN_PAGE_SIZE + t % RUN_PAGE_SIZE;
            if (!last_only || t == p->end - 1) rows[n_rows++] = n;
        }
    }
    seq_start[n_pieces] = n;
    struct batch batch = {total,     n_pieces, tokens, positions,     slots,
                          seq_start, kv_len,   table,  r->pages_a_seq};
    struct llm_error err;
    assert_int_equal(decoder_forward(r->decoder, &r->kv, &batch, &err), LLM_OK);
    assert_int_equal(decoder_logits(r->decoder, rows, n_rows, logits, &err), LLM_OK);
    free(a);
    free(table);
}

#endif
