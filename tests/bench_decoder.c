/* Speed of the decoder alone, without engine, sampling or tokenizer: load time and peak memory, a prompt,
 * single tokens after it, batches of sequences. Medians of several rounds; bytes are those of the weights
 * that one step reads.
 *
 *   bench_decoder MODEL [--isa ref|avx2|avx512] [--threads N] [--prompt N] [--context N] [--batch N]
 *                 [--rounds N] [--load-format FORMAT] */

#define _GNU_SOURCE
#include "base/mem.h"
#include "model/decoder.h"
#include "model/model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PAGE_SIZE = 16, STEPS = 32, MAX_ROUNDS = 64 };

struct bench {
    struct backend *be;
    struct model *model;
    struct decoder *decoder;
    struct kv_cache kv;
    int32_t max_tokens, max_seqs, max_len, pages_a_seq, n_rounds;
    int32_t *tokens, *positions, *slots, *seq_start, *kv_len, *table, *rows;
    float *logits;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void die(const char *what, const struct llm_error *err)
{
    fprintf(stderr, "bench_decoder: %s%s%s\n", what, err ? ": " : "", err ? err->message : "");
    exit(1);
}

/* A line of /proc/self/status, in MiB. */
static double status_mib(const char *key)
{
    char line[256];
    double kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0) kib = atof(line + strlen(key) + 1);
    if (f) fclose(f);
    return kib / 1024;
}

/* Runs `n` tokens of each of n_seqs sequences, from position `begin` on; logits of each one's last row. */
static void step(struct bench *b, int32_t n_seqs, int32_t begin, int32_t n)
{
    struct llm_error err;
    int32_t i = 0;
    for (int32_t s = 0; s < n_seqs; s++) {
        b->seq_start[s] = i;
        b->kv_len[s] = begin + n;
        for (int32_t p = begin; p < begin + n; p++, i++) {
            b->tokens[i] = (p * 7919 + s * 104729 + 13) % b->model->config.vocab_size;
            b->positions[i] = p;
            b->slots[i] = b->table[s * b->pages_a_seq + p / PAGE_SIZE] * PAGE_SIZE + p % PAGE_SIZE;
        }
        b->rows[s] = i - 1;
    }
    b->seq_start[n_seqs] = i;
    struct batch batch = {i,         n_seqs,   b->tokens,     b->positions, b->slots, b->seq_start,
                          b->kv_len, b->table, b->pages_a_seq};
    if (decoder_forward(b->decoder, &b->kv, &batch, &err)) die("forward", &err);
    if (decoder_logits(b->decoder, b->rows, n_seqs, b->logits, &err)) die("logits", &err);
}

/* Positions [0, n) of one sequence, in pieces of at most max_tokens. */
static void prefill(struct bench *b, int32_t n)
{
    for (int32_t at = 0; at < n; at += b->max_tokens)
        step(b, 1, at, n - at < b->max_tokens ? n - at : b->max_tokens);
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *values, int32_t n)
{
    qsort(values, (size_t)n, sizeof *values, compare_doubles);
    return n % 2 ? values[n / 2] : 0.5 * (values[n / 2 - 1] + values[n / 2]);
}

static void measure_prefill(struct bench *b, int32_t n)
{
    double seconds[MAX_ROUNDS];
    prefill(b, n);
    for (int32_t r = 0; r < b->n_rounds; r++) {
        double start = now();
        prefill(b, n);
        seconds[r] = now() - start;
    }
    double s = median(seconds, b->n_rounds);
    printf("prefill %5d             %9.2f ms %10.1f tok/s\n", (int)n, 1e3 * s, n / s);
}

/* STEPS steps of n_seqs sequences that hold `context` tokens each. */
static void measure_decode(struct bench *b, int32_t n_seqs, int32_t context)
{
    double seconds[MAX_ROUNDS];
    step(b, n_seqs, context, 1);
    for (int32_t r = 0; r < b->n_rounds; r++) {
        double start = now();
        for (int32_t i = 0; i < STEPS; i++) step(b, n_seqs, context + i, 1);
        seconds[r] = (now() - start) / STEPS;
    }
    double s = median(seconds, b->n_rounds);
    printf("decode batch %3d at %5d %9.3f ms %10.1f tok/s %7.2f GB/s of weights\n", (int)n_seqs, (int)context,
           1e3 * s, n_seqs / s, 1e-9 * (double)b->model->weight_bytes / s);
}

static int32_t number_after(int argc, char **argv, const char *name, int32_t otherwise)
{
    for (int i = 2; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0) return atoi(argv[i + 1]);
    return otherwise;
}

