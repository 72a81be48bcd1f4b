/* Linear layers of few rows, on Hopper. The weights are streamed through shared memory once, at the speed of
 * memory: a block a multiprocessor, one warp that keeps the TMA unit busy with all of shared memory in
 * flight, and warpgroups that multiply, with 64 rows of the weight as the first operand of a tensor-core tile
 * and the activations' rows as the second (so that one row wastes little).
 *
 * The work, tiles of ROWS weight rows cut into steps of 64 along k, is dealt out in equal ranges of
 * consecutive steps ("stream-K", Osama et al., 2023), so that all multiprocessors end together. A range that
 * begins inside a tile leaves that tile's sums in memory; whoever has the beginning of the tile adds them up,
 * in order, so that results do not depend on timing, and finishes the tile.
 *
 * Weights do not depend on earlier kernels: the block fills shared memory with them before it waits for its
 * predecessor to end. */

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/linear.cuh"

#include <algorithm>
#include <cudaTypedefs.h>

enum { K_STEP = 64, MAX_STAGES = 24, SLICE_BYTES = 64 * K_STEP * 2, MAX_TILE = 128 * 128 };

struct stream_args {
    int32_t n_tokens, n_out, n_tiles, k_steps, n_stages;
    float *partial;  /* [blocks, MAX_TILE] */
    uint32_t *ready; /* [blocks]: its partial sums are there; its reader takes the flag down */
    const float *bias;
    void *y;
    int64_t y_stride;
    enum linear_epilogue epilogue;
    enum activation act;
    int f32_out;
};

struct stream_state {
    float *partial;
    uint32_t *ready;
    int32_t n_blocks;
    struct cuda_backend *cu;
};

#ifdef __CUDACC__

/* N: rows of x, GROUPS warpgroups of SLICES slices of 64 weight rows each. */
template <typename T, int N, int GROUPS, int SLICES> struct stream {
    static constexpr int ROWS = 64 * GROUPS * SLICES, CONSUMERS = 128 * GROUPS, THREADS = CONSUMERS + 32;
    static constexpr int PART = N < 64 ? N : 64, PARTS = N / PART; /* of x's rows: a product takes one part */
    static constexpr int X_BYTES = N * K_STEP * 2, STAGE_BYTES = GROUPS * SLICES * SLICE_BYTES + X_BYTES;
    static constexpr int SUMS = PART / 2; /* of one product, a thread */
    using sums = float[SLICES][PARTS][SUMS];
};

struct stages {
    uint32_t data, full, empty; /* addresses; a barrier has 8 bytes */
    int32_t n;
};

/* First step of block b's range. */
static __device__ __forceinline__ int32_t range_begin(const stream_args &a, int32_t b)
{
    return (int32_t)((int64_t)a.n_tiles * a.k_steps * b / gridDim.x);
}

#if HOPPER

template <typename S>
static __device__ __forceinline__ void load_weights(const stages &s, const CUtensorMap *map,
                                                    const stream_args &a, int32_t step, int32_t stage,
                                                    uint64_t policy)
{
    const uint32_t full = s.full + 8 * stage, to = s.data + stage * S::STAGE_BYTES;
    barrier_expect(full, S::STAGE_BYTES);
#pragma unroll
    for (int i = 0; i < S::ROWS / 64; i++)
        tma_load(to + i * SLICE_BYTES, map, step % a.k_steps * K_STEP, step / a.k_steps * S::ROWS + 64 * i,
                 full, policy);
}

template <typename S>
static __device__ __forceinline__ void load_x(const stages &s, const CUtensorMap *map, const stream_args &a,
                                              int32_t step, int32_t stage, uint64_t policy)
{
    tma_load(s.data + stage * S::STAGE_BYTES + S::STAGE_BYTES - S::X_BYTES, map, step % a.k_steps * K_STEP, 0,
             s.full + 8 * stage, policy);
}

