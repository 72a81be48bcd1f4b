#ifndef LLM_GRAPH_SELECT_H
#define LLM_GRAPH_SELECT_H

/* Order statistics without sorting: radix selection, digit by digit from the top, in a few passes whatever
 * the values are. NaN does not occur. Any thread. */

#include <stdint.h>

/* Packs the elements of v [n] that are >= least into out, in order; returns how many they are. out has room
 * for n + SELECT_SLACK elements. */
enum { SELECT_SLACK = 16 };
int32_t select_from(const float *v, int32_t n, float least, float *out);

/* Of w [n], in lanes: one after the other, each addition would wait for the one before. */
static inline double select_sum(const float *w, int32_t n)
{
    enum { LANES = 8 };
    double lane[LANES] = {0}, sum = 0;
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int32_t j = 0; j < LANES; j++) lane[j] += w[i + j];
    for (int32_t j = 0; j < LANES; j++) sum += lane[j];
    for (; i < n; i++) sum += w[i];
    return sum;
}

/* The k-th largest of v [n], which is left in disorder; 1 <= k <= n. */
float select_largest(float *v, int32_t n, int32_t k);

/* Walks v [n] from the largest down until the weights passed reach `mass`; returns where it ends, at the
 * latest at the smallest. weights may be v itself. Leaves both in disorder; n >= 1. */
float select_at_mass(float *v, float *weights, int32_t n, double mass);

#endif
