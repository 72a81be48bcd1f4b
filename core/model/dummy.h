#ifndef LLM_MODEL_DUMMY_H
#define LLM_MODEL_DUMMY_H

/* Random weights, to measure a model of any size that is not at hand. */

#include "base/dtype.h"

/* n values, uniform with mean 0 and the given standard deviation, stored as dtype (F32, F16 or BF16) at out.
 * A function of (name, seed) and the position, so that a tensor can be made again at will. About 1 ns a
 * value. */
/* The generator's state for a tensor; value i is made of bits 12 * (i mod 5) and on of draw i / 5. */
uint64_t dummy_state(const char *name, uint64_t seed);

void dummy_fill(const char *name, uint64_t seed, enum llm_dtype dtype, float deviation, int64_t n, void *out);

#endif
