#ifndef LLM_KERNELS_CUDA_LINEAR_STREAM_CUH
#define LLM_KERNELS_CUDA_LINEAR_STREAM_CUH

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
#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/partial.cuh"

enum { SLICE_BYTES = 64 * 64 * 2, MAX_TILE = 256 * 32 };

struct stream_args {
    int32_t n_tokens, n_out, n_rows, n_tiles, k_steps, n_stages; /* n_rows: of the layout */
    const uint8_t *packed;                                       /* tiles, unless the weights are dense */
    float *partial;                                              /* [blocks, MAX_TILE] */
    uint32_t *ready; /* [blocks]: its partial sums are there; its reader takes the flag down */
    const float *bias;
    void *y;
    int64_t y_stride;
    enum linear_epilogue epilogue;
    enum activation act;
    int f32_out;
};

#ifdef __CUDACC__

/* N: rows of x, GROUPS warpgroups of SLICES slices of 64 weight rows each. */
template <typename T, int FORMAT, int N, int GROUPS, int SLICES> struct stream {
    static constexpr bool DENSE = FORMAT == FORMAT_DENSE, FEW = !DENSE && N <= 16;
    static constexpr int ROWS = 64 * GROUPS * SLICES, CONSUMERS = 128 * GROUPS, THREADS = CONSUMERS + 32;
    static constexpr int PART = N < 64 ? N : 64, PARTS = N / PART; /* of x's rows: a product takes one part */
    static constexpr int K_TILES = DENSE ? 1 : 2;                  /* of 64, a step */
    static constexpr int GROUP_BYTES = DENSE ? SLICES * SLICE_BYTES : K_TILES * packing<FORMAT>::TILE_BYTES;
    static constexpr int W_BYTES = GROUPS * GROUP_BYTES, X_TILE = N * 128,
                         STAGE_BYTES = W_BYTES + K_TILES * X_TILE;
    static constexpr int N_SLICES = SLICES, SUMS = PART / 2; /* of one product, a thread */
    using sums = float[SLICES][PARTS][SUMS];
    static constexpr int N_SUMS = SLICES * PARTS * SUMS;

    /* Of this thread's first sum, within the tile. */
    static __device__ __forceinline__ int32_t first_row()
    {
        return threadIdx.x / 128 * SLICES * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    }
    static __device__ __forceinline__ int32_t first_token() { return threadIdx.x % 4 * 2; }
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

/* A step of 64 along k of a tile. */
struct position {
    int32_t tile, k;
};

static __device__ __forceinline__ void advance(position *p, const stream_args &a)
{
    if (++p->k == a.k_steps) p->k = 0, p->tile++;
}

/* Where group i's weights of a step are among the tiles. */
template <typename S>
static __device__ __forceinline__ const uint8_t *packed_at(const stream_args &a, const position &p, int i)
{
    return a.packed + ((int64_t)(p.tile * (S::ROWS / 64) + i) * a.k_steps + p.k) * S::GROUP_BYTES;
}

template <typename S>
static __device__ __forceinline__ void load_weights(const stages &s, const CUtensorMap *map,
                                                    const stream_args &a, const position &p, int32_t stage,
                                                    uint64_t policy)
{
    const uint32_t full = s.full + 8 * stage, to = s.data + stage * S::STAGE_BYTES;
    barrier_expect(full, S::STAGE_BYTES);
#pragma unroll
    for (int i = 0; i < S::ROWS / 64; i++) {
        if constexpr (S::DENSE)
            tma_load(to + i * SLICE_BYTES, map, p.k * 64, p.tile * S::ROWS + 64 * i, full, policy);
        else
            bulk_load(to + i * S::GROUP_BYTES, packed_at<S>(a, p, i), S::GROUP_BYTES, full, policy);
    }
}

template <typename S>
static __device__ __forceinline__ void load_x(const stages &s, const CUtensorMap *map, const position &p,
                                              int32_t stage, uint64_t policy)
{
    const uint32_t to = s.data + stage * S::STAGE_BYTES + S::W_BYTES;
#pragma unroll
    for (int i = 0; i < S::K_TILES; i++)
        tma_load(to + i * S::X_TILE, map, (p.k * S::K_TILES + i) * 64, 0, s.full + 8 * stage, policy);
}

/* One thread: keeps all stages in flight. */
template <typename S>
static __device__ __forceinline__ void produce(const stages &s, const CUtensorMap *w_map,
                                               const CUtensorMap *x_map, const stream_args &a, int32_t begin,
                                               int32_t end)
{
    const uint64_t once = evict_first_policy(), often = evict_last_policy();
    const position first = {begin / a.k_steps, begin % a.k_steps};
    const int32_t ahead = min(end - begin, s.n);
    position at = first;
    for (int32_t stage = 0; stage < ahead; stage++, advance(&at, a))
        load_weights<S>(s, w_map, a, at, stage, once);
    pdl_wait();
    at = first;
    for (int32_t stage = 0; stage < ahead; stage++, advance(&at, a)) load_x<S>(s, x_map, at, stage, often);
    int32_t stage = 0;
    uint32_t parity = 0;
    for (int32_t step = begin + ahead; step < end; step++, advance(&at, a)) {
        barrier_wait(s.empty + 8 * stage, parity);
        load_weights<S>(s, w_map, a, at, stage, once);
        load_x<S>(s, x_map, at, stage, often);
        if (++stage == s.n) stage = 0, parity ^= 1;
    }
}

/* sums += one stage; the products are under way when this returns. */
template <typename T, typename S>
static __device__ __forceinline__ void multiply_dense(typename S::sums &sums, uint32_t at)
{
    const uint64_t w = wgmma_descriptor(at + threadIdx.x / 128 * S::GROUP_BYTES);
    const uint64_t x = wgmma_descriptor(at + S::W_BYTES);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; k++)
#pragma unroll
        for (int slice = 0; slice < S::N_SLICES; slice++)
#pragma unroll
            for (int part = 0; part < S::PARTS; part++)
                wgmma_tile<T, S::PART>::multiply(sums[slice][part], w + 2 * k + slice * (SLICE_BYTES >> 4),
                                                 x + 2 * k + part * (S::PART * 128 >> 4));
    wgmma_commit();
}

