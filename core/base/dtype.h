#ifndef LLM_BASE_DTYPE_H
#define LLM_BASE_DTYPE_H

/* Element types of tensors, as stored in model files. Quantized types come in blocks of `block` consecutive
 * elements of a row; their layouts are those of GGUF (ggml-common.h of llama.cpp is the reference). */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* name, GGUF type id (-1: none), elements a block, bytes a block */
#define LLM_DTYPE_MAP(X)                                                                                     \
    X(F32, 0, 1, 4)                                                                                          \
    X(F16, 1, 1, 2)                                                                                          \
    X(BF16, 30, 1, 2)                                                                                        \
    X(Q4_0, 2, 32, 18)                                                                                       \
    X(Q4_1, 3, 32, 20)                                                                                       \
    X(Q5_0, 6, 32, 22)                                                                                       \
    X(Q5_1, 7, 32, 24)                                                                                       \
    X(Q8_0, 8, 32, 34)                                                                                       \
    X(Q2_K, 10, 256, 84)                                                                                     \
    X(Q3_K, 11, 256, 110)                                                                                    \
    X(Q4_K, 12, 256, 144)                                                                                    \
    X(Q5_K, 13, 256, 176)                                                                                    \
    X(Q6_K, 14, 256, 210)                                                                                    \
    X(IQ4_NL, 20, 32, 18)                                                                                    \
    X(IQ4_XS, 23, 256, 136)                                                                                  \
    X(I32, 26, 1, 4)

enum llm_dtype {
#define X(name, gguf, block, bytes) DTYPE_##name,
    LLM_DTYPE_MAP(X)
#undef X
        DTYPE_COUNT
};

struct dtype_info {
    const char *name; /* "Q4_1" */
    int32_t gguf_id;
    int32_t block; /* elements */
    int32_t bytes; /* a block */
};

extern const struct dtype_info dtype_table[DTYPE_COUNT];

/* -1 if no type has this GGUF id. */
int dtype_from_gguf(uint32_t gguf_id);

static inline int dtype_is_quantized(enum llm_dtype t)
{
    return dtype_table[t].block > 1;
}

/* Bytes of n consecutive elements; n is a multiple of the block. */
static inline size_t dtype_bytes(enum llm_dtype t, int64_t n)
{
    return (size_t)(n / dtype_table[t].block) * (size_t)dtype_table[t].bytes;
}

/* A non-owning view of a stored tensor: row-major, dims in C order (the last is contiguous), so a linear
 * layer's weight is [n_out, n_in]. */
struct tensor {
    enum llm_dtype dtype;
    int32_t n_dims;
    int64_t dims[4];
    const void *data;
};

/* Number of elements. dims were checked when the file was opened: no overflow. */
static inline int64_t tensor_count(const struct tensor *t)
{
    int64_t n = 1;
    for (int32_t i = 0; i < t->n_dims; i++) n *= t->dims[i];
    return n;
}

static inline float bf16_to_f32(uint16_t h)
{
    uint32_t u = (uint32_t)h << 16;
    float f;
    memcpy(&f, &u, 4);
    return f;
}

/* Round to nearest even; NaN stays NaN. */
static inline uint16_t f32_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, 4);
    if ((u & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((u >> 16) | 0x40);
    return (uint16_t)((u + 0x7fffu + ((u >> 16) & 1)) >> 16);
}

/* IEEE half precision, exact both ways up to round-to-nearest-even. */
float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f);

#endif
