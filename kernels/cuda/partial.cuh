#ifndef LLM_KERNELS_CUDA_PARTIAL_CUH
#define LLM_KERNELS_CUDA_PARTIAL_CUH

/* Sums of a tile that several blocks have a part of. Each block has a place in memory, where it leaves what
 * it has of a tile that begins with another block, and a flag that says that it is there. The block with the
 * beginning waits for the flags of the others, which are resident or done, takes them down and adds up.
 *
 * A thread has N sums, a multiple of 4; the same thread of the other block has those of the same elements.
 * The THREADS threads take part, thread being one's number of them, and meet at named barrier 1. */

#include "kernels/cuda/ptx.cuh"

template <int THREADS, int N>
static __device__ __forceinline__ void partial_leave(float *place, uint32_t *flag, int32_t thread,
                                                     const float *sums)
{
    float4 *to = reinterpret_cast<float4 *>(place) + thread;
#pragma unroll
    for (int i = 0; i < N; i += 4)
        __stcg(to + i / 4 * THREADS, make_float4(sums[i], sums[i + 1], sums[i + 2], sums[i + 3]));
    __threadfence();
    named_sync(1, THREADS);
    if (thread == 0) asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
}

/* For the flags of blocks first to last; block_of: a block's number by that count. */
template <int THREADS, typename F>
static __device__ __forceinline__ void partial_wait(uint32_t *flags, int32_t first, int32_t last,
                                                    int32_t thread, F block_of)
{
    for (int32_t other = first + thread; other <= last; other += THREADS) {
        uint32_t *flag = flags + block_of(other), is_there;
        do {
            asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(is_there) : "l"(flag) : "memory");
        } while (!is_there);
        *flag = 0;
    }
    named_sync(1, THREADS);
}

template <int THREADS, int N>
static __device__ __forceinline__ void partial_add(const float *place, int32_t thread, float *sums)
{
    const float4 *from = reinterpret_cast<const float4 *>(place) + thread;
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const float4 more = __ldcg(from + i / 4 * THREADS);
        sums[i] += more.x, sums[i + 1] += more.y, sums[i + 2] += more.z, sums[i + 3] += more.w;
    }
}

#endif