/* The same with weights unpacked into registers; the products are done. */
template <typename T, int FORMAT, typename S>
static __device__ __forceinline__ void multiply_packed(typename S::sums &sums, const uint8_t *stage,
                                                       uint32_t at)
{
    uint32_t w[S::K_TILES][4][4];
#pragma unroll
    for (int tile = 0; tile < S::K_TILES; tile++) {
        uint32_t words[8], scales[4];
        const uint64_t x = wgmma_descriptor(at + S::W_BYTES + tile * S::X_TILE);
        load_tile<FORMAT>(stage + threadIdx.x / 128 * S::GROUP_BYTES + tile * packing<FORMAT>::TILE_BYTES,
                          threadIdx.x % 128, words, scales);
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int r = 0; r < 4; r++) w[tile][k][r] = unpack<T, FORMAT>(words, scales, k, r);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
            for (int part = 0; part < S::PARTS; part++)
                wgmma_tile<T, S::PART>::multiply(sums[0][part], w[tile][k],
                                                 x + 2 * k + part * (S::PART * 128 >> 4));
        wgmma_commit();
    }
    wgmma_wait<0>();
    /* The products read these registers until now: the compiler must not have given them to others. */
#pragma unroll
    for (int tile = 0; tile < S::K_TILES; tile++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            asm volatile("" ::"r"(w[tile][k][0]), "r"(w[tile][k][1]), "r"(w[tile][k][2]), "r"(w[tile][k][3]));
}

/* The same for so few rows of x that a warp's own products do: a warpgroup's, which wait for each other, take
 * some 55 cycles however narrow they are. */
