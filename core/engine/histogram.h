#ifndef LLM_ENGINE_HISTOGRAM_H
#define LLM_ENGINE_HISTOGRAM_H

/* A distribution that the engine's thread books and anybody reads, without a lock. */

#include "llmlua.h"

#include <stdatomic.h>

struct histogram {
    const double *bounds; /* upper ends of the buckets, ascending */
    int32_t n_bounds;     /* < LLM_HISTOGRAM_BUCKETS; the last bucket has no end */
    _Atomic uint64_t counts[LLM_HISTOGRAM_BUCKETS];
    _Atomic double sum;
};

/* Clears it. bounds is borrowed for its life. */
void histogram_init(struct histogram *h, const double *bounds, int32_t n_bounds);
/* One thread's only. */
void histogram_add(struct histogram *h, double x);
/* Any thread. What is added meanwhile may be in it in part. */
void histogram_read(const struct histogram *h, struct llm_histogram *out);

/* vLLM's bounds: tokens of a step; seconds between tokens; seconds that pages are kept. */
void histogram_init_tokens(struct histogram *h);
void histogram_init_gaps(struct histogram *h);
void histogram_init_residency(struct histogram *h);

#endif