static const char *text_after(int argc, char **argv, const char *name)
{
    for (int i = 2; i + 1 < argc; i++)
        if (strcmp(argv[i], name) == 0) return argv[i + 1];
    return NULL;
}

static void *ints(int32_t n)
{
    void *p = calloc((size_t)n, sizeof(int32_t));
    if (!p) die("no memory", NULL);
    return p;
}

static void open_decoder(struct bench *b)
{
    struct llm_error err;
    const struct model_config *c = &b->model->config;
    struct decoder_options options = {b->max_tokens, b->max_seqs, b->max_len};
    if (decoder_open(b->model, &options, &b->decoder, &err)) die("decoder_open", &err);
    b->pages_a_seq = (b->max_len + PAGE_SIZE - 1) / PAGE_SIZE;
    b->kv = (struct kv_cache){.n_pages = b->max_seqs * b->pages_a_seq,
                              .page_size = PAGE_SIZE,
                              .n_layers = c->n_layers,
                              .n_kv_heads = c->n_kv_heads,
                              .head_dim = c->head_dim,
                              .dtype = DTYPE_F16};
    b->kv.page_bytes = b->be->kv_page_bytes(b->be, &b->kv);
    b->kv.base = b->be->alloc(b->be, b->kv.page_bytes * (size_t)b->kv.n_pages);
    b->tokens = ints(b->max_tokens);
    b->positions = ints(b->max_tokens);
    b->slots = ints(b->max_tokens);
    b->rows = ints(b->max_seqs);
    b->seq_start = ints(b->max_seqs + 1);
    b->kv_len = ints(b->max_seqs);
    b->table = ints(b->kv.n_pages);
    for (int32_t i = 0; i < b->kv.n_pages; i++) b->table[i] = i;
    b->logits = mem_map((size_t)b->max_seqs * (size_t)c->vocab_size * sizeof *b->logits);
    if (!b->logits || !b->kv.base) die("no memory", NULL);
}

int main(int argc, char **argv)
{
    struct bench b = {0};
    struct llm_error err;
    if (argc < 2)
        die("usage: bench_decoder MODEL [--isa I] [--threads N] [--prompt N] [--context N] [--batch N]",
            NULL);
    int32_t prompt = number_after(argc, argv, "--prompt", 512),
            context = number_after(argc, argv, "--context", 0);
    int32_t batch = number_after(argc, argv, "--batch", 0);
    b.n_rounds = number_after(argc, argv, "--rounds", 5);
    if (b.n_rounds < 1 || b.n_rounds > MAX_ROUNDS) die("--rounds must be 1 to 64", NULL);
    b.max_tokens = 512;
    b.max_seqs = batch > 32 ? batch : 32;
    b.max_len = (prompt > context ? prompt : context) + STEPS + 1;
    struct cpu_options cpu = {number_after(argc, argv, "--threads", 0), text_after(argc, argv, "--isa")};
    if (cpu_backend_open(&cpu, &b.be, &err)) die("cpu_backend_open", &err);
    struct model_options options = {
        .path = argv[1], .skip_tokenizer = 1, .load_format = text_after(argc, argv, "--load-format")};
    double start = now();
    if (model_open(b.be, &options, &b.model, &err)) die("model_open", &err);
    double loaded = now() - start;
    open_decoder(&b);
    printf("%s, %s, %d threads\n", argv[1], cpu_backend_isa(b.be), (int)cpu_backend_threads(b.be));
    printf("weights %.1f MiB, loaded in %.1f ms, peak resident %.1f MiB, now %.1f MiB (anonymous %.1f)\n",
           (double)b.model->weight_bytes / 1048576, 1e3 * loaded, status_mib("VmHWM:"), status_mib("VmRSS:"),
           status_mib("RssAnon:"));
    measure_prefill(&b, prompt);
    if (batch > 0) {
        measure_decode(&b, batch, context);
    } else {
        measure_decode(&b, 1, context);
        measure_decode(&b, 8, context);
        measure_decode(&b, 32, context);
    }
    printf("peak resident %.1f MiB\n", status_mib("VmHWM:"));
    mem_unmap(b.logits, (size_t)b.max_seqs * (size_t)b.model->config.vocab_size * sizeof *b.logits);
    b.be->free(b.be, b.kv.base, b.kv.page_bytes * (size_t)b.kv.n_pages);
    decoder_close(b.decoder);
    model_close(b.model);
    b.be->close(b.be);
    int32_t *arrays[] = {b.tokens, b.positions, b.slots, b.rows, b.seq_start, b.kv_len, b.table};
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) free(arrays[i]);
    return 0;
}