template <typename T, int FORMAT, typename S>
static __device__ __forceinline__ void multiply_few(typename S::sums &sums, const uint8_t *stage, uint32_t at)
{
    const uint32_t row = threadIdx.x % 8, chunk = threadIdx.x % 32 / 8;
    const uint8_t *w = stage + threadIdx.x / 128 * S::GROUP_BYTES;
#pragma unroll
    for (int tile = 0; tile < S::K_TILES; tile++) {
        constexpr int BLOCKS = S::PART / 8; /* of 8 rows of x */
        uint32_t words[8], scales[4], x[BLOCKS][2][4];
        const uint32_t rows = at + S::W_BYTES + tile * S::X_TILE + row * 128;
#pragma unroll
        for (int b = 0; b < BLOCKS; b++)
#pragma unroll
            for (int i = 0; i < 2; i++)
                load_matrices(x[b][i], rows + b * 1024 + ((4 * i + chunk ^ row) << 4));
        load_tile<FORMAT>(w + tile * packing<FORMAT>::TILE_BYTES, threadIdx.x % 128, words, scales);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t v[4];
#pragma unroll
            for (int r = 0; r < 4; r++) v[r] = unpack<T, FORMAT>(words, scales, k, r);
#pragma unroll
            for (int b = 0; b < BLOCKS; b++) {
                const uint32_t(&from)[4] = x[b][k / 2];
                multiply<T>(*reinterpret_cast<float(*)[4]>(&sums[0][0][4 * b]), v, from[k % 2 * 2],
                            from[k % 2 * 2 + 1]);
            }
        }
    }
}

/* Adds what the blocks after b have left of the last `missing` steps of b's last tile. */
template <typename S>
static __device__ __forceinline__ void collect(const stream_args &a, int32_t b, int32_t missing,
                                               typename S::sums &sums)
{
    const int32_t from_step = range_begin(a, b + 1), thread = (int32_t)threadIdx.x;
    int32_t last = b + 1; /* block that has the tile's last step */
    while (range_begin(a, last + 1) - from_step < missing) last++;
    partial_wait<S::CONSUMERS>(a.ready, b + 1, last, thread, [](int32_t other) { return other; });
    for (int32_t other = b + 1; other <= last; other++)
        partial_add<S::CONSUMERS, S::N_SUMS>(a.partial + (int64_t)other * MAX_TILE, thread, &sums[0][0][0]);
}

/* Rows of the weight [first, end) that a tile has: end may cut it short. */
struct tile_rows {
    int32_t first, end;
};

/* Calls f(sums of two rows of the weight, 8 apart, and two tokens, the first row, the first token): v[0],
 * v[1] are the first row's, v[2], v[3] the second's. */
template <typename S, typename F>
static __device__ __forceinline__ void each_quad(const tile_rows &t, typename S::sums &sums, F f)
{
    const int32_t row = t.first + S::first_row(), token = S::first_token();
#pragma unroll
    for (int slice = 0; slice < S::N_SLICES; slice++)
#pragma unroll
        for (int part = 0; part < S::PARTS; part++)
#pragma unroll
            for (int i = 0; i < S::SUMS; i += 4)
                f(&sums[slice][part][i], row + 64 * slice, token + part * S::PART + 2 * i);
}

/* What is added to the sums of a tile, bias and residual. It is asked for well before it is used, and kept as
 * it is in memory, lest a conversion waits for it. */
template <typename T, typename S> struct addend {
    float bias[S::N_SLICES][2]; /* of the two rows of a quad */
    T old[S::N_SLICES][S::PARTS][S::SUMS];

    __device__ __forceinline__ void load(const stream_args &a, const tile_rows &t)
    {
        const int32_t row0 = t.first + S::first_row(), token0 = S::first_token();
        const int32_t n = a.epilogue == LINEAR_GATED ? a.n_out / 2 : a.n_out;
#pragma unroll
        for (int slice = 0; slice < S::N_SLICES; slice++) {
            const int32_t row = row0 + 64 * slice,
                          low = a.epilogue == LINEAR_GATED ? row / 16 * 8 + row % 16 : row;
            const int32_t high = a.epilogue == LINEAR_GATED ? low + n : low + 8;
            bias[slice][0] = a.bias && low < n ? a.bias[low] : 0;
            bias[slice][1] = a.bias && low < n && high < a.n_out ? a.bias[high] : 0;
            if (a.epilogue != LINEAR_ADD) continue;
#pragma unroll
            for (int part = 0; part < S::PARTS; part++)
#pragma unroll
                for (int i = 0; i < S::SUMS; i++) {
                    const int32_t r = row + i % 4 / 2 * 8,
                                  token = token0 + part * S::PART + i / 4 * 8 + i % 2;
                    const T *from = static_cast<const T *>(a.y) + token * a.y_stride + r;
                    old[slice][part][i] = token < a.n_tokens && r < t.end ? *from : T(0.0f);
                }
        }
    }

    __device__ __forceinline__ void add_to(const stream_args &a, typename S::sums &sums) const
    {
#pragma unroll
        for (int slice = 0; slice < S::N_SLICES; slice++)
#pragma unroll
            for (int part = 0; part < S::PARTS; part++)
#pragma unroll
                for (int i = 0; i < S::SUMS; i++) {
                    sums[slice][part][i] += bias[slice][i % 4 / 2];
                    if (a.epilogue == LINEAR_ADD) sums[slice][part][i] += to_f32(old[slice][part][i]);
                }
    }
};