/* One thread: keeps all stages in flight. */
template <typename S>
static __device__ __forceinline__ void produce(const stages &s, const CUtensorMap *w_map,
                                               const CUtensorMap *x_map, const stream_args &a, int32_t begin,
                                               int32_t end)
{
    const uint64_t once = evict_first_policy(), often = evict_last_policy();
    const int32_t ahead = min(end, begin + s.n);
    for (int32_t step = begin; step < ahead; step++) load_weights<S>(s, w_map, a, step, step - begin, once);
    pdl_wait();
    for (int32_t step = begin; step < ahead; step++) load_x<S>(s, x_map, a, step, step - begin, often);
    int32_t stage = 0;
    uint32_t parity = 0;
    for (int32_t step = ahead; step < end; step++) {
        barrier_wait(s.empty + 8 * stage, parity);
        load_weights<S>(s, w_map, a, step, stage, once);
        load_x<S>(s, x_map, a, step, stage, often);
        if (++stage == s.n) stage = 0, parity ^= 1;
    }
}

/* sums += one stage. */
template <typename T, typename S>
static __device__ __forceinline__ void multiply_stage(typename S::sums &sums, uint32_t at)
{
    const uint64_t w =
        wgmma_descriptor(at + threadIdx.x / 128 * (S::STAGE_BYTES - S::X_BYTES) / (S::CONSUMERS / 128));
    const uint64_t x = wgmma_descriptor(at + S::STAGE_BYTES - S::X_BYTES);
    constexpr int SLICES = sizeof(typename S::sums) / sizeof(sums[0]), PARTS = S::PARTS;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < K_STEP / 16; k++)
#pragma unroll
        for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
            for (int part = 0; part < PARTS; part++)
                wgmma_tile<T, S::PART>::multiply(sums[slice][part], w + 2 * k + slice * (SLICE_BYTES >> 4),
                                                 x + 2 * k + part * (S::PART * 128 >> 4));
    wgmma_commit();
}

static __device__ __forceinline__ void consumers_sync(int threads)
{
    asm volatile("bar.sync 1, %0;" ::"r"(threads) : "memory");
}

/* Sums of a tile whose beginning is another block's. */
template <typename S>
static __device__ __forceinline__ void leave(const stream_args &a, int32_t b, const typename S::sums &sums)
{
    const float *v = &sums[0][0][0];
    float4 *to = reinterpret_cast<float4 *>(a.partial + (int64_t)b * MAX_TILE) + threadIdx.x;
#pragma unroll
    for (int i = 0; i < (int)(sizeof(typename S::sums) / sizeof(float4)); i++)
        __stcg(to + i * S::CONSUMERS, make_float4(v[4 * i], v[4 * i + 1], v[4 * i + 2], v[4 * i + 3]));
    __threadfence();
    consumers_sync(S::CONSUMERS);
    if (threadIdx.x == 0) asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(a.ready + b) : "memory");
}

/* Adds what the blocks after b have left of the last `missing` steps of b's last tile. They are resident or
 * done, and leave their sums before anything else. */
template <typename S>
static __device__ __forceinline__ void collect(const stream_args &a, int32_t b, int32_t missing,
                                               typename S::sums &sums)
{
    float *v = &sums[0][0][0];
    while (missing > 0) {
        b++;
        missing -= range_begin(a, b + 1) - range_begin(a, b);
        if (threadIdx.x == 0) {
            uint32_t is_ready;
            do {
                asm volatile("ld.acquire.gpu.global.u32 %0, [%1];"
                             : "=r"(is_ready)
                             : "l"(a.ready + b)
                             : "memory");
            } while (!is_ready);
            a.ready[b] = 0;
        }
        consumers_sync(S::CONSUMERS);
        const float4 *from =
            reinterpret_cast<const float4 *>(a.partial + (int64_t)b * MAX_TILE) + threadIdx.x;
#pragma unroll
        for (int i = 0; i < (int)(sizeof(typename S::sums) / sizeof(float4)); i++) {
            const float4 more = __ldcg(from + i * S::CONSUMERS);
            v[4 * i] += more.x, v[4 * i + 1] += more.y, v[4 * i + 2] += more.z, v[4 * i + 3] += more.w;
        }
    }
}

