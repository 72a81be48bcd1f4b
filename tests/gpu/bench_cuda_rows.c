/* Sampling and row operations on a CUDA device: microseconds, and the memory they read and write beside what
 * a copy of the device's memory does in the same run. */

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/device.h"

enum { VOCAB = 128256, MAX_ROWS = 256, REPS = 200 };

static struct backend *be;
static double copy_gb_s;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void settle(void)
{
    be->device->set_mark(be, 0);
    be->device->wait_mark(be, 0);
}

/* Seconds of one call, from REPS of them queued at once and recorded, so that launching is not what is timed.
 */
static double timed(void (*run)(void *), void *arg)
{
    struct device_recording *r;
    run(arg);
    settle();
    be->device->record(be);
    for (int i = 0; i < 20; i++) run(arg);
    if (be->device->recorded(be, &r)) {
        printf("%s\n", be->device->failure(be));
        exit(1);
    }
    be->device->replay(be, r);
    settle();
    double start = now();
    for (int i = 0; i < REPS / 20; i++) be->device->replay(be, r);
    settle();
    double seconds = (now() - start) / REPS;
    be->device->recording_free(be, r);
    return seconds;
}

static void report(const char *name, double seconds, double bytes)
{
    double gb_s = bytes / seconds / 1e9;
    printf("%-34s %8.1f us %9.1f GB/s %6.1f %% of a copy\n", name, seconds * 1e6, gb_s,
           100 * gb_s / copy_gb_s);
}

static void measure_copy(void)
{
    struct kv_cache kv = {.page_bytes = (size_t)2 << 30};
    kv.base = be->alloc(be, 2 * kv.page_bytes);
    be->kv_copy(be, &kv, 0, 1);
    settle();
    double start = now();
    for (int i = 0; i < 10; i++) be->kv_copy(be, &kv, 0, 1);
    settle();
    copy_gb_s = 10 * 2 * (double)kv.page_bytes / (now() - start) / 1e9;
    be->free(be, kv.base, 2 * kv.page_bytes);
    printf("%s: copies at %.0f GB/s\n", cuda_backend_describe(be), copy_gb_s);
}

/* ---- sampling ------------------------------------------------------------------------------------------ */

static void run_sample(void *arg)
{
    be->device->sampling->sample(be, arg);
}

/* MAX_ROWS rows: nearly flat, the hardest to choose from; or likely as rank^-1.5, in any order, as a model's
 * are, where 95 % of the mass are some 200 tokens. */
static float *make_logits(int peaked)
{
    size_t n = (size_t)MAX_ROWS * VOCAB;
    float *logits = be->alloc(be, n * sizeof *logits), *host = malloc(n * sizeof *host);
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(state >> 40) * 0x1p-24f - 0.5f;
        }
        /* 59999 and the vocabulary have no divisor in common: each rank comes once a row. */
        host[i] = peaked ? -1.5f * logf((float)(1 + (int64_t)(i % VOCAB) * 59999 % VOCAB)) : 3 * sum;
    }
    be->device->upload(be, logits, host, n * sizeof *host);
    free(host);
    return logits;
}

static void measure_sampling(const float *logits, const char *kind)
{
    static const struct {
        const char *name;
        float temperature, top_p, min_p;
        int32_t top_k;
    } ways[] = {{"greedy", 0, 1, 0, 0},         {"temperature", 1, 1, 0, 0},
                {"min-p 0.05", 1, 1, 0.05f, 0}, {"top-k 50", 1, 1, 0, 50},
                {"top-p 0.95", 1, 0.95f, 0, 0}, {"top-k 50, top-p 0.95", 0.8f, 0.95f, 0, 50}};
    struct sample_row *rows = be->alloc(be, MAX_ROWS * sizeof *rows);
    int32_t *last = be->alloc(be, MAX_ROWS * sizeof *last);
    struct sampled *out = be->alloc(be, MAX_ROWS * sizeof *out);
    const int32_t batches[] = {1, 64, 128};
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++)
        for (int b = 0; b < 3; b++) {
            struct sample_row table[MAX_ROWS];
            for (int32_t i = 0; i < batches[b]; i++)
                table[i] = (struct sample_row){.row = i,
                                               .slot = i,
                                               .top_k = ways[w].top_k,
                                               .temperature = ways[w].temperature,
                                               .top_p = ways[w].top_p,
                                               .min_p = ways[w].min_p,
                                               .seed = (uint64_t)i,
                                               .seat = -1};
            be->device->upload(be, rows, table, sizeof table);
            struct sample_args a = {.n = batches[b],
                                    .rows = rows,
                                    .logits = logits,
                                    .logits_stride = VOCAB,
                                    .vocab_size = VOCAB,
                                    .last = last,
                                    .out = out};
            char name[64];
            snprintf(name, sizeof name, "%s%s, %d rows", kind, ways[w].name, batches[b]);
            report(name, timed(run_sample, &a), 4.0 * VOCAB * batches[b]);
        }
    be->free(be, rows, 0), be->free(be, last, 0), be->free(be, out, 0);
}

