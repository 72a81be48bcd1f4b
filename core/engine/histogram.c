#include "engine/histogram.h"

#define COUNT(array) ((int32_t)(sizeof(array) / sizeof *(array)))

static const double tokens[] = {1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384};
static const double gaps[] = {.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                              .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
static const double residency[] = {.001, .002, .005, .01, .02, .05, .1,  .2,  .5,   1,   2,
                                   5,    10,   20,   30,  60,  120, 300, 600, 1200, 1800};

_Static_assert(sizeof residency / sizeof *residency < LLM_HISTOGRAM_BUCKETS, "room for the longest");

void histogram_init(struct histogram *h, const double *bounds, int32_t n_bounds)
{
    h->bounds = bounds;
    h->n_bounds = n_bounds;
    for (int32_t i = 0; i < LLM_HISTOGRAM_BUCKETS; i++) atomic_init(&h->counts[i], 0);
    atomic_init(&h->sum, 0);
}

void histogram_init_tokens(struct histogram *h)
{
    histogram_init(h, tokens, COUNT(tokens));
}

void histogram_init_gaps(struct histogram *h)
{
    histogram_init(h, gaps, COUNT(gaps));
}

void histogram_init_residency(struct histogram *h)
{
    histogram_init(h, residency, COUNT(residency));
}

/* There is one writer, so that a load and a store do where others would need an atomic addition. */
void histogram_add(struct histogram *h, double x)
{
    int32_t i = 0;
    while (i < h->n_bounds && h->bounds[i] < x) i++;
    uint64_t n = atomic_load_explicit(&h->counts[i], memory_order_relaxed);
    double sum = atomic_load_explicit(&h->sum, memory_order_relaxed);
    atomic_store_explicit(&h->counts[i], n + 1, memory_order_relaxed);
    atomic_store_explicit(&h->sum, sum + x, memory_order_relaxed);
}

void histogram_read(const struct histogram *h, struct llm_histogram *out)
{
    out->bounds = h->bounds;
    out->n_bounds = h->n_bounds;
    for (int32_t i = 0; i < LLM_HISTOGRAM_BUCKETS; i++)
        out->counts[i] = atomic_load_explicit(&h->counts[i], memory_order_relaxed);
    out->sum = atomic_load_explicit(&h->sum, memory_order_relaxed);
}