template <typename T>
static __device__ __forceinline__ void put(const stream_args &a, int32_t token, int32_t feature, float v)
{
    const int64_t at = token * a.y_stride + feature;
    if (a.f32_out) {
        static_cast<float *>(a.y)[at] = v;
        return;
    }
    T *y = static_cast<T *>(a.y) + at;
    if (a.epilogue == LINEAR_ADD) v += to_f32(*y);
    *y = from_f32<T>(v);
}

/* Two rows of the weight, 8 apart, of one token. */
template <typename T>
static __device__ __forceinline__ void finish(const stream_args &a, int32_t token, int32_t row, float low,
                                              float high)
{
    if (token >= a.n_tokens) return;
    if (a.epilogue == LINEAR_GATED) {
        const int32_t n = a.n_out / 2, feature = row / 16 * 8 + row % 16;
        if (feature >= n) return;
        if (a.bias) low += a.bias[feature], high += a.bias[n + feature];
        put<T>(a, token, feature, activate(a.act, low) * high);
        return;
    }
    if (row < a.n_out) put<T>(a, token, row, activate(a.act, low + (a.bias ? a.bias[row] : 0)));
    if (row + 8 < a.n_out) put<T>(a, token, row + 8, activate(a.act, high + (a.bias ? a.bias[row + 8] : 0)));
}

template <typename T, typename S>
static __device__ __forceinline__ void finish_tile(const stream_args &a, int32_t tile,
                                                   const typename S::sums &sums)
{
    constexpr int SLICES = sizeof(typename S::sums) / sizeof(sums[0]);
    const int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4, group = threadIdx.x / 128;
    const int32_t row = tile * S::ROWS + group * SLICES * 64 + warp * 16 + lane / 4, token = lane % 4 * 2;
#pragma unroll
    for (int slice = 0; slice < SLICES; slice++)
#pragma unroll
        for (int part = 0; part < S::PARTS; part++)
#pragma unroll
            for (int i = 0; i < S::SUMS; i += 4) {
                const float *v = &sums[slice][part][i];
                const int32_t first = token + part * S::PART + 2 * i;
                finish<T>(a, first, row + 64 * slice, v[0], v[2]);
                finish<T>(a, first + 1, row + 64 * slice, v[1], v[3]);
            }
}

template <typename T, typename S>
static __device__ __forceinline__ void consume(const stages &s, const stream_args &a, int32_t b,
                                               int32_t begin, int32_t end)
{
    int32_t stage = 0;
    uint32_t parity = 0;
    const int is_first_lane = threadIdx.x % 32 == 0;
    for (int32_t step = begin; step < end;) {
        const int32_t k = step % a.k_steps, n = min(a.k_steps - k, end - step);
        typename S::sums sums = {};
        uint32_t before = 0; /* the empty barrier of the stage before, which may still be read */
        for (int32_t i = 0; i < n; i++) {
            barrier_wait(s.full + 8 * stage, parity);
            multiply_stage<T, S>(sums, s.data + stage * S::STAGE_BYTES);
            wgmma_wait<1>();
            if (before && is_first_lane) barrier_arrive(before);
            before = s.empty + 8 * stage;
            if (++stage == s.n) stage = 0, parity ^= 1;
        }
        wgmma_wait<0>();
        if (is_first_lane) barrier_arrive(before);
        if (k > 0) {
            leave<S>(a, b, sums);
        } else {
            if (n < a.k_steps) collect<S>(a, b, a.k_steps - n, sums);
            finish_tile<T, S>(a, step / a.k_steps, sums);
        }
        step += n;
    }
}

#endif

