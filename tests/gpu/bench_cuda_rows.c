/* Sampling and row operations on a CUDA device: microseconds, and the memory they read and write beside what
 * a copy of the device's memory does in the same run. */

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

/* ---- sampling -------------------------------------------------------------------------------------------
 */

static void run_sample(void *arg)
{
    be->device->sampling->sample(be, arg);
}

static void measure_sampling(void)
{
    static const struct {
        const char *name;
        float temperature, top_p, min_p;
        int32_t top_k;
    } ways[] = {{"greedy", 0, 1, 0, 0},         {"temperature", 1, 1, 0, 0},
                {"min-p 0.05", 1, 1, 0.05f, 0}, {"top-k 50", 1, 1, 0, 50},
                {"top-p 0.95", 1, 0.95f, 0, 0}, {"top-k 50, top-p 0.95", 0.8f, 0.95f, 0, 50}};
    size_t n = (size_t)MAX_ROWS * VOCAB;
    float *logits = be->alloc(be, n * sizeof *logits), *host = malloc(n * sizeof *host);
    uint64_t state = 1;
    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        for (int k = 0; k < 4; k++) {
            state = state * 6364136223846793005u + 1442695040888963407u;
            sum += (float)(state >> 40) * 0x1p-24f - 0.5f;
        }
        host[i] = 3 * sum;
    }
    be->device->upload(be, logits, host, n * sizeof *host);
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
            snprintf(name, sizeof name, "%s, %d rows", ways[w].name, batches[b]);
            report(name, timed(run_sample, &a), 4.0 * VOCAB * batches[b]);
        }
    free(host);
}

/* ---- rows -----------------------------------------------------------------------------------------------
 */

static void run_norm(void *arg)
{
    be->norm(be, arg);
}

static void run_rope(void *arg)
{
    be->rope_kv(be, arg);
}

static void measure_rows(void)
{
    enum { N = 4096, HEADS = 32, KV = 8, DIM = 128, ROWS = 8192, PAGE = 64 };
    char *x = be->alloc(be, 2 * (size_t)ROWS * N), *y = be->alloc(be, 2 * (size_t)ROWS * N);
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
    measure_sampling();
    measure_rows();
    be->close(be);
    return 0;
}
