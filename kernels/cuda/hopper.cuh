#ifndef LLM_KERNELS_CUDA_HOPPER_CUH
#define LLM_KERNELS_CUDA_HOPPER_CUH

/* Instructions of Hopper (sm_90a) that CUDA C++ has no names for: transaction barriers, the tensor memory
 * accelerator, warpgroup products. Names and meanings: the PTX ISA manual, 8.0 and later. */

#include "kernels/cuda/ptx.cuh"

#include <cuda.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HOPPER 1
#else
#define HOPPER 0
#endif

#ifdef __CUDACC__

/* ---- barriers in shared memory, by address ----------------------------------------------------------------
 */

static __device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals));
}

/* Makes the initialization visible to the TMA unit. */
static __device__ __forceinline__ void barrier_init_fence()
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

static __device__ __forceinline__ void barrier_arrive(uint32_t barrier)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

/* Arrives, and lets the phase end only when `bytes` have been written. */
static __device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
                 : "memory");
}

static __device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity)
{
    uint32_t done;
    do {
        asm volatile("{\n.reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.b32 %0, 1, 0, p;\n}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    } while (!done);
}

/* ---- tensor memory accelerator ----------------------------------------------------------------------------
 */

static __device__ __forceinline__ uint64_t evict_first_policy()
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

static __device__ __forceinline__ uint64_t evict_normal_policy()
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

static __device__ __forceinline__ uint64_t evict_last_policy()
{
    uint64_t policy;
    asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(policy));
    return policy;
}

static __device__ __forceinline__ void tma_prefetch_map(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* The box of a two-dimensional map at column x, row y; its bytes count for the barrier. */
static __device__ __forceinline__ void tma_load(uint32_t to, const CUtensorMap *map, int32_t x, int32_t y,
                                                uint32_t barrier, uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(barrier), "l"(policy)
                 : "memory");
}

/* Without a hint for the cache. */
static __device__ __forceinline__ void tma_load_plain(uint32_t to, const CUtensorMap *map, int32_t x,
                                                      int32_t y, uint32_t barrier)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 " [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(barrier)
                 : "memory");
}

/* The same into the same place of all blocks of the cluster in `blocks`, a bit each, and for their barriers.
 */
static __device__ __forceinline__ void tma_load_multicast(uint32_t to, const CUtensorMap *map, int32_t x,
                                                          int32_t y, uint32_t barrier, uint16_t blocks,
                                                          uint64_t policy)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster.L2::cache_hint [%0], [%1, {%2, %3}], [%4], %5, %6;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(blocks), "l"(policy)
                 : "memory");
}

static __device__ __forceinline__ void tma_load_multicast_plain(uint32_t to, const CUtensorMap *map,
                                                                int32_t x, int32_t y, uint32_t barrier,
                                                                uint16_t blocks)
{
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3}], [%4], %5;" ::"r"(to),
                 "l"(map), "r"(x), "r"(y), "r"(barrier), "h"(blocks)
                 : "memory");
}

/* A box from shared memory to column x, row y; what lies outside of the map is left out. */
static __device__ __forceinline__ void tma_store(const CUtensorMap *map, int32_t x, int32_t y, uint32_t from)
{
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];" ::"l"(map),
                 "r"(x), "r"(y), "r"(from)
                 : "memory");
}

static __device__ __forceinline__ void tma_store_commit()
{
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/* Waits until the shared memory of all stores that this thread committed has been read. */
static __device__ __forceinline__ void tma_store_wait()
{
    asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory");
}

/* Makes ordinary writes to shared memory visible to tensor cores and the TMA unit. */
static __device__ __forceinline__ void async_fence()
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* `bytes` (a multiple of 16) of contiguous memory. */
static __device__ __forceinline__ void bulk_load(uint32_t to, const void *from, uint32_t bytes,
                                                 uint32_t barrier, uint64_t policy)
{
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
                 " [%0], [%1], %2, [%3], %4;" ::"r"(to),
                 "l"(from), "r"(bytes), "r"(barrier), "l"(policy)
                 : "memory");
}

/* ---- warpgroups and shared memory
 * ---------------------------------------------------------------------------
 */

/* Of a warpgroup whose kernel has __launch_bounds__(threads, 1): registers a thread, a multiple of 8. */
template <int N> static __device__ __forceinline__ void registers_give()
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> static __device__ __forceinline__ void registers_take()
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

