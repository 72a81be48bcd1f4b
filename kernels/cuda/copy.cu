/* The speed of memory, for benchmarks to measure others against: a copy within it by a kernel. The driver's
 * own copy reaches two thirds of that. */

#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256, IN_FLIGHT = 4 };

static __global__ void copy_kernel(uint4 *to, const uint4 *from, size_t n)
{
    pdl_launch();
    pdl_wait();
    const size_t first = (size_t)blockIdx.x * THREADS * IN_FLIGHT + threadIdx.x;
    uint4 v[IN_FLIGHT];
#pragma unroll
    for (int i = 0; i < IN_FLIGHT; i++)
        if (first + i * THREADS < n) v[i] = from[first + i * THREADS];
#pragma unroll
    for (int i = 0; i < IN_FLIGHT; i++)
        if (first + i * THREADS < n) to[first + i * THREADS] = v[i];
}

/* bytes: a multiple of 16, up to 2^40. */
extern "C" __attribute__((visibility("default"))) llm_status cuda_plugin_copy(struct backend *be, void *to,
                                                                              const void *from, size_t bytes)
{
    const size_t n = bytes / 16, a_block = THREADS * IN_FLIGHT;
    return cuda_launch(cuda_of(be), "copy", copy_kernel, dim3((unsigned)((n + a_block - 1) / a_block)),
                       dim3(THREADS), 0, static_cast<uint4 *>(to), static_cast<const uint4 *>(from), n);
}
