#ifndef LLM_KERNELS_CUDA_QUANT_CUH
#define LLM_KERNELS_CUDA_QUANT_CUH

/* Stored numbers on the device, one at a time: what kernels/cpu/dequant.c defines, for kernels that lay
 * weights out at load. Speed is of no concern here. */

#include "kernels/cuda/cuda.cuh"

/* A quantized number is scale * q + min. */
struct quant {
    int q;
    float scale, min;
};

static __device__ __forceinline__ float half_at(const uint8_t *p)
{
    return __half2float(__ushort_as_half((unsigned short)(p[0] | p[1] << 8)));
}

static __device__ __forceinline__ int nibble(const uint8_t *p, int j)
{
    return j < 16 ? p[j] & 15 : p[j - 16] >> 4;
}

/* Element j of 32: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL. p: the block. */
static __device__ inline struct quant quant32_at(enum llm_dtype dtype, const uint8_t *p, int j)
{
    constexpr int8_t iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    const float d = half_at(p);
    switch (dtype) {
    case DTYPE_Q4_0:
        return {nibble(p + 2, j) - 8, d, 0};
    case DTYPE_Q4_1:
        return {nibble(p + 4, j), d, half_at(p + 2)};
    case DTYPE_Q5_0:
        return {(nibble(p + 6, j) | (p[2 + j / 8] >> (j % 8) & 1) << 4) - 16, d, 0};
    case DTYPE_Q5_1:
        return {nibble(p + 8, j) | (p[4 + j / 8] >> (j % 8) & 1) << 4, d, half_at(p + 2)};
    case DTYPE_IQ4_NL:
        return {iq4[nibble(p + 2, j)], d, 0};
    default: /* Q8_0 */
        return {(int8_t)p[2 + j], d, 0};
    }
}

/* The 6-bit scale and minimum of 32 elements number j of a Q4_K or Q5_K block; p: its 12 bytes. */
static __device__ inline void k_scale(const uint8_t *p, int j, int *scale, int *min)
{
    if (j < 4) {
        *scale = p[j] & 63;
        *min = p[j + 4] & 63;
    } else {
        *scale = (p[j + 4] & 15) | (p[j - 4] >> 6) << 4;
        *min = (p[j + 4] >> 4) | (p[j] >> 6) << 4;
    }
}

static __device__ inline int q3_k_scale(const uint8_t *p, int i)
{
    const int low = i < 8 ? p[i] & 15 : p[i - 8] >> 4;
    return (low | (p[8 + i % 4] >> (i / 4 * 2) & 3) << 4) - 32;
}

/* Element i of 256: Q2_K to Q6_K, IQ4_XS. */
static __device__ inline struct quant quant256_at(enum llm_dtype dtype, const uint8_t *p, int i)
{
    constexpr int8_t iq4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    const int half = i / 128, j = i % 128 / 32, l = i % 32; /* Q2_K, Q3_K, Q6_K */
    const int pair = p[(dtype == DTYPE_Q2_K ? 16 : 32) + half * 32 + l] >> (2 * j) & 3;
    int scale, min;
    switch (dtype) {
    case DTYPE_Q2_K:
        return {pair, half_at(p + 80) * (float)(p[i / 16] & 15),
                -(half_at(p + 82) * (float)(p[i / 16] >> 4))};
    case DTYPE_Q3_K:
        return {pair - (p[i % 32] >> (i / 32) & 1 ? 0 : 4),
                half_at(p + 108) * (float)q3_k_scale(p + 96, i / 16), 0};
    case DTYPE_Q4_K:
        k_scale(p + 4, i / 32, &scale, &min);
        return {p[16 + i / 64 * 32 + l] >> (i / 32 % 2 * 4) & 15, half_at(p) * (float)scale,
                -(half_at(p + 2) * (float)min)};
    case DTYPE_Q5_K:
        k_scale(p + 4, i / 32, &scale, &min);
        return {(p[48 + i / 64 * 32 + l] >> (i / 32 % 2 * 4) & 15) | (p[16 + l] >> (i / 32) & 1) << 4,
                half_at(p) * (float)scale, -(half_at(p + 2) * (float)min)};
    case DTYPE_IQ4_XS: {
        const int low = p[4 + i / 64] >> (i / 32 % 2 * 4) & 15, high = (p[2] | p[3] << 8) >> (i / 32 * 2) & 3;
        return {iq4[nibble(p + 8 + i / 32 * 16, l)], half_at(p) * (float)((low | high << 4) - 32), 0};
    }
    default: { /* Q6_K */
        const int low = p[half * 64 + j % 2 * 32 + l] >> (j / 2 * 4) & 15,
                  high = p[128 + half * 32 + l] >> (2 * j) & 3;
        return {(low | high << 4) - 32, half_at(p + 208) * (float)(int8_t)p[192 + i / 16], 0};
    }
    }
}

/* Element k of a row of a quantized type. */
static __device__ inline struct quant quant_at(enum llm_dtype dtype, int block_bytes, const uint8_t *row,
                                               int32_t k)
{
    switch (dtype) {
    case DTYPE_Q2_K:
    case DTYPE_Q3_K:
    case DTYPE_Q4_K:
    case DTYPE_Q5_K:
    case DTYPE_Q6_K:
    case DTYPE_IQ4_XS:
        return quant256_at(dtype, row + (int64_t)(k / 256) * block_bytes, k % 256);
    default:
        return quant32_at(dtype, row + (int64_t)(k / 32) * block_bytes, k % 32);
    }
}

/* Element k of a row of any type. block_bytes: of dtype_table. */
static __device__ inline float stored_at(enum llm_dtype dtype, int block_bytes, const uint8_t *row, int32_t k)
{
    switch (dtype) {
    case DTYPE_F32:
        return reinterpret_cast<const float *>(row)[k];
    case DTYPE_F16:
        return __half2float(reinterpret_cast<const __half *>(row)[k]);
    case DTYPE_BF16:
        return __bfloat162float(reinterpret_cast<const __nv_bfloat16 *>(row)[k]);
    default: {
        const struct quant v = quant_at(dtype, block_bytes, row, k);
        return v.scale * (float)v.q + v.min;
    }
    }
}

#endif