static __device__ __forceinline__ uint32_t shared_word(uint32_t address)
{
    uint32_t word;
    asm volatile("ld.shared.b32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
    return word;
}

static __device__ __forceinline__ void shared_word_set(uint32_t address, uint32_t word)
{
    asm volatile("st.shared.b32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}

/* Four 8x8 matrices of 16-bit elements, each stored transposed; lane l gives where row l % 8 of the stored
 * matrix l / 8 begins. */
static __device__ __forceinline__ void store_matrices_transposed(const uint32_t (&r)[4], uint32_t address)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
                 "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
                 : "memory");
}

static __device__ __forceinline__ float4 shared_quad(uint32_t address)
{
    float4 v;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(v.x), "=f"(v.y), "=f"(v.z), "=f"(v.w)
                 : "r"(address)
                 : "memory");
    return v;
}

/* ---- clusters: blocks that reach each other's shared memory
 * ------------------------------------------------
 */

static __device__ __forceinline__ uint32_t cluster_rank()
{
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
}

/* All threads of all blocks of the cluster. */
static __device__ __forceinline__ void cluster_sync()
{
    asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}

/* Where what is at `address` here is in block `rank` of the cluster. */
static __device__ __forceinline__ uint32_t remote_address(uint32_t address, uint32_t rank)
{
    uint32_t remote;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(remote) : "r"(address), "r"(rank));
    return remote;
}

static __device__ __forceinline__ void remote_quad_set(uint32_t address, float a, float b, float c, float d)
{
    asm volatile("st.shared::cluster.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(a), "f"(b), "f"(c),
                 "f"(d)
                 : "memory");
}

/* Arrives at the barrier of block `rank` of the cluster that lies where `barrier` lies in this block. Orders
 * no ordinary writes for that block: that would take a fence of hundreds of cycles. */
static __device__ __forceinline__ void barrier_arrive_at(uint32_t barrier, uint32_t rank)
{
    asm volatile("{\n.reg .b32 remote;\n"
                 "mapa.shared::cluster.u32 remote, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [remote];\n}" ::"r"(barrier),
                 "r"(rank)
                 : "memory");
}

/* ---- warpgroup products -----------------------------------------------------------------------------------
 */

static __device__ __forceinline__ void wgmma_fence()
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

static __device__ __forceinline__ void wgmma_commit()
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int PENDING> static __device__ __forceinline__ void wgmma_wait()
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}

/* Keeps the compiler from moving uses of d above the wait before. */
template <int N> static __device__ __forceinline__ void wgmma_pin(float (&d)[N])
{
#pragma unroll
    for (int i = 0; i < N; i++) asm volatile("" : "+f"(d[i])::"memory");
}

/* Describes rows of 128 bytes (64 16-bit numbers along k) in shared memory as the TMA unit swizzles them:
 * groups of 8 rows follow each other. A step of 16 along k adds 2. Of a factor that is transposed, `leading`
 * bytes lead from one such column of groups to the next. */
static __device__ __forceinline__ uint64_t wgmma_descriptor(uint32_t address, uint32_t leading = 16)
{
    return (uint64_t)(address >> 4 & 0x3fff) | (uint64_t)(leading >> 4) << 16 | (uint64_t)(1024 >> 4) << 32 |
           1ull << 62;
}

template <typename T> constexpr bool is_bf16 = false;
template <> inline constexpr bool is_bf16<__nv_bfloat16> = true;

/* Operands of products with 4 to 32 results a thread. */
#define WGMMA_4  "%0, %1, %2, %3"
#define WGMMA_8  "%0, %1, %2, %3, %4, %5, %6, %7"
#define WGMMA_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define WGMMA_32                                                                                             \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                 \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define WGMMA_D4(d) "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
#define WGMMA_D8(d) WGMMA_D4(d), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7])
#define WGMMA_D16(d)                                                                                         \
    WGMMA_D8(d), "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]),    \
        "+f"(d[15])
#define WGMMA_D32(d)                                                                                         \
    WGMMA_D16(d), "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), \
        "+f"(d[23]), "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]),           \
        "+f"(d[30]), "+f"(d[31])

#define WGMMA(shape, results, a, b, ...)                                                                     \
    asm volatile("wgmma.mma_async.sync.aligned." shape " {" results "}, " a ", " b ", 1, 1, 1, 0, 0;"        \
                 : __VA_ARGS__                                                                               \
                 : "l"(w), "l"(x))
