/* A decode step's kernels on a GPU, in the order in which the decoder calls them: microseconds a layer of all
 * of them, and what is saved where one kind is left out, which is what it costs among the others. Shape of
 * Llama-3.1-8B, bf16; weights of four layers in turn, and KV of every layer, so that nothing stays in the
 * cache.
 *
 *   bench_cuda_step [CONTEXT [ROWS…]] */

#define _GNU_SOURCE
#include "kernels/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum {
    HIDDEN = 4096,
    WIDE = 14336,
    QKV = 6144,
    HEADS = 32,
    KV_HEADS = 8,
    DIM = 128,
    LAYERS = 32,
    COPIES = 4,
    PAGE = 64,
    MAX_ROWS = 256,
    MAX_CONTEXT = 32768,
    REPLAYS = 9
};

enum part { LINEAR = 1, ROPE = 2, ATTENTION = 4, ALL = 7 };

struct bench {
    struct backend *be;
    struct weight *qkv[COPIES], *o[COPIES], *up[COPIES], *down[COPIES];
    char *x, *rows, *attn, *inner;
    float *norm, *rope_table;
    int32_t *seq_start, *kv_len, *positions, *slots, *table;
    struct kv_cache kv;
    int32_t n, context, pages; /* rows; tokens and pages of each */
};

static void check(struct bench *b, llm_status status)
{
    if (status == LLM_OK) return;
    fprintf(stderr, "bench_cuda_step: %s\n", b->be->device->failure(b->be));
    exit(1);
}

static void *memory(struct bench *b, size_t bytes)
{
    void *p = b->be->alloc(b->be, bytes);
    if (p) return p;
    fprintf(stderr, "bench_cuda_step: no device memory for %zu MiB\n", bytes >> 20);
    exit(1);
}

static void *random_rows(struct bench *b, int64_t n)
{
    static uint64_t state = 99;
    void *p = memory(b, 2 * (size_t)n);
    check(b, b->be->device->fill(b->be, p, DTYPE_BF16, n, state++, 1));
    return p;
}

static struct weight *random_weight(struct bench *b, int32_t n_in, int32_t n_out, int gated)
{
    static uint64_t state = 1;
    struct weight *w = NULL;
    struct llm_error err = {0};
    struct weight_spec spec = {.n_parts = 1 + gated, .layout = gated ? WEIGHT_GATED : WEIGHT_PLAIN};
    for (int i = 0; i < spec.n_parts; i++) {
        spec.part[i] = (struct tensor){DTYPE_BF16, 2, {n_out / spec.n_parts, n_in}, NULL};
        spec.random_state[i] = state++ * 0x123456789ABCDEFu;
        spec.random_deviation[i] = 0.02f;
    }
    if (b->be->weight_create(b->be, &spec, &w, &err) == LLM_OK) return w;
    fprintf(stderr, "bench_cuda_step: %s\n", err.message);
    exit(1);
}

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static void settle(struct bench *b)
{
    check(b, b->be->device->set_mark(b->be, 0));
    check(b, b->be->device->wait_mark(b->be, 0));
}

/* ---- the layer ----------------------------------------------------------------------------------------- */

static void layer_linears(struct bench *b, int32_t layer)
{
    const int32_t c = layer % COPIES;
    const struct norm norm = {NORM_RMS, 1e-5f, b->norm, NULL};
    const struct linear_args all[] = {
        {.x = b->attn,
         .x_stride = HIDDEN,
         .w = b->o[c],
         .epilogue = LINEAR_ADD,
         .y = b->x,
         .y_stride = HIDDEN},
        {.x = b->x,
         .x_stride = HIDDEN,
         .norm = norm,
         .w = b->up[c],
         .epilogue = LINEAR_GATED,
         .act = ACT_SILU,
         .y = b->inner,
         .y_stride = WIDE},
        {.x = b->inner,
         .x_stride = WIDE,
         .w = b->down[c],
         .epilogue = LINEAR_ADD,
         .y = b->x,
         .y_stride = HIDDEN},
        {.x = b->x, .x_stride = HIDDEN, .norm = norm, .w = b->qkv[c], .y = b->rows, .y_stride = QKV}};
    for (int i = 0; i < 4; i++) {
        struct linear_args a = all[i];
        a.n_rows = b->n;
        check(b, b->be->linear(b->be, &a));
    }
}

