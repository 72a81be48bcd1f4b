#ifndef LLM_KERNELS_CUDA_ROW_CUH
#define LLM_KERNELS_CUDA_ROW_CUH

/* A row of logits in the hands of one block of ROW_THREADS threads: passes over it, sums and extremes over
 * the block, and the weights of sampling as the host computes them. */

#include "kernels/cuda/cuda.cuh"

#include <cfloat>

enum { ROW_THREADS = 1024, ROW_WARPS = ROW_THREADS / 32 };

/* In shared memory, for the functions below. Their results are in every thread; all threads call them. */
struct row_sums {
    float f[ROW_WARPS];
    int i[ROW_WARPS];
    double d[ROW_WARPS];
};

static __device__ double block_sum(double v, struct row_sums *s)
{
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s->d[threadIdx.x / 32] = v;
    __syncthreads();
    double sum = 0;
    for (int i = 0; i < ROW_WARPS; i++) sum += s->d[i];
    return sum;
}

static __device__ int block_count(int v, struct row_sums *s)
{
    for (int d = 16; d > 0; d /= 2) v += __shfl_xor_sync(~0u, v, d);
    __syncthreads();
    if (threadIdx.x % 32 == 0) s->i[threadIdx.x / 32] = v;
    __syncthreads();
    int sum = 0;
    for (int i = 0; i < ROW_WARPS; i++) sum += s->i[i];
    return sum;
}

static __device__ float block_min(float v, struct row_sums *s)
{
    for (int d = 16; d > 0; d /= 2) v = fminf(v, __shfl_xor_sync(~0u, v, d));
    __syncthreads();
    if (threadIdx.x % 32 == 0) s->f[threadIdx.x / 32] = v;
    __syncthreads();
    for (int w = 0; w < ROW_WARPS; w++) v = fminf(v, s->f[w]);
    return v;
}

/* The largest and its lowest index. A NaN is never larger. */
static __device__ void block_argmax(float *value, int *index, struct row_sums *s)
{
    for (int d = 16; d > 0; d /= 2) {
        float v = __shfl_xor_sync(~0u, *value, d);
        int i = __shfl_xor_sync(~0u, *index, d);
        if (v > *value || (v == *value && i < *index)) {
            *value = v;
            *index = i;
        }
    }
    __syncthreads();
    if (threadIdx.x % 32 == 0) {
        s->f[threadIdx.x / 32] = *value;
        s->i[threadIdx.x / 32] = *index;
    }
    __syncthreads();
    *value = s->f[0];
    *index = s->i[0];
    for (int w = 1; w < ROW_WARPS; w++)
        if (s->f[w] > *value || (s->f[w] == *value && s->i[w] < *index)) {
            *value = s->f[w];
            *index = s->i[w];
        }
}

/* A value that at least k of the threads' keys reach, and few more than k, where they differ; 0 if fewer than
 * k keys are above 0. Found bit by bit, from the highest. */
static __device__ uint32_t block_kth(uint32_t key, int k)
{
    uint32_t cut = 0;
    for (uint32_t bit = 1u << 31; bit; bit /= 2) {
        int n = __syncthreads_count(key >= (cut | bit));
        if (n < k) continue;
        cut |= bit;
        if (n <= k + k / 8) break;
    }
    return cut;
}

/* Calls f(i, x) for each element, the same thread for the same i each time; where the row is aligned for it,
 * sixteen are loaded before the first is used. */
template <typename F> static __device__ __forceinline__ void each(const float *x, int n, F f)
{
    const int ahead = 4;
    int n4 = (reinterpret_cast<uintptr_t>(x) & 15) == 0 ? n / 4 : 0, i = threadIdx.x;
    const float4 *x4 = reinterpret_cast<const float4 *>(x);
    for (; i + (ahead - 1) * ROW_THREADS < n4; i += ahead * ROW_THREADS) {
        float4 v[ahead];
#pragma unroll
        for (int k = 0; k < ahead; k++) v[k] = x4[i + k * ROW_THREADS];
#pragma unroll
        for (int k = 0; k < ahead; k++) {
            int at = 4 * (i + k * ROW_THREADS);
            f(at, v[k].x);
            f(at + 1, v[k].y);
            f(at + 2, v[k].z);
            f(at + 3, v[k].w);
        }
    }
    for (; i < n4; i += ROW_THREADS) {
        float4 v = x4[i];
        f(4 * i, v.x);
        f(4 * i + 1, v.y);
        f(4 * i + 2, v.z);
        f(4 * i + 3, v.w);
    }
    for (i = 4 * n4 + threadIdx.x; i < n; i += ROW_THREADS) f(i, x[i]);
}

/* A number that orders as v does, among floats: equal for equal ones (both zeros too), 0 for NaN only. */
static __device__ __forceinline__ uint32_t ordered(float v)
{
    uint32_t bits = __float_as_uint(v + 0.0f);
    if (v != v) return 0;
    return bits >> 31 ? ~bits : bits | 1u << 31;
}

static __device__ __forceinline__ float from_ordered(uint32_t key)
{
    return __uint_as_float(key >> 31 ? key ^ 1u << 31 : ~key);
}

/* exp(x) for x <= 0, to the bit as the host's (core/engine/rowmath.c: Cephes' polynomial, nothing
 * contracted); 0 below -87. For lists that are ordered by weight; a few ulp from expf, which is what sums
 * take. */
static __device__ __forceinline__ float host_exp(float x)
{
    const float magic = 0x1.8p23f;
    if (!(fabsf(x) < 87)) return 0;
    float z = __fadd_rn(__fmul_rn(x, 1.44269504088896341f), magic), n = __fsub_rn(z, magic);
    float r = __fsub_rn(x, __fmul_rn(n, 0.693359375f));
    r = __fsub_rn(r, __fmul_rn(n, -2.12194440e-4f));
    float p = 1.9875691500e-4f;
    p = __fadd_rn(__fmul_rn(p, r), 1.3981999507e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 8.3334519073e-3f);
    p = __fadd_rn(__fmul_rn(p, r), 4.1665795894e-2f);
    p = __fadd_rn(__fmul_rn(p, r), 1.6666665459e-1f);
    p = __fadd_rn(__fmul_rn(p, r), 5.0000001201e-1f);
    p = __fadd_rn(__fadd_rn(__fmul_rn(p, __fmul_rn(r, r)), r), 1.0f);
    return __fmul_rn(p, __int_as_float((__float_as_int(z) - 0x4b400000 + 127) << 23));
}

#endif