#define WGMMA_REGISTERS(shape, results, a, b, ...)                                                           \
    asm volatile("wgmma.mma_async.sync.aligned." shape " {" results "}, {" a "}, " b ", 1, 1, 1, 0;"         \
                 : __VA_ARGS__                                                                               \
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(x))

/* d [64 rows of w, N rows of x] += w x^T over 16 of k, both in shared memory. In thread t of the warpgroup,
 * w may also come from registers: of row t % 32 / 4 (+ 8 in 1 and 3), k 2 (t % 4) (+ 8 in 2 and 3), and the
 * next. d[4j + i] is row 16 (t / 32) + t % 32 / 4 + 8 (i / 2), column 8j + 2 (t % 4) + i % 2. */
template <typename T, int N> struct wgmma_tile;

template <typename T> struct wgmma_tile<T, 8> {
    static __device__ __forceinline__ void multiply(float (&d)[4], uint64_t w, uint64_t x)
    {
        if constexpr (is_bf16<T>)
            WGMMA("m64n8k16.f32.bf16.bf16", WGMMA_4, "%4", "%5", WGMMA_D4(d));
        else
            WGMMA("m64n8k16.f32.f16.f16", WGMMA_4, "%4", "%5", WGMMA_D4(d));
    }
    static __device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&w)[4], uint64_t x)
    {
        if constexpr (is_bf16<T>)
            WGMMA_REGISTERS("m64n8k16.f32.bf16.bf16", WGMMA_4, "%4, %5, %6, %7", "%8", WGMMA_D4(d));
        else
            WGMMA_REGISTERS("m64n8k16.f32.f16.f16", WGMMA_4, "%4, %5, %6, %7", "%8", WGMMA_D4(d));
    }
};

template <typename T> struct wgmma_tile<T, 16> {
    static __device__ __forceinline__ void multiply(float (&d)[8], uint64_t w, uint64_t x)
    {
        if constexpr (is_bf16<T>)
            WGMMA("m64n16k16.f32.bf16.bf16", WGMMA_8, "%8", "%9", WGMMA_D8(d));
        else
            WGMMA("m64n16k16.f32.f16.f16", WGMMA_8, "%8", "%9", WGMMA_D8(d));
    }
    static __device__ __forceinline__ void multiply(float (&d)[8], const uint32_t (&w)[4], uint64_t x)
    {
        if constexpr (is_bf16<T>)
            WGMMA_REGISTERS("m64n16k16.f32.bf16.bf16", WGMMA_8, "%8, %9, %10, %11", "%12", WGMMA_D8(d));
        else
            WGMMA_REGISTERS("m64n16k16.f32.f16.f16", WGMMA_8, "%8, %9, %10, %11", "%12", WGMMA_D8(d));
    }
};

template <typename T> struct wgmma_tile<T, 32> {
    static __device__ __forceinline__ void multiply(float (&d)[16], uint64_t w, uint64_t x)
    {
        if constexpr (is_bf16<T>)
            WGMMA("m64n32k16.f32.bf16.bf16", WGMMA_16, "%16", "%17", WGMMA_D16(d));
        else
            WGMMA("m64n32k16.f32.f16.f16", WGMMA_16, "%16", "%17", WGMMA_D16(d));
    }
    static __device__ __forceinline__ void multiply(float (&d)[16], const uint32_t (&w)[4], uint64_t x)
    {
        if constexpr (is_bf16<T>)
            WGMMA_REGISTERS("m64n32k16.f32.bf16.bf16", WGMMA_16, "%16, %17, %18, %19", "%20", WGMMA_D16(d));
        else
            WGMMA_REGISTERS("m64n32k16.f32.f16.f16", WGMMA_16, "%16, %17, %18, %19", "%20", WGMMA_D16(d));
    }
};

