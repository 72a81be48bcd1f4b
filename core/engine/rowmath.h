#ifndef LLM_ENGINE_ROWMATH_H
#define LLM_ENGINE_ROWMATH_H

/* Passes over a row of logits, written so that the compiler vectorizes them. Results are a function of the
 * row alone, to the bit, on every machine: sums run in ROW_LANES parallel lanes that are added in a fixed
 * order, and nothing is contracted. Any thread. */

#include <stddef.h>
#include <stdint.h>

enum {
    ROW_LANES = 16,
    ROW_BLOCK = 512 /* elements; a row of weights comes with the sum of each block */
};

static inline int32_t row_blocks(int32_t n)
{
    return (n + ROW_BLOCK - 1) / ROW_BLOCK;
}

/* The largest element; -inf if there is none above it. NaN counts as -inf. */
float row_max(const float *x, int32_t n);
/* Lowest index of the largest element, 0 if all are NaN or -inf. */
int32_t row_argmax(const float *x, int32_t n);

/* 1 if no element is NaN or +inf and one is above -inf. */
int row_is_usable(const float *x, int32_t n);

/* w[i] = exp((x[i] - max) * scale), w may be x; sums[b] of block b. Returns the sum of all. scale > 0. */
double row_weights(const float *x, int32_t n, float max, float scale, float *w, double *sums);

/* Sum of the w[i] >= least; sums[b] of block b. */
double row_sum_from(const float *w, int32_t n, float least, double *sums);
int32_t row_count_from(const float *w, int32_t n, float least);

/* The indices of the w[i] >= least, in order, of which there is room for so many; returns how many there are
 * (counted on beyond the room). */
int32_t row_indices_from(const float *w, int32_t n, float least, int32_t *out, int32_t room);

/* log(sum exp(x)). max: row_max. */
double row_logsumexp(const float *x, int32_t n, float max);

#endif