/* Blocks take the ranges from the last to the first: one waits only for blocks that started before it. */
template <typename T, int N, int GROUPS, int SLICES>
static __global__ void __launch_bounds__(stream<T, N, GROUPS, SLICES>::THREADS, 1)
    stream_kernel(const __grid_constant__ CUtensorMap w_map, const __grid_constant__ CUtensorMap x_map,
                  const stream_args a)
{
#if HOPPER
    using S = stream<T, N, GROUPS, SLICES>;
    extern __shared__ __align__(1024) uint8_t shared[];
    const uint32_t base = shared_address(shared);
    const stages s = {base, base + a.n_stages * S::STAGE_BYTES, base + a.n_stages * (S::STAGE_BYTES + 8),
                      a.n_stages};
    const int32_t b = gridDim.x - 1 - blockIdx.x, begin = range_begin(a, b), end = range_begin(a, b + 1);
    if (threadIdx.x == 0) {
        for (int32_t i = 0; i < s.n; i++) {
            barrier_init(s.full + 8 * i, 1);
            barrier_init(s.empty + 8 * i, S::CONSUMERS / 32);
        }
        barrier_init_fence();
    }
    pdl_launch();
    __syncthreads();
    if (threadIdx.x >= S::CONSUMERS) {
        if (threadIdx.x == S::CONSUMERS) produce<S>(s, &w_map, &x_map, a, begin, end);
    } else {
        pdl_wait();
        consume<T, S>(s, a, b, begin, end);
    }
#endif
}
#endif

/* ---- host -------------------------------------------------------------------------------------------------
 */

/* The driver's cuTensorMapEncodeTiled, by way of the runtime: the plug-in does not link the driver. */
static PFN_cuTensorMapEncodeTiled_v12000 encode_function()
{
    void *f = nullptr;
    cudaDriverEntryPointQueryResult result;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &f, 12000, cudaEnableDefault, &result))
        return nullptr;
    return reinterpret_cast<PFN_cuTensorMapEncodeTiled_v12000>(f);
}