template <typename T> struct wgmma_tile<T, 64> {
    static __device__ __forceinline__ void multiply(float (&d)[32], uint64_t w, uint64_t x)
    {
        if constexpr (is_bf16<T>)
            WGMMA("m64n64k16.f32.bf16.bf16", WGMMA_32, "%32", "%33", WGMMA_D32(d));
        else
            WGMMA("m64n64k16.f32.f16.f16", WGMMA_32, "%32", "%33", WGMMA_D32(d));
    }
    static __device__ __forceinline__ void multiply(float (&d)[32], const uint32_t (&w)[4], uint64_t x)
    {
        if constexpr (is_bf16<T>)
            WGMMA_REGISTERS("m64n64k16.f32.bf16.bf16", WGMMA_32, "%32, %33, %34, %35", "%36", WGMMA_D32(d));
        else
            WGMMA_REGISTERS("m64n64k16.f32.f16.f16", WGMMA_32, "%32, %33, %34, %35", "%36", WGMMA_D32(d));
    }
};

#undef WGMMA
#undef WGMMA_REGISTERS

#define WGMMA_D8_FROM(d, i)                                                                                  \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]),              \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define WGMMA_D32_FROM(d, i)                                                                                 \
    WGMMA_D8_FROM(d, i), WGMMA_D8_FROM(d, i + 8), WGMMA_D8_FROM(d, i + 16), WGMMA_D8_FROM(d, i + 24)
#define WGMMA_D48(d)  WGMMA_D32_FROM(d, 0), WGMMA_D8_FROM(d, 32), WGMMA_D8_FROM(d, 40)
#define WGMMA_D64(d)  WGMMA_D32_FROM(d, 0), WGMMA_D32_FROM(d, 32)
#define WGMMA_D96(d)  WGMMA_D64(d), WGMMA_D32_FROM(d, 64)
#define WGMMA_D112(d) WGMMA_D96(d), WGMMA_D8_FROM(d, 96), WGMMA_D8_FROM(d, 104)
#define WGMMA_D128(d) WGMMA_D96(d), WGMMA_D32_FROM(d, 96)
#define WGMMA_48      WGMMA_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define WGMMA_64                                                                                             \
    WGMMA_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "            \
             "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define WGMMA_96                                                                                             \
    WGMMA_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "            \
             "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define WGMMA_112                                                                                            \
    WGMMA_96                                                                                                 \
    ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111"
#define WGMMA_128                                                                                            \
    WGMMA_112                                                                                                \
    ", "                                                                                                     \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define WGMMA_WIDE(shape, results, a, b, add, ...)                                                           \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\n"                                            \
                 "wgmma.mma_async.sync.aligned." shape " {" results "}, " a ", " b ", p, 1, 1, 0, 0;\n}"     \
                 : __VA_ARGS__                                                                               \
                 : "l"(w), "l"(x), "r"(plus))
#define WGMMA_WIDE_REGISTERS(shape, results, a, b, add, ...)                                                 \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " add ", 0;\n"                                            \
                 "wgmma.mma_async.sync.aligned." shape " {" results "}, {" a "}, " b ", p, 1, 1, 0;\n}"      \
                 : __VA_ARGS__                                                                               \
                 : "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(x), "r"(plus))

/* As wgmma_tile::multiply, of wide tiles; d = instead of += where `plus` is 0. */
template <typename T>
static __device__ __forceinline__ void wgmma_wide(float (&d)[32], uint64_t w, uint64_t x, int32_t plus)
{
    if constexpr (is_bf16<T>)
        WGMMA_WIDE("m64n64k16.f32.bf16.bf16", WGMMA_32, "%32", "%33", "%34", WGMMA_D32_FROM(d, 0));
    else
        WGMMA_WIDE("m64n64k16.f32.f16.f16", WGMMA_32, "%32", "%33", "%34", WGMMA_D32_FROM(d, 0));
}

template <typename T>
static __device__ __forceinline__ void wgmma_wide(float (&d)[48], uint64_t w, uint64_t x, int32_t plus)
{
    if constexpr (is_bf16<T>)
        WGMMA_WIDE("m64n96k16.f32.bf16.bf16", WGMMA_48, "%48", "%49", "%50", WGMMA_D48(d));
    else
        WGMMA_WIDE("m64n96k16.f32.f16.f16", WGMMA_48, "%48", "%49", "%50", WGMMA_D48(d));
}

template <typename T>
static __device__ __forceinline__ void wgmma_wide(float (&d)[64], uint64_t w, uint64_t x, int32_t plus)
{
    if constexpr (is_bf16<T>)
        WGMMA_WIDE("m64n128k16.f32.bf16.bf16", WGMMA_64, "%64", "%65", "%66", WGMMA_D64(d));
    else
        WGMMA_WIDE("m64n128k16.f32.f16.f16", WGMMA_64, "%64", "%65", "%66", WGMMA_D64(d));
}

