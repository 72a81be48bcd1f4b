#ifndef LLM_TESTS_TEST_KERNELS_H
#define LLM_TESTS_TEST_KERNELS_H

/* What the kernel tests share: random numbers, random stored tensors, and backends. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>

#include "base/rng.h"
#include "kernels/kernels.h"

static inline uint32_t random_u32(uint32_t stream, uint64_t i)
{
    return rng_philox(20261123, stream, i).word[0];
}

/* In [-1, 1). */
static inline float random_float(uint32_t stream, uint64_t i)
{
    return 2 * rng_uniform(random_u32(stream, i)) - 1;
}

static inline float *random_floats(uint32_t stream, size_t n)
{
    float *p = malloc((n ? n : 1) * sizeof *p);
    for (size_t i = 0; i < n; i++) p[i] = random_float(stream, i);
    return p;
}

/* Offsets of the f16 scales in a block, -1: none. */
static const int16_t half_fields[DTYPE_COUNT][2] = {
    [DTYPE_F32] = {-1, -1},   [DTYPE_F16] = {0, -1},    [DTYPE_BF16] = {-1, -1},  [DTYPE_Q4_0] = {0, -1},
    [DTYPE_Q4_1] = {0, 2},    [DTYPE_Q5_0] = {0, -1},   [DTYPE_Q5_1] = {0, 2},    [DTYPE_Q8_0] = {0, -1},
    [DTYPE_Q2_K] = {80, 82},  [DTYPE_Q3_K] = {108, -1}, [DTYPE_Q4_K] = {0, 2},    [DTYPE_Q5_K] = {0, 2},
    [DTYPE_Q6_K] = {208, -1}, [DTYPE_IQ4_NL] = {0, -1}, [DTYPE_IQ4_XS] = {0, -1},
};

/* A stored matrix [rows, n] of random bytes with finite scales. Free its data. */
static inline struct tensor random_tensor(enum llm_dtype dtype, int64_t rows, int64_t n, uint32_t stream)
{
    const size_t row_bytes = dtype_bytes(dtype, n), block = (size_t)dtype_table[dtype].bytes;
    uint8_t *data = malloc(row_bytes * (size_t)rows);
    for (size_t i = 0; i < row_bytes * (size_t)rows; i++) data[i] = (uint8_t)random_u32(stream, i);
    for (size_t b = 0; b < row_bytes / block * (size_t)rows; b++) {
        const float v = random_float(stream + 1, b);
        const uint16_t half = f32_to_f16(v), bf16 = f32_to_bf16(v);
        for (int f = 0; f < 2; f++)
            if (half_fields[dtype][f] >= 0) memcpy(data + b * block + half_fields[dtype][f], &half, 2);
        if (dtype == DTYPE_F32) memcpy(data + b * block, &v, 4);
        if (dtype == DTYPE_BF16) memcpy(data + b * block, &bf16, 2);
    }
    return (struct tensor){dtype, 2, {rows, n}, data};
}

static inline struct backend *open_backend(const char *isa, int32_t n_threads)
{
    struct backend *be;
    struct llm_error err = {0};
    if (cpu_backend_open(&(struct cpu_options){n_threads, isa}, &be, &err) != LLM_OK) return NULL;
    const struct backend_limits limits = {.max_rows = 512,
                                          .max_n = 4096,
                                          .max_seqs = 16,
                                          .max_model_len = 2048,
                                          .n_heads = 64,
                                          .head_dim = 256};
    assert_int_equal(be->reserve(be, &limits, &err), LLM_OK);
    return be;
}

/* The fast instruction sets of this machine. */
static inline int fast_isas(const char *isas[2])
{
    int n = 0;
    for (int i = 0; i < 2; i++) {
        const char *name = i ? "avx512" : "avx2";
        struct backend *be = open_backend(name, 1);
        if (!be) continue;
        isas[n++] = name;
        be->close(be);
    }
    return n;
}

/* Largest difference of two rows, relative to the largest magnitude of `want`. */
static inline double row_error(const float *got, const float *want, int64_t n)
{
    double largest = 0, difference = 0;
    for (int64_t i = 0; i < n; i++) {
        if (!isfinite(got[i])) return INFINITY;
        largest = fmax(largest, fabs(want[i]));
        difference = fmax(difference, fabs((double)got[i] - want[i]));
    }
    return difference == 0 ? 0 : difference / largest;
}

#endif