llm_status stream_map(struct cuda_backend *cu, CUtensorMap *map, const void *data, int32_t n_rows, int32_t n,
                      int64_t stride, int32_t box_rows)
{
    static const PFN_cuTensorMapEncodeTiled_v12000 encode = encode_function();
    if (!encode)
        return cuda_check(cu, cudaErrorCallRequiresNewerDriver, "looking for cuTensorMapEncodeTiled");
    const cuuint64_t dims[2] = {(cuuint64_t)n, (cuuint64_t)n_rows}, strides[1] = {(cuuint64_t)stride * 2};
    const cuuint32_t box[2] = {K_STEP, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    const CUresult e = encode(
        map,
        cu->base.act_dtype == DTYPE_F16 ? CU_TENSOR_MAP_DATA_TYPE_FLOAT16 : CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        2, const_cast<void *>(data), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return cuda_check(cu, e == CUDA_SUCCESS ? cudaSuccess : cudaErrorInvalidValue,
                      "describing a matrix to the TMA unit");
}

typedef void stream_fn(const CUtensorMap, const CUtensorMap, const stream_args);

struct stream_variant {
    int32_t n_tokens, rows, threads, stage_bytes;
    stream_fn *bf16, *f16;
};

#define VARIANT(n, groups, slices)                                                                           \
    {                                                                                                        \
        n, 64 * groups *slices, 128 * groups + 32, stream<__half, n, groups, slices>::STAGE_BYTES,           \
            stream_kernel<__nv_bfloat16, n, groups, slices>, stream_kernel<__half, n, groups, slices>        \
    }

static const struct stream_variant variants[] = {
    VARIANT(8, 1, 1),  VARIANT(8, 2, 1),  VARIANT(16, 1, 1), VARIANT(16, 2, 1),  VARIANT(32, 1, 1),
    VARIANT(32, 2, 1), VARIANT(64, 1, 1), VARIANT(64, 2, 1), VARIANT(128, 2, 1),
};

enum { N_VARIANTS = sizeof variants / sizeof *variants, HEADROOM = 2048 };

static stream_fn *kernel_of(const struct cuda_backend *cu, const struct stream_variant *v)
{
    return cu->base.act_dtype == DTYPE_F16 ? v->f16 : v->bf16;
}

llm_status stream_open(struct cuda_backend *cu, struct stream_state **out, struct llm_error *err)
{
    auto *s = static_cast<struct stream_state *>(mem_zalloc(sizeof(struct stream_state)));
    if (!s) return llm_fail(err, LLM_ENOMEM, "no memory for the state of linear layers");
    s->cu = cu;
    s->n_blocks = cu->n_sms;
    s->partial =
        static_cast<float *>(cu->base.alloc(&cu->base, sizeof(float) * MAX_TILE * (size_t)s->n_blocks));
    s->ready = static_cast<uint32_t *>(cu->base.alloc(&cu->base, sizeof(uint32_t) * (size_t)s->n_blocks));
    llm_status st = LLM_OK;
    if (!s->partial || !s->ready) st = llm_fail(err, LLM_ENOMEM, "no device memory for partial sums");
    for (const struct stream_variant &v : variants) {
        if (st) break;
        st = cuda_check(cu,
                        cudaFuncSetAttribute(kernel_of(cu, &v), cudaFuncAttributeMaxDynamicSharedMemorySize,
                                             (int)cu->smem_max),
                        "preparing linear layers");
        if (st) llm_fail(err, st, "%s", cu->failure);
    }
    if (st)
        stream_close(s);
    else
        *out = s;
    return st;
}

void stream_close(struct stream_state *s)
{
    if (!s) return;
    struct backend *be = &s->cu->base;
    be->free(be, s->partial, sizeof(float) * MAX_TILE * (size_t)s->n_blocks);
    be->free(be, s->ready, sizeof(uint32_t) * (size_t)s->n_blocks);
    mem_free(s);
}

int stream_able(const struct cuda_backend *cu, const struct linear_args *a, const void *x, int64_t x_stride)
{
    (void)cu;
    return a->n_rows <= 128 && x_stride % 8 == 0 && reinterpret_cast<uintptr_t>(x) % 16 == 0;
}

llm_status stream_linear(struct cuda_backend *cu, struct stream_state *s, const struct linear_args *a,
                         const void *x, int64_t x_stride)
{
    const struct weight *w = a->w;
    const struct stream_variant *v = variants;
    while (v->n_tokens < a->n_rows) v++;
    const int forced = (int)cu->linear->path - (int)PATH_VARIANT;
    if (forced >= 0 && forced < N_VARIANTS && variants[forced].n_tokens >= a->n_rows) v = &variants[forced];
    CUtensorMap x_map;
    llm_status st = stream_map(cu, &x_map, x, a->n_rows, w->n_in, x_stride, v->n_tokens);
    if (st) return st;
    stream_args args = {};
    args.n_tokens = a->n_rows;
    args.n_out = w->n_out;
    args.n_tiles = (w->n_rows + v->rows - 1) / v->rows;
    args.k_steps = (w->n_in + K_STEP - 1) / K_STEP;
    args.n_stages = std::min((int32_t)MAX_STAGES, ((int32_t)cu->smem_max - HEADROOM) / v->stage_bytes);
    args.partial = s->partial;
    args.ready = s->ready;
    args.bias = a->bias;
    args.y = a->y;
    args.y_stride = a->y_stride;
    args.epilogue = a->epilogue;
    args.act = a->act;
    args.f32_out = a->f32_out;
    const int64_t steps = (int64_t)args.n_tiles * args.k_steps;
    const int32_t n_blocks = (int32_t)std::max<int64_t>(1, std::min<int64_t>(s->n_blocks, steps / 4));
    const size_t shared = (size_t)args.n_stages * ((size_t)v->stage_bytes + 16);
    return cuda_launch(cu, "linear", kernel_of(cu, v), dim3((unsigned)n_blocks), dim3((unsigned)v->threads),
                       shared, w->map, x_map, args);
}