static void layer_rope(struct bench *b, int32_t layer)
{
    const struct rope_kv_args a = {.n_tokens = b->n,
                                   .n_heads = HEADS,
                                   .qkv = b->rows,
                                   .qkv_stride = QKV,
                                   .rope = ROPE_NEOX,
                                   .rotary_dim = DIM,
                                   .rope_table = b->rope_table,
                                   .positions = b->positions,
                                   .slots = b->slots,
                                   .kv = &b->kv,
                                   .layer = layer};
    check(b, b->be->rope_kv(b->be, &a));
}

static void layer_attention(struct bench *b, int32_t layer)
{
    const struct attention_args a = {.n_seqs = b->n,
                                     .n_heads = HEADS,
                                     .q = b->rows,
                                     .q_stride = QKV,
                                     .seq_start = b->seq_start,
                                     .kv_len = b->kv_len,
                                     .block_table = b->table,
                                     .block_table_stride = b->pages,
                                     .scale = 0.088f,
                                     .kv = &b->kv,
                                     .layer = layer,
                                     .out = b->attn,
                                     .out_stride = HIDDEN};
    check(b, b->be->attention(b->be, &a));
}

static void enqueue(struct bench *b, int parts)
{
    const struct step_shape step = {.n_tokens = b->n,
                                    .n_seqs = b->n,
                                    .n_decode = b->n,
                                    .max_kv = b->context,
                                    .seq_start = b->seq_start,
                                    .kv_len = b->kv_len};
    check(b, b->be->device->begin(b->be, &step));
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        if (parts & ROPE) layer_rope(b, layer);
        if (parts & ATTENTION) layer_attention(b, layer);
        if (parts & LINEAR) layer_linears(b, layer);
    }
}

/* Least microseconds a layer, over some replays. */
static double time_of(struct bench *b, int parts)
{
    struct device_recording *r;
    double least = 1e30;
    enqueue(b, parts);
    check(b, b->be->device->record(b->be));
    enqueue(b, parts);
    check(b, b->be->device->recorded(b->be, &r));
    for (int i = 0; i < REPLAYS; i++) {
        settle(b);
        const double begin = now_us();
        check(b, b->be->device->replay(b->be, r));
        settle(b);
        const double us = now_us() - begin;
        if (us < least) least = us;
    }
    b->be->device->recording_free(b->be, r);
    return least / LAYERS;
}

/* ---- the batch ----------------------------------------------------------------------------------------- */

/* n sequences of `context` tokens, whose pages are dealt to them in turn. */
static void lay_out(struct bench *b, int32_t n)
{
    int32_t start[MAX_ROWS + 1], len[MAX_ROWS], position[MAX_ROWS], slot[MAX_ROWS];
    int32_t *table = malloc((size_t)n * (size_t)b->pages * sizeof *table);
    for (int32_t i = 0; i < n; i++) {
        for (int32_t p = 0; p < b->pages; p++) table[i * b->pages + p] = p * n + i;
        start[i] = i;
        len[i] = b->context;
        position[i] = b->context - 1;
        slot[i] = table[i * b->pages + position[i] / PAGE] * PAGE + position[i] % PAGE;
    }
    start[n] = n;
    b->n = n;
    check(b, b->be->device->upload(b->be, b->seq_start, start, sizeof start));
    check(b, b->be->device->upload(b->be, b->kv_len, len, sizeof len));
    check(b, b->be->device->upload(b->be, b->positions, position, sizeof position));
    check(b, b->be->device->upload(b->be, b->slots, slot, sizeof slot));
    check(b, b->be->device->upload(b->be, b->table, table, (size_t)n * (size_t)b->pages * sizeof *table));
    free(table);
}

