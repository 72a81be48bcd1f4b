/* Speed of attention on a CUDA device, one layer's call, beside what the device can do: decodes in bytes of
 * KV a second against a copy on the same device, prompts in operations a second against --peak.
 *
 *     bench_cuda_attention [--shape HEADS/KV_HEADS/HEAD_DIM] [--page N] [--peak TFLOPS] [--only TEXT]
 * [--json]
 *
 * A recorded step of 32 calls over as many layers as make the KV exceed the L2 cache; medians of replays. */

#define _GNU_SOURCE
#include "kernels/device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CALLS = 32, REPEATS = 7, WARM_UPS = 3, MAX_SEQS = 256 };

struct options {
    int32_t n_heads, n_kv_heads, head_dim, page_size;
    double peak; /* TFLOP/s */
    const char *only;
    int json;
};

struct bench {
    struct options o;
    struct backend *be;
    double copy_rate; /* bytes a second, read and written */
    void *pool;
    size_t pool_bytes;
    void *q, *out;                       /* [MAX_ROWS, ...] */
    int32_t *seq_start, *kv_len, *table; /* on the device */
    size_t table_entries;
    int n_printed;
};

enum { MAX_ROWS = 16384 };

struct work {
    const char *name;
    int32_t n_seqs, n_new;
    int32_t kv_len[MAX_SEQS];
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void require(struct bench *b, llm_status st)
{
    if (!st) return;
    fprintf(stderr, "bench_cuda_attention: %s\n", b->be->device->failure(b->be));
    exit(1);
}

static void *device_memory(struct bench *b, size_t bytes)
{
    void *p = b->be->alloc(b->be, bytes);
    if (p) return p;
    fprintf(stderr, "bench_cuda_attention: no device memory for %zu MiB\n", bytes >> 20);
    exit(1);
}

/* Median seconds of a replay; of a copy of half the pool over the other if r is null. */
static double time_of(struct bench *b, struct device_recording *r)
{
    const struct device_ops *d = b->be->device;
    const struct kv_cache halves = {.base = b->pool, .page_bytes = b->pool_bytes / 2, .n_pages = 2};
    /* A device that has just worked hard runs slower for a while. */
    const struct timespec rest = {.tv_nsec = 200000000};
    nanosleep(&rest, NULL);
    double t[REPEATS];
    for (int i = -WARM_UPS; i < REPEATS; i++) {
        require(b, d->set_mark(b->be, 0));
        require(b, d->wait_mark(b->be, 0));
        const double start = now();
        require(b, r ? d->replay(b->be, r) : b->be->kv_copy(b->be, &halves, 0, 1));
        require(b, d->set_mark(b->be, 0));
        require(b, d->wait_mark(b->be, 0));
        if (i >= 0) t[i] = now() - start;
    }
    qsort(t, REPEATS, sizeof *t, by_value);
    return t[REPEATS / 2];
}

/* Pages dealt to the sequences in turn, as a server's are; all layers of a page lie together. */
static struct kv_cache lay_out(struct bench *b, const struct work *w, int32_t *table_stride)
{
    struct kv_cache kv = {.base = b->pool,
                          .page_size = b->o.page_size,
                          .n_layers = 1,
                          .n_kv_heads = b->o.n_kv_heads,
                          .head_dim = b->o.head_dim,
                          .dtype = DTYPE_BF16};
    int32_t n_pages = 0, stride = 0;
    for (int32_t s = 0; s < w->n_seqs; s++) {
        const int32_t n = (w->kv_len[s] + kv.page_size - 1) / kv.page_size;
        n_pages += n;
        if (n > stride) stride = n;
    }
    const size_t layer_bytes = b->be->kv_page_bytes(b->be, &kv);
    while (kv.n_layers < CALLS &&
           (size_t)(kv.n_layers + 1) * layer_bytes * (size_t)n_pages <= b->pool_bytes &&
           (size_t)kv.n_layers * layer_bytes * (size_t)n_pages < (size_t)1 << 30)
        kv.n_layers++;
    kv.page_bytes = b->be->kv_page_bytes(b->be, &kv);
    kv.n_pages = n_pages;
    if (kv.page_bytes * (size_t)n_pages > b->pool_bytes ||
        (size_t)w->n_seqs * (size_t)stride > b->table_entries) {
        fprintf(stderr, "bench_cuda_attention: %s does not fit\n", w->name);
        exit(1);
    }
    int32_t *table = calloc((size_t)w->n_seqs * (size_t)stride, sizeof *table), next = 0;
    for (int32_t i = 0; i < stride; i++)
        for (int32_t s = 0; s < w->n_seqs; s++)
            if (i * kv.page_size < w->kv_len[s]) table[s * stride + i] = next++;
    require(
        b, b->be->device->upload(b->be, b->table, table, (size_t)w->n_seqs * (size_t)stride * sizeof *table));
    free(table);
    *table_stride = stride;
    return kv;
}

static struct device_recording *record_step(struct bench *b, const struct work *w, const struct kv_cache *kv,
                                            int32_t table_stride)
{
    const struct device_ops *d = b->be->device;
    const int32_t n_tokens = w->n_seqs * w->n_new, decode = w->n_new == 1;
    const struct step_shape step = {.n_tokens = n_tokens,
                                    .n_seqs = w->n_seqs,
                                    .n_decode = decode ? w->n_seqs : 0,
                                    .max_query = decode ? 0 : w->n_new,
                                    .max_kv = 32768,
                                    .seq_start = b->seq_start,
                                    .kv_len = b->kv_len};
    struct attention_args a = {.n_seqs = w->n_seqs,
                               .n_heads = b->o.n_heads,
                               .q = b->q,
                               .q_stride = (b->o.n_heads + 2 * b->o.n_kv_heads) * b->o.head_dim,
                               .seq_start = b->seq_start,
                               .kv_len = b->kv_len,
                               .block_table = b->table,
                               .block_table_stride = table_stride,
                               .scale = 0.088f,
                               .kv = kv,
                               .out = b->out,
                               .out_stride = b->o.n_heads * b->o.head_dim};
    struct device_recording *r;
    require(b, d->record(b->be));
    require(b, d->begin(b->be, &step));
    for (int i = 0; i < CALLS; i++) {
        a.layer = i % kv->n_layers;
        require(b, b->be->attention(b->be, &a));
    }
    require(b, d->recorded(b->be, &r));
    return r;
}

static void report(struct bench *b, const struct work *w, double seconds, double bytes, double flops)
{
    const int decode = w->n_new == 1;
    const double rate = decode ? bytes / seconds / 1e9 : flops / seconds / 1e12;
    const double share = decode ? bytes / seconds / b->copy_rate : rate / b->o.peak;
    if (b->o.json)
        printf("%s  {\"case\": \"%s\", \"us\": %.2f, \"%s\": %.1f, \"share\": %.3f}",
               b->n_printed ? ",\n" : "", w->name, seconds * 1e6, decode ? "gb_s" : "tflop_s", rate, share);
    else
        printf("%-28s %10.1f us %9.1f %-8s %5.1f %%\n", w->name, seconds * 1e6, rate,
               decode ? "GB/s" : "TFLOP/s", 100 * share);
    b->n_printed++;
    fflush(stdout);
}

static void run(struct bench *b, const struct work *w)
{
    if (b->o.only && !strstr(w->name, b->o.only)) return;
    int32_t table_stride, starts[MAX_SEQS + 1];
    const struct kv_cache kv = lay_out(b, w, &table_stride);
    double keys = 0, pairs = 0;
    for (int32_t s = 0; s < w->n_seqs; s++) {
        starts[s] = s * w->n_new;
        keys += w->kv_len[s];
        pairs += (double)w->n_new * w->kv_len[s] - 0.5 * (double)w->n_new * (w->n_new - 1);
    }
    starts[w->n_seqs] = w->n_seqs * w->n_new;
    require(b, b->be->device->upload(b->be, b->seq_start, starts, sizeof starts));
    require(b, b->be->device->upload(b->be, b->kv_len, w->kv_len, sizeof w->kv_len));
    struct device_recording *r = record_step(b, w, &kv, table_stride);
    const double seconds = time_of(b, r) / CALLS;
    b->be->device->recording_free(b->be, r);
    report(b, w, seconds, keys * 4 * b->o.n_kv_heads * b->o.head_dim,
           pairs * 4 * b->o.n_heads * b->o.head_dim);
}

static void run_uniform(struct bench *b, const char *name, int32_t n_seqs, int32_t n_new, int32_t kv_len)
{
    struct work w = {.name = name, .n_seqs = n_seqs, .n_new = n_new};
    for (int32_t s = 0; s < n_seqs; s++) w.kv_len[s] = kv_len;
    run(b, &w);
}

/* 64 sequences, three in four with a quarter of the mean length, the others with 3 1/4 times it. */
static void run_mixed(struct bench *b, const char *name, int32_t mean)
{
    struct work w = {.name = name, .n_seqs = 64, .n_new = 1};
    for (int32_t s = 0; s < 64; s++)
        w.kv_len[s] = s * 37 % 64 < 48 ? mean / 4 + s % 7 : 13 * mean / 4 - s % 5;
    run(b, &w);
}

static void run_all(struct bench *b)
{
    static const int32_t batches[] = {1, 8, 16, 64, 256};
    for (int c = 0; c < 2; c++) {
        for (int i = 0; i < 5; i++) {
            char name[64];
            snprintf(name, sizeof name, "decode b%d at %s", batches[i], c ? "8k" : "1k");
            run_uniform(b, name, batches[i], 1, c ? 8192 : 1024);
        }
        run_mixed(b, c ? "decode b64, 8k in the mean" : "decode b64, 1k in the mean", c ? 8192 : 1024);
    }
    run_uniform(b, "decode b1 at 32k", 1, 1, 32768);
    run_uniform(b, "prompt of 1k", 1, 1024, 1024);
    run_uniform(b, "prompt of 4k", 1, 4096, 4096);
    run_uniform(b, "prompt of 8k", 1, 8192, 8192);
    run_uniform(b, "prompt of 16k", 1, 16384, 16384);
    run_uniform(b, "8 prompts of 1k", 8, 1024, 1024);
    run_uniform(b, "chunk of 512 after 7.5k", 1, 512, 8192);
    run_uniform(b, "16 chunks of 512 after 512", 16, 512, 1024);
}

static int parse(struct options *o, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (!strcmp(argv[i], "--json")) {
            o->json = 1;
            continue;
        }
        if (!strcmp(argv[i], "--shape")) {
            if (sscanf(value, "%d/%d/%d", &o->n_heads, &o->n_kv_heads, &o->head_dim) != 3) return -1;
        } else if (!strcmp(argv[i], "--page"))
            o->page_size = atoi(value);
        else if (!strcmp(argv[i], "--peak"))
            o->peak = atof(value);
        else if (!strcmp(argv[i], "--only"))
            o->only = value;
        else
            return -1;
        i++;
    }
    return o->n_heads > 0 && o->n_kv_heads > 0 && o->head_dim > 0 && o->page_size > 0 && o->peak > 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct bench b = {.o = {32, 8, 128, 64, 790, NULL, 0}};
    if (parse(&b.o, argc, argv)) {
        fprintf(stderr, "usage: bench_cuda_attention [--shape HEADS/KV_HEADS/HEAD_DIM] [--page N] "
                        "[--peak TFLOPS] [--only TEXT] [--json]\n");
        return 2;
    }
    struct llm_error err = {0};
    const struct cuda_options options = {.act_dtype = DTYPE_BF16};
    const struct backend_limits limits = {.max_rows = MAX_ROWS,
                                          .max_n = 4096,
                                          .max_seqs = MAX_SEQS,
                                          .max_model_len = 32768,
                                          .n_heads = b.o.n_heads,
                                          .head_dim = b.o.head_dim};
    if (cuda_backend_open(&options, &b.be, &err) || b.be->reserve(b.be, &limits, &err)) {
        fprintf(stderr, "bench_cuda_attention: %s\n", err.message);
        return 1;
    }
    const size_t row = (size_t)((b.o.n_heads + 2 * b.o.n_kv_heads) * b.o.head_dim);
    const size_t token = (size_t)(4 * b.o.n_kv_heads * b.o.head_dim);
    b.pool_bytes = token * MAX_SEQS * 8192 + ((size_t)64 << 20);
    b.pool = device_memory(&b, b.pool_bytes);
    b.q = device_memory(&b, MAX_ROWS * row * 2);
    b.out = device_memory(&b, MAX_ROWS * row * 2);
    b.seq_start = device_memory(&b, (MAX_SEQS + 1) * sizeof *b.seq_start);
    b.kv_len = device_memory(&b, MAX_SEQS * sizeof *b.kv_len);
    b.table_entries = (size_t)1 << 20;
    b.table = device_memory(&b, b.table_entries * sizeof *b.table);
    require(&b, b.be->device->fill(b.be, b.pool, DTYPE_BF16, (int64_t)(b.pool_bytes / 2), 1, 1.0f));
    require(&b, b.be->device->fill(b.be, b.q, DTYPE_BF16, (int64_t)(MAX_ROWS * row), 2, 1.0f));
    b.copy_rate = (double)b.pool_bytes / time_of(&b, NULL);
    if (b.o.json)
        printf("{\"device\": \"%s\", \"copy_gb_s\": %.0f, \"peak_tflop_s\": %.0f, \"rows\": [\n",
               cuda_backend_describe(b.be), b.copy_rate / 1e9, b.o.peak);
    else
        printf("%s: copy %.0f GB/s; %d/%d heads of %d, pages of %d, bf16\n", cuda_backend_describe(b.be),
               b.copy_rate / 1e9, b.o.n_heads, b.o.n_kv_heads, b.o.head_dim, b.o.page_size);
    run_all(&b);
    if (b.o.json) printf("\n]}\n");
    b.be->close(b.be);
    return 0;
}