/* ---- the other stages of sampling ---------------------------------------------------------------------- */

static void run_adjust(void *arg)
{
    be->device->sampling->adjust(be, arg);
}

static void run_check(void *arg)
{
    be->device->sampling->check(be, arg);
}

static void run_candidates(void *arg)
{
    be->device->sampling->candidates(be, arg);
}

static void run_logprobs(void *arg)
{
    be->device->sampling->logprobs(be, arg);
}

struct stage {
    const char *name;
    void (*run)(void *);
    double passes; /* over the row that it cannot do without: read or written */
    struct seat seat;
    struct sample_row row;
};

enum { STAGE_ROWS = 128, STAGE_HISTORY = 2000 };

/* One stage over rows that all ask for the same; those before it have run. */
static void measure_stage(const struct stage *g, struct sample_args *a, int32_t n)
{
    static struct sample_row rows[STAGE_ROWS];
    static struct seat seats[STAGE_ROWS];
    static struct seat_fill fills[STAGE_ROWS];
    for (int32_t i = 0; i < n; i++) {
        seats[i] = g->seat;
        rows[i] = g->row;
        rows[i].row = rows[i].slot = rows[i].seat = i;
        rows[i].position = STAGE_HISTORY;
        rows[i].seed = (uint64_t)i;
        fills[i] = (struct seat_fill){i, STAGE_HISTORY};
    }
    struct seat_fill *device_fills = be->alloc(be, sizeof fills);
    be->device->upload(be, (void *)a->rows, rows, sizeof rows);
    be->device->upload(be, a->seats.seat, seats, sizeof seats);
    be->device->upload(be, device_fills, fills, sizeof fills);
    be->device->sampling->fill_seats(be, device_fills, n, &a->seats);
    a->n = n;
    run_adjust(a);
    run_sample(a);
    char name[64];
    snprintf(name, sizeof name, "%s, %d rows", g->name, n);
    report(name, timed(g->run, a), g->passes * 4 * VOCAB * n);
    be->free(be, device_fills, sizeof fills);
}

static void measure_stages(const float *logits)
{
    const struct seat plain = {.repetition_penalty = 1}, penalized = {.flags = SEAT_COUNTED,
                                                                      .n_prompt = 1000,
                                                                      .repetition_penalty = 1.1f,
                                                                      .frequency_penalty = 0.2f};
    struct seat biased = {.n_bias = 300, .repetition_penalty = 1};
    for (int32_t i = 0; i < 300; i++) biased.words[i] = 400 * i;
    const struct sample_row none = {.temperature = 1, .top_p = 1, .n_logprobs = -1};
    struct sample_row few = none, many = none, token = none, five = none, twenty = none, hooked = none;
    few.n_candidates = 40, many.n_candidates = 256, token.n_logprobs = 0, five.n_logprobs = 5,
    twenty.n_logprobs = 20;
    hooked.flags = SAMPLE_HOOKED;
    const struct stage stages[] = {{"adjust: nothing", run_adjust, 0, plain, none},
                                   {"adjust: penalties", run_adjust, 3, penalized, none},
                                   {"adjust: 300 biases", run_adjust, 2, biased, none},
                                   {"check", run_check, 1, plain, hooked},
                                   {"candidates: 40", run_candidates, 1, plain, few},
                                   {"candidates: 256", run_candidates, 1, plain, many},
                                   {"logprobs: the token", run_logprobs, 1, plain, token},
                                   {"logprobs: 5", run_logprobs, 1, plain, five},
                                   {"logprobs: 20", run_logprobs, 1, plain, twenty}};
    struct sample_args a = {
        .rows = be->alloc(be, STAGE_ROWS * sizeof(struct sample_row)),
        .vocab_size = VOCAB,
        .tokens = be->alloc(be, STAGE_ROWS * sizeof(int32_t)),
        .logits = logits,
        .logits_stride = VOCAB,
        .seats = {.n = STAGE_ROWS,
                  .max_len = STAGE_HISTORY + 1,
                  .vocab_size = VOCAB,
                  .seat = be->alloc(be, STAGE_ROWS * sizeof(struct seat)),
                  .history = be->alloc(be, sizeof(int32_t) * STAGE_ROWS * (STAGE_HISTORY + 1)),
                  .counts = be->alloc(be, sizeof(uint32_t) * STAGE_ROWS * VOCAB),
                  .work = be->alloc(be, sizeof(float) * STAGE_ROWS * 2 * VOCAB)},
        .state = be->alloc(be, STAGE_ROWS * sizeof(struct sample_state)),
        .last = be->alloc(be, STAGE_ROWS * sizeof(int32_t)),
        .out = be->alloc(be, STAGE_ROWS * sizeof(struct sampled)),
        .candidates = be->alloc(be, sizeof(struct sample_candidate) * STAGE_ROWS * SAMPLE_MAX_CANDIDATES),
        .logprobs = be->alloc(be, sizeof(struct sample_logprob) * STAGE_ROWS * (1 + SAMPLE_MAX_LOGPROBS))};
    int32_t history[STAGE_HISTORY + 1];
    for (int32_t i = 0; i <= STAGE_HISTORY; i++) history[i] = (int32_t)((int64_t)i * 7919 % VOCAB);
    for (int32_t i = 0; i < STAGE_ROWS; i++)
        be->device->upload(be, a.seats.history + i * (STAGE_HISTORY + 1), history, sizeof history);
    for (size_t g = 0; g < sizeof stages / sizeof *stages; g++)
        for (int32_t n = 1; n <= STAGE_ROWS; n = n == 1 ? 64 : 2 * n) measure_stage(&stages[g], &a, n);
}

