#ifndef LLM_KERNELS_CUDA_ATTENTION_WGMMA_CUH
#define LLM_KERNELS_CUDA_ATTENTION_WGMMA_CUH

/* Hopper's own instructions: barriers of asynchronous copies, tensor copies, tensor-core products of a
 * warpgroup. sm_90a. */

#include "kernels/cuda/ptx.cuh"

/* ---- mbarriers in shared memory: `bar` is an address --------------------------------------------------- */

__device__ __forceinline__ void barrier_init(uint32_t bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_arrive(uint32_t bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory");
}

/* Arrives, and has the phase wait for so many bytes of copies. */
__device__ __forceinline__ void barrier_expect(uint32_t bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory");
}

/* Waits for the end of the phase with this parity. */
__device__ __forceinline__ void barrier_wait(uint32_t bar, uint32_t parity)
{
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(bar),
                 "r"(parity)
                 : "memory");
}

/* Of n threads, multiples of a warp: named barriers 1 to 15. */
__device__ __forceinline__ void named_sync(int32_t id, int32_t n)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
}

__device__ __forceinline__ void named_arrive(int32_t id, int32_t n)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory");
}

/* Makes ordinary writes to shared memory visible to tensor cores and tensor copies. */
__device__ __forceinline__ void fence_async_proxy()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* A box of a tensor of four dimensions; `bar` gets its bytes. */
__device__ __forceinline__ void copy_box(uint32_t to, const void *map, uint32_t bar, int32_t c0, int32_t c1,
                                         int32_t c2, int32_t c3)
{
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], "
                 "[%1, {%3, %4, %5, %6}], [%2];" ::"r"(to),
                 "l"(map), "r"(bar), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
                 : "memory");
}

/* ---- products of a warpgroup --------------------------------------------------------------------------- */

/* A matrix in shared memory in units of 8 rows of 128 bytes, 1024-byte aligned, whose 16-byte parts are
 * permuted as TMA's 128-byte swizzle does. `leading`: bytes from one column of units to the next, where
 * columns are contiguous (a transposed factor); not used otherwise. Units of a column follow each other. */
__device__ __forceinline__ uint64_t matrix_of(uint32_t address, uint32_t leading)
{
    return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>(leading >> 4) << 16 |
           static_cast<uint64_t>(1024 >> 4) << 32 | static_cast<uint64_t>(1) << 62;
}

__device__ __forceinline__ void products_begin()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void products_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

/* Waits until at most N groups are unfinished. */
template <int N> __device__ __forceinline__ void products_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* Keeps the compiler from moving uses of c across this point. */
template <int N> __device__ __forceinline__ void pin(float (&c)[N][4])
{
#pragma unroll
    for (int n = 0; n < N; n++)
#pragma unroll
        for (int i = 0; i < 4; i++) asm volatile("" : "+f"(c[n][i])::"memory");
}

#define C4(c, n)  "+f"(c[n][0]), "+f"(c[n][1]), "+f"(c[n][2]), "+f"(c[n][3])
#define C16(c, n) C4(c, n), C4(c, n + 1), C4(c, n + 2), C4(c, n + 3)
#define C32(c, n) C16(c, n), C16(c, n + 4)
#define C40(c, n) C32(c, n), C4(c, n + 8), C4(c, n + 9)
#define C48(c, n) C32(c, n), C16(c, n + 8)
#define C64(c, n) C32(c, n), C32(c, n + 8)
#define REGISTERS_32                                                                                         \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "   \
    "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define REGISTERS_40 REGISTERS_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define REGISTERS_48 REGISTERS_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define REGISTERS_64                                                                                         \
    REGISTERS_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

/* c [64, N] = a b^T (+ c): a [64, 16], b [N, 16] in shared memory, coordinates contiguous. */
#define PRODUCT_SHARED(N, type, registers, operands, m0, m1, m2)                                             \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" m2 ", 0;\n"                                            \
                 "wgmma.mma_async.sync.aligned.m64n" N "k16.f32." type "." type " {" registers "}, %" m0     \
                 ", %" m1 ", p, 1, 1, 0, 0;\n}"                                                              \
                 : operands                                                                                  \
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)))

/* c [64, N] += a b: a in registers, b [16, N] in shared memory, columns contiguous. */
#define PRODUCT_REGISTERS(N, type, registers, operands, m0, m1, m2, m3, m4)                                  \
    asm volatile("wgmma.mma_async.sync.aligned.m64n" N "k16.f32." type "." type " {" registers "}, {%" m0    \
                 ", %" m1 ", %" m2 ", %" m3 "}, %" m4 ", 1, 1, 1, 1;"                                        \
                 : operands                                                                                  \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

template <typename T> struct is_half {
    static constexpr bool value = false;
};
template <> struct is_half<__half> {
    static constexpr bool value = true;
};

template <typename T>
__device__ __forceinline__ void product_shared(float (&c)[16][4], uint64_t a, uint64_t b, bool add)
{
    if constexpr (is_half<T>::value)
        PRODUCT_SHARED("128", "f16", REGISTERS_64, C64(c, 0), "64", "65", "66");
    else
        PRODUCT_SHARED("128", "bf16", REGISTERS_64, C64(c, 0), "64", "65", "66");
}

template <typename T>
__device__ __forceinline__ void product_shared(float (&c)[8][4], uint64_t a, uint64_t b, bool add)
{
    if constexpr (is_half<T>::value)
        PRODUCT_SHARED("64", "f16", REGISTERS_32, C32(c, 0), "32", "33", "34");
    else
        PRODUCT_SHARED("64", "bf16", REGISTERS_32, C32(c, 0), "32", "33", "34");
}

/* Columns [8 FIRST, 8 (FIRST + N)) of c. */
template <typename T, int FIRST, int N, int ALL>
__device__ __forceinline__ void product_registers(float (&c)[ALL][4], const uint32_t (&a)[4], uint64_t b)
{
    constexpr bool half = is_half<T>::value;
    if constexpr (N == 8 && half)
        PRODUCT_REGISTERS("64", "f16", REGISTERS_32, C32(c, FIRST), "32", "33", "34", "35", "36");
    else if constexpr (N == 8)
        PRODUCT_REGISTERS("64", "bf16", REGISTERS_32, C32(c, FIRST), "32", "33", "34", "35", "36");
    else if constexpr (N == 10 && half)
        PRODUCT_REGISTERS("80", "f16", REGISTERS_40, C40(c, FIRST), "40", "41", "42", "43", "44");
    else if constexpr (N == 10)
        PRODUCT_REGISTERS("80", "bf16", REGISTERS_40, C40(c, FIRST), "40", "41", "42", "43", "44");
    else if constexpr (N == 12 && half)
        PRODUCT_REGISTERS("96", "f16", REGISTERS_48, C48(c, FIRST), "48", "49", "50", "51", "52");
    else if constexpr (N == 12)
        PRODUCT_REGISTERS("96", "bf16", REGISTERS_48, C48(c, FIRST), "48", "49", "50", "51", "52");
    else if constexpr (half)
        PRODUCT_REGISTERS("128", "f16", REGISTERS_64, C64(c, FIRST), "64", "65", "66", "67", "68");
    else
        PRODUCT_REGISTERS("128", "bf16", REGISTERS_64, C64(c, FIRST), "64", "65", "66", "67", "68");
}

#endif
