#ifndef LLM_KERNELS_CUDA_ATTENTION_WGMMA_CUH
#define LLM_KERNELS_CUDA_ATTENTION_WGMMA_CUH

/* What attention needs of Hopper beside hopper.cuh: named barriers, tensor copies of four dimensions,
 * products of which a factor is transposed or a part of the results is meant. sm_90a. */

#include "kernels/cuda/hopper.cuh"

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

/* Keeps the compiler from moving uses of c across this point. */
template <int N> __device__ __forceinline__ void wgmma_pin(float (&c)[N][4])
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

template <typename T>
__device__ __forceinline__ void product_shared(float (&c)[16][4], uint64_t a, uint64_t b, bool add)
{
    if constexpr (is_bf16<T>)
        PRODUCT_SHARED("128", "bf16", REGISTERS_64, C64(c, 0), "64", "65", "66");
    else
        PRODUCT_SHARED("128", "f16", REGISTERS_64, C64(c, 0), "64", "65", "66");
}

template <typename T>
__device__ __forceinline__ void product_shared(float (&c)[8][4], uint64_t a, uint64_t b, bool add)
{
    if constexpr (is_bf16<T>)
        PRODUCT_SHARED("64", "bf16", REGISTERS_32, C32(c, 0), "32", "33", "34");
    else
        PRODUCT_SHARED("64", "f16", REGISTERS_32, C32(c, 0), "32", "33", "34");
}

/* Columns [8 FIRST, 8 (FIRST + N)) of c. */
template <typename T, int FIRST, int N, int ALL>
__device__ __forceinline__ void product_registers(float (&c)[ALL][4], const uint32_t (&a)[4], uint64_t b)
{
    constexpr bool half = !is_bf16<T>;
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