static void open_bench(struct bench *b, int32_t max_rows)
{
    struct llm_error err = {0};
    const struct backend_limits limits = {.max_rows = MAX_ROWS,
                                          .max_n = 2 * WIDE,
                                          .max_seqs = MAX_ROWS,
                                          .max_model_len = MAX_CONTEXT,
                                          .n_heads = HEADS,
                                          .head_dim = DIM};
    if (cuda_backend_open(&(struct cuda_options){.act_dtype = DTYPE_BF16}, &b->be, &err) ||
        b->be->reserve(b->be, &limits, &err)) {
        fprintf(stderr, "bench_cuda_step: %s\n", err.message);
        exit(1);
    }
    for (int i = 0; i < COPIES; i++) {
        b->qkv[i] = random_weight(b, HIDDEN, QKV, 0);
        b->o[i] = random_weight(b, HIDDEN, HIDDEN, 0);
        b->up[i] = random_weight(b, HIDDEN, 2 * WIDE, 1);
        b->down[i] = random_weight(b, WIDE, HIDDEN, 0);
    }
    b->x = random_rows(b, MAX_ROWS * HIDDEN);
    b->rows = random_rows(b, MAX_ROWS * QKV);
    b->attn = random_rows(b, MAX_ROWS * HIDDEN);
    b->inner = random_rows(b, MAX_ROWS * WIDE);
    b->norm = memory(b, HIDDEN * sizeof *b->norm);
    check(b, b->be->device->fill(b->be, b->norm, DTYPE_F32, HIDDEN, 8, 1));
    b->rope_table = memory(b, (size_t)b->context * DIM * sizeof *b->rope_table);
    b->pages = (b->context + PAGE - 1) / PAGE;
    b->seq_start = memory(b, (MAX_ROWS + 1) * sizeof(int32_t));
    b->kv_len = memory(b, MAX_ROWS * sizeof(int32_t));
    b->positions = memory(b, MAX_ROWS * sizeof(int32_t));
    b->slots = memory(b, MAX_ROWS * sizeof(int32_t));
    b->table = memory(b, (size_t)max_rows * (size_t)b->pages * sizeof(int32_t));
    b->kv = (struct kv_cache){.n_pages = max_rows * b->pages,
                              .page_size = PAGE,
                              .n_layers = LAYERS,
                              .n_kv_heads = KV_HEADS,
                              .head_dim = DIM,
                              .dtype = DTYPE_BF16};
    b->kv.page_bytes = b->be->kv_page_bytes(b->be, &b->kv);
    const size_t bytes = b->kv.page_bytes * (size_t)b->kv.n_pages;
    b->kv.base = random_rows(b, (int64_t)(bytes / 2));
}

int main(int argc, char **argv)
{
    struct bench b = {.context = argc > 1 ? atoi(argv[1]) : 1024};
    int32_t rows[MAX_ROWS] = {1, 4, 16, 32, 64};
    int n_rows = argc > 2 ? argc - 2 : 5;
    int32_t max_rows = 1;
    for (int i = 0; i < n_rows && i < MAX_ROWS; i++) {
        if (argc > 2) rows[i] = atoi(argv[i + 2]);
        if (rows[i] > max_rows) max_rows = rows[i];
        if (b.context < 1 || b.context > MAX_CONTEXT || rows[i] < 1 || rows[i] > MAX_ROWS) {
            fprintf(stderr, "usage: bench_cuda_step [CONTEXT [ROWS…]], up to %d and %d\n", MAX_CONTEXT,
                    MAX_ROWS);
            return 2;
        }
    }
    open_bench(&b, max_rows);
    printf("%s; context %d; us a layer\n", cuda_backend_describe(b.be), b.context);
    for (int i = 0; i < n_rows; i++) {
        lay_out(&b, rows[i]);
        const double all = time_of(&b, ALL), linear = time_of(&b, LINEAR);
        printf("rows %3d: all %7.2f  linear alone %7.2f  rope alone %5.2f, of all %5.2f  attention alone "
               "%6.2f, of all "
               "%6.2f\n",
               rows[i], all, linear, time_of(&b, ROPE), all - time_of(&b, ALL & ~ROPE),
               time_of(&b, ATTENTION), all - time_of(&b, ALL & ~ATTENTION));
    }
    b.be->close(b.be);
    return 0;
}
