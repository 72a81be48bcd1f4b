#define _GNU_SOURCE
#include "base/pool.h"
#include "base/mem.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A waiting thread first spins, for the gap between two jobs of a decode step is a few microseconds; then it
 * offers its processor to others at each look (where others run, it is likely they who hold up the thread it
 * waits for); a worker that has seen no job for about a millisecond, longer than sampling takes between two
 * steps, goes to sleep. */
enum { SPINS = 400, YIELDS_BEFORE_SLEEP = 3000 };

struct pool {
    int32_t n;          /* members, the caller included */
    pthread_t *threads; /* n - 1 workers */

    _Alignas(64) _Atomic uint32_t job; /* number of the current job; workers futex-wait on it */
    _Atomic uint32_t n_asleep;
    pool_fn *fn; /* null asks the workers to leave */
    void *arg;

    _Alignas(64) _Atomic int32_t n_running; /* workers still in the job */
    _Alignas(64) _Atomic int32_t n_arrived; /* at the barrier */
    _Atomic uint32_t barrier_round;
};

struct worker {
    struct pool *pool;
    int32_t member;
};

static inline void cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#else
    __asm__ volatile("" ::: "memory");
#endif
}

static inline void backoff(uint32_t *spins)
{
    if (++*spins < SPINS) {
        cpu_relax();
    } else {
        sched_yield();
    }
}

static uint32_t wait_for_job(struct pool *pool, uint32_t last)
{
    uint32_t spins = 0, job;
    while ((job = atomic_load_explicit(&pool->job, memory_order_acquire)) == last) {
        backoff(&spins);
        if (spins < SPINS + YIELDS_BEFORE_SLEEP) continue;
        atomic_fetch_add(&pool->n_asleep, 1); /* before the check in the system call: see pool_run */
        syscall(SYS_futex, &pool->job, FUTEX_WAIT_PRIVATE, last, NULL, NULL, 0);
        atomic_fetch_sub(&pool->n_asleep, 1);
        spins = 0;
    }
    return job;
}

static void *worker_main(void *p)
{
    struct worker self = *(struct worker *)p;
    mem_free(p);
    struct pool *pool = self.pool;
    for (uint32_t job = 0;;) {
        job = wait_for_job(pool, job);
        pool_fn *fn = pool->fn;
        if (fn) fn(pool->arg, self.member, pool->n);
        atomic_fetch_sub_explicit(&pool->n_running, 1, memory_order_release);
        if (!fn) return NULL;
    }
}

static void start_job(struct pool *pool, pool_fn *fn, void *arg)
{
    pool->fn = fn;
    pool->arg = arg;
    atomic_store_explicit(&pool->n_running, pool->n - 1, memory_order_relaxed);
    atomic_fetch_add(&pool->job,
                     1); /* sequentially consistent: a worker about to sleep sees it, or is counted */
    if (atomic_load(&pool->n_asleep) > 0)
        syscall(SYS_futex, &pool->job, FUTEX_WAKE_PRIVATE, pool->n, NULL, NULL, 0);
}

void pool_run(struct pool *pool, pool_fn *fn, void *arg)
{
    if (pool->n == 1) {
        fn(arg, 0, 1);
        return;
    }
    start_job(pool, fn, arg);
    fn(arg, 0, pool->n);
    uint32_t spins = 0;
    while (atomic_load_explicit(&pool->n_running, memory_order_acquire) > 0) backoff(&spins);
}

void pool_barrier(struct pool *pool)
{
    if (pool->n == 1) return;
    uint32_t round = atomic_load_explicit(&pool->barrier_round, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&pool->n_arrived, 1, memory_order_acq_rel) == pool->n - 1) {
        atomic_store_explicit(&pool->n_arrived, 0, memory_order_relaxed);
        atomic_store_explicit(&pool->barrier_round, round + 1, memory_order_release);
        return;
    }
    uint32_t spins = 0;
    while (atomic_load_explicit(&pool->barrier_round, memory_order_acquire) == round) backoff(&spins);
}

llm_status pool_open(int32_t n_threads, struct pool **out, struct llm_error *err)
{
    if (n_threads < 1 || n_threads > 1024)
        return llm_fail(err, LLM_EINVAL, "threads is %d; it must be between 1 and 1024", n_threads);
    struct pool *pool = aligned_alloc(64, (sizeof *pool + 63) / 64 * 64);
    pthread_t *threads = mem_array((size_t)n_threads, sizeof *threads);
    if (!pool || !threads) {
        mem_free(pool);
        mem_free(threads);
        return llm_fail(err, LLM_ENOMEM, "no memory for a pool of %d threads", n_threads);
    }
    memset(pool, 0, sizeof *pool);
    pool->threads = threads;
    for (pool->n = 1; pool->n < n_threads; pool->n++) {
        struct worker *w = mem_alloc(sizeof *w);
        if (w) *w = (struct worker){pool, pool->n};
        if (!w || pthread_create(&threads[pool->n - 1], NULL, worker_main, w) != 0) {
            llm_fail(err, LLM_ENOMEM, "cannot start thread %d of %d", pool->n, n_threads);
            mem_free(w);
            pool_close(pool);
            return LLM_ENOMEM;
        }
    }
    *out = pool;
    return LLM_OK;
}

void pool_close(struct pool *pool)
{
    if (!pool) return;
    if (pool->n > 1) start_job(pool, NULL, NULL);
    for (int32_t i = 0; i < pool->n - 1; i++) pthread_join(pool->threads[i], NULL);
    mem_free(pool->threads);
    free(pool);
}

int32_t pool_size(const struct pool *pool)
{
    return pool->n;
}

/* The cgroup v2 limit, in whole processors, or a large number. */
static int32_t cgroup_cpus(void)
{
    FILE *f = fopen("/sys/fs/cgroup/cpu.max", "re");
    if (!f) return INT32_MAX;
    long quota = 0, period = 0;
    int n = fscanf(f, "%ld %ld", &quota, &period); /* "max 100000" where there is no limit */
    fclose(f);
    if (n != 2 || period <= 0 || quota <= 0) return INT32_MAX;
    return (int32_t)((quota + period - 1) / period);
}

int32_t pool_cpu_count(void)
{
    cpu_set_t set;
    int32_t n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    int32_t limit = cgroup_cpus();
    return n < limit ? n : limit;
}
