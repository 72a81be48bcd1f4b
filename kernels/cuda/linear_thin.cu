/* Layers of up to 16 rows of x, dense weights. As linear_stream.cuh says, but dealt out by rows of the
 * weight: a block has some units of 16 rows and all of k, so that nothing is left to add up between blocks
 * when the last weights have arrived. (For more rows of x this would read x too often: a block reads all of
 * it for a few rows of the weight.)
 *
 * A tile is up to four units, the 64 rows of a tensor-core product. Where it has fewer, the product reads on
 * into what lies behind in shared memory, and the sums of those rows are dropped. */

#include "kernels/cuda/linear_stream.cuh"

enum { CONSUMERS = 128, THREADS = CONSUMERS + 32, UNIT_BYTES = THIN_UNIT * 64 * 2, K_TILES = THIN_K / 64 };

/* What addend and finish_tile want to know of the sums. */
template <int N> struct thin {
    static constexpr int N_SLICES = 1, PART = N, PARTS = 1, SUMS = N / 2;
    using sums = float[1][1][SUMS];
    static __device__ __forceinline__ int32_t first_row()
    {
        return threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
    }
    static __device__ __forceinline__ int32_t first_token() { return threadIdx.x % 4 * 2; }
};

#if HOPPER

/* A block's units, and its place in them: tile, of units [first, first + n), and step k. */
struct walk {
    int32_t begin, end, n_tiles, k_steps;
    int32_t tile, k, first, n;

    __device__ __forceinline__ int32_t first_unit(int32_t t) const
    {
        return begin + (end - begin) * t / n_tiles;
    }
    __device__ __forceinline__ void enter(int32_t t)
    {
        tile = t;
        k = 0;
        first = first_unit(t);
        n = first_unit(t + 1) - first;
    }
    __device__ __forceinline__ void advance() /* divides once a tile: one thread does this for all */
    {
        if (++k == k_steps) enter(tile + 1);
    }
    __device__ __forceinline__ int32_t steps() const { return n_tiles * k_steps; }
};

static __device__ __forceinline__ walk walk_of(const thin_args &a)
{
    const int32_t most = a.stage_rows / THIN_UNIT; /* of a tile */
    walk w = {};
    w.begin = (int32_t)((int64_t)a.n_units * blockIdx.x / gridDim.x);
    w.end = (int32_t)((int64_t)a.n_units * (blockIdx.x + 1) / gridDim.x);
    w.n_tiles = (w.end - w.begin + most - 1) / most;
    w.k_steps = a.stream.k_steps;
    w.enter(0);
    return w;
}

/* Maps of the weight for tiles of the most rows, and of one unit less: as tiles share a block's units evenly,
 * there are no others. */
struct thin_maps {
    const CUtensorMap *most, *less, *x;
};

template <int N> struct thin_stage {
    static constexpr uint32_t X_TILE = N * 128;
    uint32_t w_tile, bytes; /* of 64 along k; of all */

    __device__ __forceinline__ explicit thin_stage(const thin_args &a)
        : w_tile(a.stage_rows * 128), bytes(K_TILES * (a.stage_rows * 128 + X_TILE))
    {
    }
};

template <int N>
static __device__ __forceinline__ void load_units(const stages &s, const thin_maps &maps, const walk &at,
                                                  int32_t stage, const thin_stage<N> &size, uint64_t policy)
{
    const uint32_t full = s.full + 8 * stage, to = s.data + stage * size.bytes, bytes = at.n * UNIT_BYTES;
    const CUtensorMap *map = bytes == size.w_tile ? maps.most : maps.less;
    barrier_expect(full, K_TILES * (bytes + size.X_TILE));
#pragma unroll
    for (int i = 0; i < K_TILES; i++)
        tma_load(to + i * size.w_tile, map, (at.k * K_TILES + i) * 64, at.first * THIN_UNIT, full, policy);
}

template <int N>
static __device__ __forceinline__ void load_rows(const stages &s, const CUtensorMap *map, const walk &at,
                                                 int32_t stage, const thin_stage<N> &size, uint64_t policy)
{
    const uint32_t to = s.data + stage * size.bytes + K_TILES * size.w_tile;
#pragma unroll
    for (int i = 0; i < K_TILES; i++)
        tma_load(to + i * size.X_TILE, map, (at.k * K_TILES + i) * 64, 0, s.full + 8 * stage, policy);
}