template <typename T>
static __device__ __forceinline__ void wgmma_wide(float (&d)[96], uint64_t w, uint64_t x, int32_t plus)
{
    if constexpr (is_bf16<T>)
        WGMMA_WIDE("m64n192k16.f32.bf16.bf16", WGMMA_96, "%96", "%97", "%98", WGMMA_D96(d));
    else
        WGMMA_WIDE("m64n192k16.f32.f16.f16", WGMMA_96, "%96", "%97", "%98", WGMMA_D96(d));
}

template <typename T>
static __device__ __forceinline__ void wgmma_wide(float (&d)[112], uint64_t w, uint64_t x, int32_t plus)
{
    if constexpr (is_bf16<T>)
        WGMMA_WIDE("m64n224k16.f32.bf16.bf16", WGMMA_112, "%112", "%113", "%114", WGMMA_D112(d));
    else
        WGMMA_WIDE("m64n224k16.f32.f16.f16", WGMMA_112, "%112", "%113", "%114", WGMMA_D112(d));
}

template <typename T>
static __device__ __forceinline__ void wgmma_wide(float (&d)[128], uint64_t w, uint64_t x, int32_t plus)
{
    if constexpr (is_bf16<T>)
        WGMMA_WIDE("m64n256k16.f32.bf16.bf16", WGMMA_128, "%128", "%129", "%130", WGMMA_D128(d));
    else
        WGMMA_WIDE("m64n256k16.f32.f16.f16", WGMMA_128, "%128", "%129", "%130", WGMMA_D128(d));
}

/* The same with w from registers. */
template <typename T>
static __device__ __forceinline__ void wgmma_wide(float (&d)[48], const uint32_t (&w)[4], uint64_t x,
                                                  int32_t plus)
{
    if constexpr (is_bf16<T>)
        WGMMA_WIDE_REGISTERS("m64n96k16.f32.bf16.bf16", WGMMA_48, "%48, %49, %50, %51", "%52", "%53",
                             WGMMA_D48(d));
    else
        WGMMA_WIDE_REGISTERS("m64n96k16.f32.f16.f16", WGMMA_48, "%48, %49, %50, %51", "%52", "%53",
                             WGMMA_D48(d));
}

template <typename T>
static __device__ __forceinline__ void wgmma_wide(float (&d)[64], const uint32_t (&w)[4], uint64_t x,
                                                  int32_t plus)
{
    if constexpr (is_bf16<T>)
        WGMMA_WIDE_REGISTERS("m64n128k16.f32.bf16.bf16", WGMMA_64, "%64, %65, %66, %67", "%68", "%69",
                             WGMMA_D64(d));
    else
        WGMMA_WIDE_REGISTERS("m64n128k16.f32.f16.f16", WGMMA_64, "%64, %65, %66, %67", "%68", "%69",
                             WGMMA_D64(d));
}

template <typename T>
static __device__ __forceinline__ void wgmma_wide(float (&d)[96], const uint32_t (&w)[4], uint64_t x,
                                                  int32_t plus)
{
    if constexpr (is_bf16<T>)
        WGMMA_WIDE_REGISTERS("m64n192k16.f32.bf16.bf16", WGMMA_96, "%96, %97, %98, %99", "%100", "%101",
                             WGMMA_D96(d));
    else
        WGMMA_WIDE_REGISTERS("m64n192k16.f32.f16.f16", WGMMA_96, "%96, %97, %98, %99", "%100", "%101",
                             WGMMA_D96(d));
}

template <typename T>
static __device__ __forceinline__ void wgmma_wide(float (&d)[128], const uint32_t (&w)[4], uint64_t x,
                                                  int32_t plus)
{
    if constexpr (is_bf16<T>)
        WGMMA_WIDE_REGISTERS("m64n256k16.f32.bf16.bf16", WGMMA_128, "%128, %129, %130, %131", "%132", "%133",
                             WGMMA_D128(d));
    else
        WGMMA_WIDE_REGISTERS("m64n256k16.f32.f16.f16", WGMMA_128, "%128, %129, %130, %131", "%132", "%133",
                             WGMMA_D128(d));
}

#undef WGMMA_WIDE
#undef WGMMA_WIDE_REGISTERS
#endif

#endif
