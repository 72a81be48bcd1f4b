/* Copies by kernels: small ones between pinned memory and the device, and one within the device. */

#include "kernels/cuda/cuda.cuh"

enum { THREADS = 256, IN_FLIGHT = 4 };

/* ---- small ones -----------------------------------------------------------------------------------------
 *
 * The copy engine is another one than that of kernels: to hand over and back takes longer than the copy, on
 * the device and, for copies of rows, on the host. */

/* Pitches and width in words. What lies in pinned memory is read past all caches: the host has written it
 * anew. */
static __global__ void small_kernel(uint32_t *to, int64_t to_pitch, const uint32_t *from, int64_t from_pitch,
                                    int32_t width, int32_t n)
{
    pdl_launch();
    pdl_wait();
    const int32_t i = (int32_t)(blockIdx.x * THREADS + threadIdx.x);
    if (i < n) to[i / width * to_pitch + i % width] = __ldcv(from + i / width * from_pitch + i % width);
}

int is_small_copy(size_t bytes, int32_t rows)
{
    return bytes > 0 && bytes % 4 == 0 && rows > 0 && bytes * (size_t)rows <= SMALL_COPY_BYTES;
}

llm_status small_copy(struct cuda_backend *cu, void *to, size_t to_pitch, const void *from, size_t from_pitch,
                      size_t bytes, int32_t rows)
{
    const int32_t width = (int32_t)(bytes / 4), n = width * rows;
    return cuda_launch(cu, "a small copy", small_kernel, dim3((unsigned)((n + THREADS - 1) / THREADS)),
                       dim3(THREADS), 0, static_cast<uint32_t *>(to), (int64_t)(to_pitch / 4),
                       static_cast<const uint32_t *>(from), (int64_t)(from_pitch / 4), width, n);
}

/* ---- a large one ----------------------------------------------------------------------------------------
 *
 * The speed of memory, for benchmarks to measure others against. The driver's own copy reaches two thirds of
 * that. */

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
