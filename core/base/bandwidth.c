#define _GNU_SOURCE
#include "base/bandwidth.h"
#include "base/mem.h"
#include "base/pool.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Larger than any last-level cache that two or a few cores share. PASSES is odd: the median is one of them.
 */
enum { BUFFER_BYTES = 256 << 20, PASSES = 9, LANES = 16, MAX_THREADS = 1024 };

struct read_job {
    const uint64_t *words;
    int64_t n_words;
    uint64_t sums[MAX_THREADS]; /* written once a pass; keeps the reads from being removed */
};

/* LANES independent sums: enough loads in flight to be bound by memory, not by the additions. */
static uint64_t sum_words(const uint64_t *words, int64_t n)
{
    uint64_t lanes[LANES] = {0}, sum = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) lanes[lane] += words[i + lane];
    }
    for (; i < n; i++) sum += words[i];
    for (int lane = 0; lane < LANES; lane++) sum += lanes[lane];
    return sum;
}

static void read_part(void *arg, int32_t member, int32_t n_members)
{
    struct read_job *job = arg;
    int64_t begin = 0, end = 0;
    pool_part(job->n_words, LANES, member, n_members, &begin, &end);
    job->sums[member] = sum_words(job->words + begin, end - begin);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

llm_status bandwidth_read(int32_t n_threads, double *bytes_per_second, struct llm_error *err)
{
    if (n_threads == 0) n_threads = pool_cpu_count();
    if (n_threads < 1 || n_threads > MAX_THREADS)
        return llm_fail(err, LLM_EINVAL, "threads is %d; it must be between 0 and %d", n_threads,
                        MAX_THREADS);
    struct pool *pool = NULL;
    struct read_job *job = mem_zalloc(sizeof *job);
    uint64_t *buffer = mem_map(BUFFER_BYTES);
    llm_status status = LLM_OK;
    if (!job || !buffer) {
        status = llm_fail(err, LLM_ENOMEM, "no memory to measure memory bandwidth with");
        goto fail;
    }
    status = pool_open(n_threads, &pool, err);
    if (status != LLM_OK) goto fail;

    memset(buffer, 1, BUFFER_BYTES); /* untouched pages all map to one page of zeros, which stays in cache */
    job->words = buffer;
    job->n_words = BUFFER_BYTES / (int64_t)sizeof *buffer;
    double seconds[PASSES];
    pool_run(pool, read_part, job);
    for (int i = 0; i < PASSES; i++) {
        double start = now();
        pool_run(pool, read_part, job);
        seconds[i] = now() - start;
    }
    qsort(seconds, PASSES, sizeof *seconds, compare_doubles);
    *bytes_per_second = BUFFER_BYTES / seconds[PASSES / 2];
fail:
    if (buffer) mem_unmap(buffer, BUFFER_BYTES);
    mem_free(job);
    pool_close(pool);
    return status;
}
