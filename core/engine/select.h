#ifndef LLM_ENGINE_SELECT_H
#define LLM_ENGINE_SELECT_H

/* Thresholds of top-k and top-p without sorting a vocabulary: the candidates above a guess are packed, the
 * guess lowered until they suffice, and the threshold found among them by radix selection (graph/select.h),
 * which takes no longer for a flat distribution of 100,000 candidates than its few passes do. `rest` is
 * scratch of n + SELECT_SLACK floats. w >= 0; the largest is 1. Any thread. */

#include <stdint.h>

/* The k-th largest of w[0 .. n), 1 <= k <= n. */
float select_kth(const float *w, int32_t n, int32_t k, float *rest);

/* The largest v such that the w >= v sum to at least `mass`. Those below `least` do not count. 0 < mass. */
float select_mass(const float *w, int32_t n, float least, double mass, float *rest);

#endif
