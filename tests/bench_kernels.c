/* Speed of the CPU's ops beside what this machine can do: bytes a second against a plain sum over memory,
 * multiply-adds a second against int8 (or f32) products in registers.
 *
 *     bench_kernels [--isa NAME] [--threads N] [--dtype NAME] [--only TEXT] [--cpu-time] [--json]
 *
 * Weights of a case are copied until they exceed the caches, as the layers of a model do. A figure is the
 * median of several repetitions. */

#define _GNU_SOURCE
#include "base/mem.h"
#include "base/pool.h"
#include "base/rng.h"
#include "kernels/kernels.h"

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { REPEATS = 9, COLD_BYTES = 160 << 20 };

/* CLOCK_THREAD_CPUTIME_ID with --cpu-time: for one thread on a machine that others use. */
static clockid_t bench_clock = CLOCK_MONOTONIC;

static double now(void)
{
    struct timespec t;
    clock_gettime(bench_clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Median seconds of a call of fn, each timed over at least 2 ms. */
static double time_of(void (*fn)(void *), void *arg)
{
    double t[REPEATS];
    fn(arg);
    const double start = now();
    fn(arg);
    const double once = now() - start;
    const int n = once > 2e-3 ? 1 : (int)(2e-3 / (once + 1e-9)) + 1;
    for (int r = 0; r < REPEATS; r++) {
        const double begin = now();
        for (int i = 0; i < n; i++) fn(arg);
        t[r] = (now() - begin) / n;
    }
    qsort(t, REPEATS, sizeof *t, by_value);
    return t[REPEATS / 2];
}

/* ---- ceilings ------------------------------------------------------------------------------------------ */

struct sum_job {
    struct pool *pool;
    const uint8_t *data;
    size_t bytes;
    volatile uint64_t sum;
};

__attribute__((target("avx2"))) static void sum_member(void *arg, int32_t member, int32_t n_members)
{
    struct sum_job *job = arg;
    int64_t begin, end;
    pool_part((int64_t)job->bytes, 4096, member, n_members, &begin, &end);
    __m256i s[4] = {0};
    for (const uint8_t *p = job->data + begin; p < job->data + end; p += 128)
        for (int i = 0; i < 4; i++)
            s[i] = _mm256_add_epi64(s[i], _mm256_load_si256((const __m256i *)(const void *)(p + 32 * i)));
    s[0] = _mm256_add_epi64(_mm256_add_epi64(s[0], s[1]), _mm256_add_epi64(s[2], s[3]));
    job->sum = (uint64_t)_mm256_extract_epi64(s[0], 0) + (uint64_t)_mm256_extract_epi64(s[0], 3);
}

static void sum_run(void *arg)
{
    struct sum_job *job = arg;
    pool_run(job->pool, sum_member, job);
}

static double read_ceiling(int32_t n_threads)
{
    struct sum_job job = {.bytes = 256 << 20};
    uint8_t *data = mem_map(job.bytes);
    if (!data || pool_open(n_threads, &job.pool, NULL) != LLM_OK) return 0;
    memset(data, 1, job.bytes);
    job.data = data;
    const double t = time_of(sum_run, &job);
    pool_close(job.pool);
    mem_unmap(data, job.bytes);
    return (double)job.bytes / t;
}

/* In assembly, for compilers are too clever or not clever enough with such loops: products of registers, in
 * as many independent sums as hide their latency. */
enum { ROUNDS = 100000, PRODUCTS_AVX2 = 32, PRODUCTS_AVX512 = 12 /* a round */ };

#define TIMES_8(text) text text text text text text text text

/* As the kernels do: sums of 8 products of pairs, widened once. */
__attribute__((target("avx2"))) static void products_avx2(void *arg)
{
    (void)arg;
    for (int r = 0; r < ROUNDS; r++)
        __asm__ volatile(
            TIMES_8(
                "vpmaddubsw %%ymm8, %%ymm9, %%ymm4\n vpaddw %%ymm4, %%ymm0, %%ymm0\n"
                "vpmaddubsw %%ymm8, %%ymm9, %%ymm5\n vpaddw %%ymm5, %%ymm1, %%ymm1\n"
                "vpmaddubsw %%ymm8, %%ymm9, %%ymm6\n vpaddw %%ymm6, %%ymm2, %%ymm2\n"
                "vpmaddubsw %%ymm8, %%ymm9, %%ymm7\n vpaddw %%ymm7, %%ymm3, %%ymm3\n") "vpmaddwd %%ymm8, "
                                                                                       "%%ymm0, %%ymm10\n "
                                                                                       "vpaddd %%ymm10, "
                                                                                       "%%ymm12, %%ymm12\n"
                                                                                       "vpmaddwd %%ymm8, "
                                                                                       "%%ymm1, %%ymm10\n "
                                                                                       "vpaddd %%ymm10, "
                                                                                       "%%ymm13, %%ymm13\n"
                                                                                       "vpmaddwd %%ymm8, "
                                                                                       "%%ymm2, %%ymm10\n "
                                                                                       "vpaddd %%ymm10, "
                                                                                       "%%ymm14, %%ymm14\n"
                                                                                       "vpmaddwd %%ymm8, "
                                                                                       "%%ymm3, %%ymm10\n "
                                                                                       "vpaddd %%ymm10, "
                                                                                       "%%ymm15, %%ymm15\n" ::
                                                                                           : "xmm0", "xmm1",
                                                                                             "xmm2", "xmm3",
                                                                                             "xmm4", "xmm5",
                                                                                             "xmm6", "xmm7",
                                                                                             "xmm10", "xmm12",
                                                                                             "xmm13", "xmm14",
                                                                                             "xmm15");
}

__attribute__((target("avx512f,avx512vnni"))) static void products_avx512(void *arg)
{
    (void)arg;
    for (int r = 0; r < ROUNDS; r++)
        __asm__ volatile("vpdpbusd %%zmm12, %%zmm13, %%zmm0\n vpdpbusd %%zmm12, %%zmm13, %%zmm1\n"
                         "vpdpbusd %%zmm12, %%zmm13, %%zmm2\n vpdpbusd %%zmm12, %%zmm13, %%zmm3\n"
                         "vpdpbusd %%zmm12, %%zmm13, %%zmm4\n vpdpbusd %%zmm12, %%zmm13, %%zmm5\n"
                         "vpdpbusd %%zmm12, %%zmm13, %%zmm6\n vpdpbusd %%zmm12, %%zmm13, %%zmm7\n"
                         "vpdpbusd %%zmm12, %%zmm13, %%zmm8\n vpdpbusd %%zmm12, %%zmm13, %%zmm9\n"
                         "vpdpbusd %%zmm12, %%zmm13, %%zmm10\n vpdpbusd %%zmm12, %%zmm13, %%zmm11\n" ::
                             : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",
                               "xmm10", "xmm11");
}

/* Multiply-adds a second of one thread. */
static double int8_ceiling(const char *isa)
{
    if (strcmp(isa, "avx512") == 0) return 64.0 * PRODUCTS_AVX512 * ROUNDS / time_of(products_avx512, NULL);
    if (strcmp(isa, "avx2") == 0) return 32.0 * PRODUCTS_AVX2 * ROUNDS / time_of(products_avx2, NULL);
    return 0;
}

/* ---- cases --------------------------------------------------------------------------------------------- */

struct bench {
    struct backend *be;
    enum llm_dtype dtype;
    const char *only;
    int json, n_rows_out;
    double read_ceiling, int8_ceiling; /* of all threads */
};

static void report(struct bench *b, const char *name, double seconds, double bytes, double macs)
{
    const double gbs = bytes / seconds / 1e9, gmacs = macs / seconds / 1e9;
    const double of_read = 1e9 * gbs / b->read_ceiling,
                 of_int8 = b->int8_ceiling > 0 ? 1e9 * gmacs / b->int8_ceiling : 0;
    if (b->json) {
        printf("%s\n    {\"name\": \"%s\", \"us\": %.2f, \"gb_s\": %.2f, \"gmac_s\": %.2f, \"of_read\": "
               "%.3f, \"of_int8\": %.3f}",
               b->n_rows_out++ ? "," : "", name, 1e6 * seconds, gbs, gmacs, of_read, of_int8);
        return;
    }
    printf("%-34s %10.2f us %8.1f GB/s %4.0f %% %9.1f GMAC/s %4.0f %%\n", name, 1e6 * seconds, gbs,
           100 * of_read, gmacs, 100 * of_int8);
    fflush(stdout);
}

static int wanted(const struct bench *b, const char *name)
{
    return !b->only || strstr(name, b->only);
}

static float *random_rows(int64_t n)
{
    float *x = mem_map((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = 2 * rng_uniform(rng_philox(1, 0, (uint64_t)i).word[0]) - 1;
    return x;
}

struct linear_case {
    struct backend *be;
    struct linear_args args;
    struct weight *weights[256];
    int n_weights, next;
};

static void linear_run(void *arg)
{
    struct linear_case *c = arg;
    c->args.w = c->weights[c->next++ % c->n_weights];
    c->be->linear(c->be, &c->args);
}

static struct weight *random_weight(struct backend *be, enum llm_dtype dtype, int32_t n_out, int32_t n_in,
                                    int gated)
{
    const int32_t n_parts = gated ? 2 : 1;
    const size_t bytes = dtype_bytes(dtype, n_in) * (size_t)n_out;
    uint8_t *data = mem_map(bytes);
    /* Small scales, no NaN: bytes of f16 and bf16 scales and of floats alike below 0x3c. */
    for (size_t i = 0; i < bytes; i++) data[i] = (uint8_t)(i * 2654435761u >> 13) % 0x3c;
    struct weight_spec spec = {.n_parts = n_parts, .layout = gated ? WEIGHT_GATED : WEIGHT_PLAIN};
    for (int32_t i = 0; i < n_parts; i++)
        spec.part[i] = (struct tensor){dtype, 2, {n_out / n_parts, n_in}, data};
    struct weight *w = NULL;
    struct llm_error err;
    if (be->weight_create(be, &spec, &w, &err) != LLM_OK) {
        fprintf(stderr, "bench_kernels: %s\n", err.message);
        exit(1);
    }
    mem_unmap(data, bytes);
    return w;
}

static void bench_linear(struct bench *b, const char *layer, enum llm_dtype dtype, int32_t n_out,
                         int32_t n_in, int gated)
{
    const int32_t rows[] = {1, 2, 4, 8, 16, 32, 512};
    struct linear_case c = {.be = b->be};
    char name[64];
    snprintf(name, sizeof name, "%s %s", layer, dtype_table[dtype].name);
    if (!wanted(b, name)) return;
    size_t bytes = 0;
    do {
        c.weights[c.n_weights] = random_weight(b->be, dtype, n_out, n_in, gated);
        bytes += b->be->weight_bytes(c.weights[c.n_weights++]);
    } while (bytes < COLD_BYTES && c.n_weights < 256);
    const double weight_bytes = (double)b->be->weight_bytes(c.weights[0]);
    float *x = random_rows(512 * (int64_t)n_in), *y = mem_map((size_t)512 * (size_t)n_out * sizeof *y);
    for (size_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        if (n_out > 20000 && rows[r] > 32) continue; /* the head: of few rows only */
        c.args = (struct linear_args){.n_rows = rows[r],
                                      .x = x,
                                      .x_stride = n_in,
                                      .norm = {NORM_RMS, 1e-5f, NULL, NULL},
                                      .epilogue = gated ? LINEAR_GATED : LINEAR_STORE,
                                      .act = gated ? ACT_SILU : ACT_NONE,
                                      .y = y,
                                      .y_stride = gated ? n_out / 2 : n_out};
        snprintf(name, sizeof name, "%s %s x%d", layer, dtype_table[dtype].name, rows[r]);
        report(b, name, time_of(linear_run, &c), weight_bytes, (double)rows[r] * n_out * n_in);
    }
    for (int i = 0; i < c.n_weights; i++) b->be->weight_destroy(b->be, c.weights[i]);
    mem_unmap(x, 512 * (size_t)n_in * sizeof *x);
    mem_unmap(y, (size_t)512 * (size_t)n_out * sizeof *y);
}

struct attention_case {
    struct backend *be;
    struct attention_args args;
};

static void attention_run(void *arg)
{
    struct attention_case *c = arg;
    c->args.layer = (c->args.layer + 1) % c->args.kv->n_layers;
    c->be->attention(c->be, &c->args);
}

/* n_seqs sequences of kv_len tokens, the last n_new of each are queries: 9 heads on 3 KV heads of 64. */
static void bench_attention(struct bench *b, int32_t n_seqs, int32_t kv_len, int32_t n_new)
{
    enum { HEADS = 9, KV_HEADS = 3, DIM = 64, PAGE = 16, LAYERS = 30 };
    char name[64];
    snprintf(name, sizeof name, "attention %d x %d of %d", n_seqs, n_new, kv_len);
    if (!wanted(b, name)) return;
    const int32_t pages = (kv_len + PAGE - 1) / PAGE, n_tokens = n_seqs * n_new;
    struct kv_cache kv = {.n_pages = pages * n_seqs,
                          .page_size = PAGE,
                          .n_layers = LAYERS,
                          .n_kv_heads = KV_HEADS,
                          .head_dim = DIM,
                          .dtype = DTYPE_F16};
    kv.page_bytes = b->be->kv_page_bytes(b->be, &kv);
    const size_t kv_bytes = kv.page_bytes * (size_t)kv.n_pages;
    kv.base = b->be->alloc(b->be, kv_bytes);
    memset(kv.base, 0x31, kv_bytes);
    int32_t *table = mem_array((size_t)kv.n_pages, sizeof *table),
            *start = mem_array((size_t)n_seqs + 1, sizeof *start);
    int32_t *len = mem_array((size_t)n_seqs, sizeof *len);
    for (int32_t i = 0; i < kv.n_pages; i++) table[i] = i;
    for (int32_t s = 0; s < n_seqs; s++) {
        start[s + 1] = (s + 1) * n_new;
        len[s] = kv_len;
    }
    float *q = random_rows((int64_t)n_tokens * HEADS * DIM),
          *out = random_rows((int64_t)n_tokens * HEADS * DIM);
    struct attention_case c = {b->be,
                               {.n_seqs = n_seqs,
                                .n_heads = HEADS,
                                .q = q,
                                .q_stride = HEADS * DIM,
                                .seq_start = start,
                                .kv_len = len,
                                .block_table = table,
                                .block_table_stride = pages,
                                .scale = 0.125f,
                                .kv = &kv,
                                .out = out,
                                .out_stride = HEADS * DIM}};
    const double seen = ((double)kv_len - (n_new - 1) / 2.0) * n_tokens;
    report(b, name, time_of(attention_run, &c), (double)n_seqs * kv_len * KV_HEADS * DIM * 4,
           seen * HEADS * DIM * 2);
    b->be->free(b->be, kv.base, kv_bytes);
    mem_free(table), mem_free(start), mem_free(len);
    mem_unmap(q, (size_t)n_tokens * HEADS * DIM * 4), mem_unmap(out, (size_t)n_tokens * HEADS * DIM * 4);
}

/* The layers of SmolLM2-135M. */
static void run_all(struct bench *b)
{
    bench_linear(b, "qkv 960x576", b->dtype, 960, 576, 0);
    bench_linear(b, "o 576x576", b->dtype, 576, 576, 0);
    bench_linear(b, "gate,up 3072x576", b->dtype, 3072, 576, 1);
    bench_linear(b, "down 576x1536", b->dtype, 576, 1536, 0);
    bench_linear(b, "head 49152x576", DTYPE_Q8_0, 49152, 576, 0);
    for (int t = 0; t < DTYPE_COUNT; t++)
        if (t != DTYPE_I32) bench_linear(b, "types 4096x2048", (enum llm_dtype)t, 4096, 2048, 0);
    bench_attention(b, 1, 128, 1);
    bench_attention(b, 1, 1024, 1);
    bench_attention(b, 1, 4096, 1);
    bench_attention(b, 8, 512, 1);
    bench_attention(b, 32, 512, 1);
    bench_attention(b, 1, 512, 512);
    bench_attention(b, 1, 4096, 512);
}

int main(int argc, char **argv)
{
    struct bench b = {.dtype = DTYPE_Q4_1};
    struct cpu_options options = {0};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--json") == 0) {
            b.json = 1;
            continue;
        }
        if (strcmp(argv[i], "--cpu-time") == 0) {
            bench_clock = CLOCK_THREAD_CPUTIME_ID;
            continue;
        }
        if (strcmp(argv[i], "--isa") == 0)
            options.isa = value;
        else if (strcmp(argv[i], "--threads") == 0)
            options.n_threads = atoi(value);
        else if (strcmp(argv[i], "--only") == 0)
            b.only = value;
        else if (strcmp(argv[i], "--dtype") == 0) {
            for (int t = 0; t < DTYPE_COUNT; t++)
                if (strcmp(dtype_table[t].name, value) == 0) b.dtype = (enum llm_dtype)t;
        } else {
            fprintf(
                stderr,
                "usage: bench_kernels [--isa NAME] [--threads N] [--dtype NAME] [--only TEXT] [--cpu-time]"
                " [--json]\n");
            return 2;
        }
        i++;
    }
    struct llm_error err;
    if (cpu_backend_open(&options, &b.be, &err) != LLM_OK) {
        fprintf(stderr, "bench_kernels: %s\n", err.message);
        return 1;
    }
    const struct backend_limits limits = {512, 4096, 64, 8192, 9, 64};
    if (b.be->reserve(b.be, &limits, &err) != LLM_OK) return 1;
    const char *isa = cpu_backend_isa(b.be);
    const int32_t n_threads = cpu_backend_threads(b.be);
    b.read_ceiling = read_ceiling(n_threads);
    b.int8_ceiling = n_threads * int8_ceiling(isa);
    printf(b.json
               ? "{\"isa\": \"%s\", \"threads\": %d, \"read_gb_s\": %.1f, \"int8_gmac_s\": %.1f, \"cases\": ["
               : "%s, %d threads; ceilings: read %.1f GB/s, int8 %.1f GMAC/s\n",
           isa, n_threads, b.read_ceiling / 1e9, b.int8_ceiling / 1e9);
    run_all(&b);
    if (b.json) printf("\n]}\n");
    b.be->close(b.be);
    return 0;
}