/* ---- rows ---------------------------------------------------------------------------------------------- */

static void run_norm(void *arg)
{
    be->norm(be, arg);
}

static void run_copy(void *arg)
{
    be->kv_copy(be, arg, 0, 1);
}

static void run_rope(void *arg)
{
    be->rope_kv(be, arg);
}

static void measure_rows(void)
{
    enum { N = 4096, HEADS = 32, KV = 8, DIM = 128, ROWS = 8192, PAGE = 64 };
    const size_t bytes = 2 * (size_t)ROWS * N;
    char *x = be->alloc(be, 2 * bytes), *y = x + bytes;
    float *weight = be->alloc(be, 4 * N), *table = be->alloc(be, sizeof(float) * ROWS * DIM);
    char *qkv = be->alloc(be, 2 * (size_t)ROWS * (HEADS + 2 * KV) * DIM);
    struct kv_cache kv = {.n_pages = ROWS / PAGE,
                          .page_size = PAGE,
                          .n_layers = 1,
                          .n_kv_heads = KV,
                          .head_dim = DIM,
                          .dtype = DTYPE_BF16};
    kv.page_bytes = be->kv_page_bytes(be, &kv);
    kv.base = be->alloc(be, kv.page_bytes * (size_t)kv.n_pages);
    int32_t ids[ROWS], *positions = be->alloc(be, sizeof ids);
    for (int32_t i = 0; i < ROWS; i++) ids[i] = i;
    be->device->upload(be, positions, ids, sizeof ids);
    const struct kv_cache halves = {.base = x, .page_bytes = bytes, .n_pages = 2};
    report("copy as large", timed(run_copy, (void *)(uintptr_t)&halves), 2.0 * (double)bytes);
    const int32_t sizes[] = {1, 64, ROWS};
    for (int s = 0; s < 3; s++) {
        char name[64];
        struct norm_args n = {.n_rows = sizes[s], .n = N, .x = x, .x_stride = N, .y = y, .y_stride = N};
        n.norm = (struct norm){NORM_RMS, 1e-5f, weight, NULL};
        snprintf(name, sizeof name, "norm of 4096, %d rows", sizes[s]);
        report(name, timed(run_norm, &n), 4.0 * N * sizes[s]);
        struct rope_kv_args r = {.n_tokens = sizes[s],
                                 .n_heads = HEADS,
                                 .qkv = qkv,
                                 .qkv_stride = (HEADS + 2 * KV) * DIM,
                                 .rope = ROPE_NEOX,
                                 .rotary_dim = DIM,
                                 .rope_table = table,
                                 .positions = positions,
                                 .slots = positions,
                                 .kv = &kv};
        snprintf(name, sizeof name, "rope_kv 32/8 x 128, %d rows", sizes[s]);
        report(name, timed(run_rope, &r), 4.0 * (HEADS + 2 * KV) * DIM * sizes[s]);
    }
}

int main(void)
{
    struct llm_error err = {0};
    if (cuda_backend_open(&(struct cuda_options){.act_dtype = DTYPE_BF16}, &be, &err)) {
        printf("skipped, no device: %s\n", err.message);
        return 77;
    }
    measure_copy();
    const float *flat = make_logits(0), *peaked = make_logits(1);
    measure_sampling(flat, "");
    measure_sampling(peaked, "peaked: ");
    measure_stages(flat);
    measure_rows();
    be->close(be);
    return 0;
}