template <typename Y, typename S, typename F>
static __device__ __forceinline__ void store_plain(const stream_args &a, const tile_rows &t,
                                                   typename S::sums &sums, F act)
{
    each_quad<S>(t, sums, [&](float *v, int32_t row, int32_t token) {
        Y *y = static_cast<Y *>(a.y) + token * a.y_stride + row;
        const bool first = token < a.n_tokens, second = token + 1 < a.n_tokens;
        if (first && row < t.end) y[0] = from_f32<Y>(act(v[0]));
        if (second && row < t.end) y[a.y_stride] = from_f32<Y>(act(v[1]));
        if (first && row + 8 < t.end) y[8] = from_f32<Y>(act(v[2]));
        if (second && row + 8 < t.end) y[a.y_stride + 8] = from_f32<Y>(act(v[3]));
    });
}

template <typename T, typename S, typename F>
static __device__ __forceinline__ void store_gated(const stream_args &a, const tile_rows &t,
                                                   typename S::sums &sums, F act)
{
    each_quad<S>(t, sums, [&](float *v, int32_t row, int32_t token) {
        const int32_t feature = row / 16 * 8 + row % 16;
        T *y = static_cast<T *>(a.y) + token * a.y_stride + feature;
        if (feature >= a.n_out / 2 || row >= t.end) return;
        if (token < a.n_tokens) y[0] = from_f32<T>(act(v[0]) * v[2]);
        if (token + 1 < a.n_tokens) y[a.y_stride] = from_f32<T>(act(v[1]) * v[3]);
    });
}

/* Not inlined: there are many calls. */
static __device__ __noinline__ float activate_any(enum activation act, float v)
{
    return activate(act, v);
}

/* The common cases have code of their own, so that it is short: it runs when nothing else is left to do. */
template <typename T, typename S>
static __device__ __forceinline__ void finish_tile(const stream_args &a, const tile_rows &t,
                                                   typename S::sums &sums)
{
    const auto none = [](float v) { return v; };
    const auto silu = [](float v) { return activate(ACT_SILU, v); };
    const auto any = [&a](float v) { return activate_any(a.act, v); };
    if (a.epilogue == LINEAR_GATED && a.act == ACT_SILU) {
        store_gated<T, S>(a, t, sums, silu);
    } else if (a.epilogue == LINEAR_GATED) {
        store_gated<T, S>(a, t, sums, any);
    } else if (a.f32_out) {
        store_plain<float, S>(a, t, sums, none);
    } else if (a.act == ACT_NONE) {
        store_plain<T, S>(a, t, sums, none);
    } else {
        store_plain<T, S>(a, t, sums, any);
    }
}

