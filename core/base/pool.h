#ifndef LLM_BASE_POOL_H
#define LLM_BASE_POOL_H

/* A persistent pool of threads for data-parallel kernels. The thread that calls pool_run is member 0 and
 * works too; partition is static, by member index, so that results and memory traffic do not depend on luck.
 * Workers spin for a short while after a job, then sleep: an idle engine burns no CPU. One caller at a time.
 */

#include "base/status.h"

#include <stdint.h>

struct pool;

/* A job: called once in every member with its index in [0, n_members). */
typedef void pool_fn(void *arg, int32_t member, int32_t n_members);

/* n_threads >= 1 counts the caller. Errors: LLM_ENOMEM, LLM_EINVAL. */
llm_status pool_open(int32_t n_threads, struct pool **out, struct llm_error *err);
void pool_close(struct pool *pool);

int32_t pool_size(const struct pool *pool);

/* Runs fn(arg, i, n) in all members; returns when all are done. No allocation, no system call when the
 * workers are awake. */
void pool_run(struct pool *pool, pool_fn *fn, void *arg);

/* Within a job: returns once every member has called it. */
void pool_barrier(struct pool *pool);

/* The part [*begin, *end) of n items that belongs to `member`, in multiples of `grain` but for the last. */
static inline void pool_part(int64_t n, int64_t grain, int32_t member, int32_t n_members, int64_t *begin,
                             int64_t *end)
{
    int64_t units = (n + grain - 1) / grain;
    *begin = units * member / n_members * grain;
    *end = units * (member + 1) / n_members * grain;
    if (*begin > n) *begin = n;
    if (*end > n) *end = n;
}

/* Number of processors this process may use (affinity and cgroup limits respected), at least 1. */
int32_t pool_cpu_count(void);

#endif
