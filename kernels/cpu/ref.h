#ifndef LLM_KERNELS_CPU_REF_H
#define LLM_KERNELS_CPU_REF_H

/* The reference's pieces that tests and other code at load time call by themselves. */

#include "kernels/kernels.h"

/* y [n] = norm(x [n]); y may be x. Sums in double. */
void ref_norm_row(const struct norm *norm, const float *x, float *y, int32_t n);

/* x rounded as the fast paths round a row before they multiply it by quantized weights: blocks of 32, scale
 * d = largest magnitude / 127, to nearest; a block that is nowhere above 1e-30 becomes 0. out [n] = d *
 * round(x / d). n is a multiple of 32. */
void ref_round_row(const float *x, float *out, int32_t n);

#endif