template <int N>
static __device__ __forceinline__ void thin_produce(const stages &s, const thin_maps &maps,
                                                    const thin_stage<N> &size, const walk &first)
{
    const uint64_t once = evict_first_policy(), often = evict_last_policy();
    const int32_t ahead = min(first.steps(), s.n);
    walk at = first;
    for (int32_t stage = 0; stage < ahead; stage++, at.advance())
        load_units<N>(s, maps, at, stage, size, once);
    pdl_wait();
    at = first;
    for (int32_t stage = 0; stage < ahead; stage++, at.advance())
        load_rows<N>(s, maps.x, at, stage, size, often);
    int32_t stage = 0;
    uint32_t parity = 0;
    for (int32_t step = ahead; step < first.steps(); step++, at.advance()) {
        barrier_wait(s.empty + 8 * stage, parity);
        load_units<N>(s, maps, at, stage, size, once);
        load_rows<N>(s, maps.x, at, stage, size, often);
        if (++stage == s.n) stage = 0, parity ^= 1;
    }
}

template <typename T, int N>
static __device__ __forceinline__ void thin_consume(const stages &s, const stream_args &a,
                                                    const thin_stage<N> &size, const walk &w)
{
    using S = thin<N>;
    int32_t stage = 0;
    uint32_t parity = 0;
    const int is_first_lane = threadIdx.x % 32 == 0;
    for (int32_t tile = 0; tile < w.n_tiles; tile++) {
        const tile_rows rows = {w.first_unit(tile) * THIN_UNIT,
                                min(a.n_rows, w.first_unit(tile + 1) * THIN_UNIT)};
        typename S::sums sums = {};
        addend<T, S> more;
        more.load(a, rows);
        uint32_t before = 0;
        for (int32_t k = 0; k < w.k_steps; k++) {
            barrier_wait(s.full + 8 * stage, parity);
            const uint32_t at = s.data + stage * size.bytes;
            wgmma_fence();
#pragma unroll
            for (int i = 0; i < K_TILES; i++) {
                const uint64_t wd = wgmma_descriptor(at + i * size.w_tile);
                const uint64_t xd = wgmma_descriptor(at + K_TILES * size.w_tile + i * size.X_TILE);
#pragma unroll
                for (int j = 0; j < 4; j++) wgmma_tile<T, N>::multiply(sums[0][0], wd + 2 * j, xd + 2 * j);
            }
            wgmma_commit();
            wgmma_wait<1>();
            if (before && is_first_lane) barrier_arrive(before);
            before = s.empty + 8 * stage;
            if (++stage == s.n) stage = 0, parity ^= 1;
        }
        wgmma_wait<0>();
        if (is_first_lane) barrier_arrive(before);
        more.add_to(a, sums);
        finish_tile<T, S>(a, rows, sums);
    }
}

#endif

template <typename T, int N>
static __global__ void __launch_bounds__(THREADS, 1)
    thin_layer(const __grid_constant__ CUtensorMap most, const __grid_constant__ CUtensorMap less,
               const __grid_constant__ CUtensorMap x_map, const thin_args a)
{
#if HOPPER
    extern __shared__ __align__(1024) uint8_t shared[];
    const thin_stage<N> size(a);
    const uint32_t base = shared_address(shared), n = a.stream.n_stages, barriers = base + n * size.bytes;
    const stages s = {base, barriers, barriers + 8 * n, (int32_t)n};
    if (threadIdx.x == 0) {
        for (uint32_t i = 0; i < n; i++) {
            barrier_init(s.full + 8 * i, 1);
            barrier_init(s.empty + 8 * i, CONSUMERS / 32);
        }
        barrier_init_fence();
    }
    pdl_launch();
    __syncthreads();
    const walk w = walk_of(a);
    if (threadIdx.x >= CONSUMERS) {
        if (threadIdx.x == CONSUMERS) thin_produce<N>(s, {&most, &less, &x_map}, size, w);
    } else {
        pdl_wait();
        thin_consume<T, N>(s, a.stream, size, w);
    }
#endif
}

thin_fn *thin_kernel(enum llm_dtype act_dtype, int32_t n_tokens)
{
    if (act_dtype == DTYPE_F16) return n_tokens <= 8 ? thin_layer<__half, 8> : thin_layer<__half, 16>;
    return n_tokens <= 8 ? thin_layer<__nv_bfloat16, 8> : thin_layer<__nv_bfloat16, 16>;
}