template <typename T, int FORMAT, typename S>
static __device__ __forceinline__ void consume(const stages &s, const uint8_t *data, const stream_args &a,
                                               int32_t b, int32_t begin, int32_t end)
{
    int32_t stage = 0;
    uint32_t parity = 0;
    const int is_first_lane = threadIdx.x % 32 == 0;
    for (int32_t step = begin; step < end;) {
        const int32_t tile = step / a.k_steps, k = step % a.k_steps, n = min(a.k_steps - k, end - step);
        constexpr bool EARLY =
            sizeof(typename S::sums) <= 16 * sizeof(float); /* there are registers for it */
        typename S::sums sums = {};
        addend<T, S> more;
        const tile_rows rows = {tile * S::ROWS, a.n_rows};
        if (EARLY && k == 0) more.load(a, rows);
        uint32_t before = 0; /* the empty barrier of the stage before, which may still be read */
        for (int32_t i = 0; i < n; i++) {
            barrier_wait(s.full + 8 * stage, parity);
            if constexpr (S::DENSE) {
                multiply_dense<T, S>(sums, s.data + stage * S::STAGE_BYTES);
                wgmma_wait<1>();
                if (before && is_first_lane) barrier_arrive(before);
                before = s.empty + 8 * stage;
            } else {
                const int32_t at = stage * S::STAGE_BYTES;
                if constexpr (S::FEW)
                    multiply_few<T, FORMAT, S>(sums, data + at, s.data + at);
                else
                    multiply_packed<T, FORMAT, S>(sums, data + at, s.data + at);
                if (is_first_lane) barrier_arrive(s.empty + 8 * stage);
            }
            if (++stage == s.n) stage = 0, parity ^= 1;
        }
        wgmma_wait<0>();
        if (before && is_first_lane) barrier_arrive(before);
        if (k > 0) {
            partial_leave<S::CONSUMERS, S::N_SUMS>(a.partial + (int64_t)b * MAX_TILE, a.ready + b,
                                                   (int32_t)threadIdx.x, &sums[0][0][0]);
        } else {
            if (!EARLY) more.load(a, rows);
            if (n < a.k_steps) collect<S>(a, b, a.k_steps - n, sums);
            more.add_to(a, sums);
            finish_tile<T, S>(a, rows, sums);
        }
        step += n;
    }
}

#endif

/* Blocks take the ranges from the last to the first: one waits only for blocks that started before it. */
template <typename T, int FORMAT, int N, int GROUPS, int SLICES>
static __global__ void __launch_bounds__(stream<T, FORMAT, N, GROUPS, SLICES>::THREADS, 1)
    stream_kernel(const __grid_constant__ CUtensorMap w_map, const __grid_constant__ CUtensorMap x_map,
                  const stream_args a)
{
#if HOPPER
    using S = stream<T, FORMAT, N, GROUPS, SLICES>;
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
        consume<T, FORMAT, S>(s, shared, a, b, begin, end);
    }
#endif
}
#endif

typedef void stream_fn(const CUtensorMap, const CUtensorMap, const stream_args);

/* A kernel, for up to n_tokens rows of x, by tiles of `rows` rows of the weight. */
struct stream_variant {
    int32_t n_tokens, rows, threads, stage_bytes;
    stream_fn *kernel;
};

template <typename T, int FORMAT, int N, int GROUPS> static inline struct stream_variant variant_of()
{
    using S = stream<T, FORMAT, N, GROUPS, 1>;
    return {N, S::ROWS, S::THREADS, S::STAGE_BYTES, stream_kernel<T, FORMAT, N, GROUPS, 1>};
}

/* linear_thin.cu: for up to 16 rows of x and dense weights. */
enum { THIN_TOKENS = 16, THIN_UNIT = 16, THIN_K = 128 };
struct thin_args {
    struct stream_args stream; /* n_tiles is not used */
    int32_t n_units;           /* of THIN_UNIT rows of the weight, dealt out to blocks evenly */
    int32_t stage_rows;        /* room of a stage, rows: what a tile has at most */
};
typedef void thin_fn(const CUtensorMap, const CUtensorMap, const CUtensorMap, const thin_args);
thin_fn *thin_kernel(enum llm_dtype act_dtype, int32_t n_tokens);

/* linear_packed_*.cu: those of packed formats, by increasing n_tokens. */
enum { PACKED_VARIANTS = 4 };
void packed_variants_bf16(enum weight_format format, struct stream_variant out[PACKED_VARIANTS]);
void packed_variants_f16(enum weight_format format, struct stream_variant out[PACKED_VARIANTS]);

template <typename T, int FORMAT>
static inline void packed_variants_of(struct stream_variant out[PACKED_VARIANTS])
{
    out[0] = variant_of<T, FORMAT, 8, 4>(); /* many threads: unpacking is arithmetic */
    out[1] = variant_of<T, FORMAT, 16, 4>();
    out[2] = variant_of<T, FORMAT, 32, 4>();
    out[3] = variant_of<T, FORMAT, 64, 2>();
}

#endif
