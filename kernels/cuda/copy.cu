/* The speed of memory, for benchmarks to measure others against: a copy within it by a kernel. The driver's
 * own copy reaches two thirds of that. */

#include "kernels/cuda/cuda.cuh"

enum { THREADS = 512, IN_FLIGHT = 4 };

static __global__ void copy_kernel(uint4 *to, const uint4 *from, size_t n)
{
    pdl_launch();
    pdl_wait();
    const size_t stride = (size_t)gridDim.x * THREADS;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += IN_FLIGHT * stride) {
        uint4 v[IN_FLIGHT];
#pragma unroll
        for (int j = 0; j < IN_FLIGHT; j++)
            if (i + j * stride < n) v[j] = __ldcs(from + i + j * stride);
#pragma unroll
        for (int j = 0; j < IN_FLIGHT; j++)
            if (i + j * stride < n) __stcs(to + i + j * stride, v[j]);
    }
}

/* bytes: a multiple of 16. */
extern "C" __attribute__((visibility("default"))) llm_status cuda_plugin_copy(struct backend *be, void *to,
                                                                              const void *from, size_t bytes)
{
    struct cuda_backend *cu = cuda_of(be);
    return cuda_launch(cu, "copy", copy_kernel, dim3((unsigned)cu->n_sms * 4), dim3(THREADS), 0,
                       static_cast<uint4 *>(to), static_cast<const uint4 *>(from), bytes / 16);
}
