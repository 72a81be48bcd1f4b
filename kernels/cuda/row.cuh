#ifndef LLM_KERNELS_CUDA_ROW_CUH
#define LLM_KERNELS_CUDA_ROW_CUH

/* A row of logits in the hands of one block of ROW_THREADS threads: passes over it, sums and extremes over
 * the block, and the weights of sampling as the host computes them. */

#include "kernels/cuda/ptx.cuh"

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

static __device__ float block_max(float v, struct row_sums *s)
{
    for (int d = 16; d > 0; d /= 2) v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    __syncthreads();
    if (threadIdx.x % 32 == 0) s->f[threadIdx.x / 32] = v;
    __syncthreads();
    for (int w = 0; w < ROW_WARPS; w++) v = fmaxf(v, s->f[w]);
    return v;
}

/* Of the values of all threads in their order: the sum of those before the thread's own, and up to it. The
 * sum up to one thread is the sum before the next, to the bit. */
struct range {
    double before, upto, total;
};

static __device__ struct range block_scan(double v, struct row_sums *s)
{
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    double base = 0, total = 0;
    for (int d = 1; d < 32; d *= 2) {
        double o = __shfl_up_sync(~0u, v, d);
        v += lane >= d ? o : 0;
    }
    __syncthreads();
    if (lane == 31) s->d[warp] = v;
    __syncthreads();
    for (int w = 0; w < ROW_WARPS; w++) {
        if (w == warp) base = total;
        total += s->d[w];
    }
    v += base;
    double before = __shfl_up_sync(~0u, v, 1);
    return {lane > 0 ? before : base, v, total};
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

/* ---- passes ---------------------------------------------------------------------------------------------
 *
 * A row is cut into chunks, which the warps take in turns, and those into pieces of 16 elements a lane, which
 * are loaded before the first is used: by fours where the row is aligned for it. An element is the same
 * thread's in each pass. */

enum { ROW_PIECE = 512, MOST_CHUNKS = ROW_THREADS };

/* Elements: one piece, but of huge vocabularies. */
static __device__ __forceinline__ int chunk_size(int n)
{
    int size = ROW_PIECE;
    while ((n - 1) / size >= MOST_CHUNKS) size *= 2;
    return size;
}

struct piece {
    float v[16]; /* -inf beyond the row's end */
    int base, first, stride;
};

static __device__ __forceinline__ int piece_id(const struct piece *p, int k)
{
    return p->first + 128 * (k / 4) + p->stride * (k % 4);
}

static __device__ __forceinline__ struct piece load_piece(const float *x, int n, int base)
{
    struct piece p;
    p.base = base;
    const int lane = threadIdx.x % 32;
    if ((reinterpret_cast<uintptr_t>(x) & 15) == 0 && base + ROW_PIECE <= n) {
        p.stride = 1;
        p.first = base + 4 * lane;
#pragma unroll
        for (int k = 0; k < 4; k++)
            reinterpret_cast<float4 *>(p.v)[k] = *reinterpret_cast<const float4 *>(x + p.first + 128 * k);
    } else {
        p.stride = 32;
        p.first = base + lane;
#pragma unroll
        for (int k = 0; k < 16; k++) p.v[k] = p.first + 32 * k < n ? x[p.first + 32 * k] : -INFINITY;
    }
    return p;
}

static __device__ __forceinline__ float piece_max(const struct piece *p)
{
    float max = p->v[0];
#pragma unroll
    for (int k = 1; k < 16; k++) max = fmaxf(max, p->v[k]);
    return max;
}

/* Calls f(piece) for each piece of the row. */
template <typename F> static __device__ __forceinline__ void each_piece(const float *x, int n, F f)
{
    const int size = chunk_size(n);
    for (int begin = (int)threadIdx.x / 32 * size; begin < n; begin += ROW_WARPS * size)
        for (int base = begin; base < min(begin + size, n); base += ROW_PIECE) {
            const struct piece p = load_piece(x, n, base);
            f(p);
        }
}

/* Calls f(i, x) for each element. */
template <typename F> static __device__ __forceinline__ void each(const float *x, int n, F f)
{
    each_piece(x, n, [&](const struct piece &p) {
#pragma unroll
        for (int k = 0; k < 16; k++)
            if (piece_id(&p, k) < n) f(piece_id(&p, k), p.v[k]);
    });
}

/* The largest of the thread's own elements (-inf: none), and where the first piece begins that has it. */
struct own {
    float max;
    int base;
};

static __device__ __forceinline__ struct own own_max(const float *x, int n)
{
    struct own o = {-INFINITY, 0};
    each_piece(x, n, [&](const struct piece &p) {
        float max = piece_max(&p);
        if (max > o.max) o = {max, p.base};
    });
    return o;
}

/* ---- numbers --------------------------------------------------------------------------------------------
 */

/* A sum of 2^(scale x) over numbers that come piece by piece, relative to the largest so far. -inf and NaN
 * add nothing. Two sums can be made one: that with the larger max, plus the other times 2^(scale (max' -
 * max)). */
struct exp_sum {
    float max, sum;
};

static __device__ __forceinline__ void exp_sum_add(struct exp_sum *s, const struct piece *p, float least,
                                                   float scale)
{
    float max = piece_max(p);
    if (max > s->max) {
        s->sum *= exp2_fast((s->max - max) * scale);
        s->max = max;
    }
#pragma unroll
    for (int k = 0; k < 16; k++) s->sum += p->v[k] >= least ? exp2_fast((p->v[k] - s->max) * scale) : 0;
}

/* The sum as if `max` were the largest. */
static __device__ __forceinline__ double exp_sum_from(float max, struct exp_sum s, float scale)
{
    return s.sum > 0 ? (double)(s.sum * exp2_fast((s.max - max) * scale)) : 0;
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

/* exp(x) for x <= 0, to the bit as the host's (exp_core of core/graph/elementary.h, which this compiler would
 * contract); 0 below -87. For lists that are ordered by weight; a few ulp from expf, which is what sums
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
