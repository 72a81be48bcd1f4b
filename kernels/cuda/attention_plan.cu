/* The plan of a step, by one block: decodes are cut into bins of equal work, chunks into tiles of rows, those
 * with the most keys first, so that the last to run are short. */

#include "kernels/cuda/attention.cuh"

enum { PLAN_THREADS = 1024 };

/* start[i] = count(0) + ... + count(i - 1), for i up to n. By all threads; a barrier at the end. */
template <typename Count> __device__ void prefix_sums(int32_t *start, int32_t n, Count count)
{
    __shared__ int32_t warps[32];
    const int32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
    const int32_t each = (n + PLAN_THREADS - 1) / PLAN_THREADS;
    const int32_t begin = min(n, thread * each), end = min(n, begin + each);
    int32_t own = 0;
    for (int32_t i = begin; i < end; i++) own += count(i);
    int32_t sum = own;
    for (int32_t d = 1; d < 32; d *= 2) {
        const int32_t before = __shfl_up_sync(0xffffffffu, sum, d);
        if (lane >= d) sum += before;
    }
    if (lane == 31) warps[warp] = sum;
    __syncthreads();
    int32_t base = sum - own;
    for (int32_t w = 0; w < warp; w++) base += warps[w];
    for (int32_t i = begin; i < end; i++) {
        start[i] = base;
        base += count(i);
    }
    if (thread == PLAN_THREADS - 1) start[n] = base;
    __syncthreads();
}

/* The last i < n with start[i] <= x. */
__device__ __forceinline__ int32_t last_at_most(const int32_t *start, int32_t n, int32_t x)
{
    int32_t low = 0, high = n - 1;
    while (low < high) {
        const int32_t middle = (low + high + 1) / 2;
        if (start[middle] <= x)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* The bin that has tile x, of `all` dealt to n_bins. */
__device__ __forceinline__ int32_t bin_of(int32_t x, int32_t all, int32_t n_bins)
{
    return static_cast<int32_t>((static_cast<int64_t>(x + 1) * n_bins - 1) / all);
}

__device__ void plan_decodes(const struct attention_plan &plan, const struct plan_key &key, int32_t *start,
                             const int32_t *kv_len, int32_t n)
{
    prefix_sums(start, n, [=](int32_t s) {
        const int32_t p = kv_len[s] - 1;
        return p / DECODE_TILE - first_key(p, key.window) / DECODE_TILE + 1;
    });
    const int32_t heads = key.n_kv_heads, all = start[n] * heads, n_bins = min(key.n_bins, all);
    for (int32_t b = threadIdx.x; b < key.n_bins; b += PLAN_THREADS) {
        struct decode_bin bin = {};
        if (b < n_bins) {
            const int32_t from = static_cast<int32_t>(static_cast<int64_t>(b) * all / n_bins);
            const int32_t to = static_cast<int32_t>(static_cast<int64_t>(b + 1) * all / n_bins);
            const int32_t seq = last_at_most(start, n, from / heads),
                          last = last_at_most(start, n, (to - 1) / heads);
            const int32_t tiles = start[seq + 1] - start[seq], in_seq = from - start[seq] * heads;
            const int32_t last_tiles = start[last + 1] - start[last];
            bin.seq = seq, bin.head = in_seq / tiles, bin.tile = in_seq % tiles, bin.n = to - from;
            bin.len = kv_len[seq];
            bin.first_bin = bin_of(from - bin.tile, all, n_bins);
            bin.n_parts = bin_of(from - bin.tile + tiles - 1, all, n_bins) - bin.first_bin + 1;
            const int32_t into_last = (to - 1 - start[last] * heads) % last_tiles;
            bin.n_last_parts = bin_of(to - 1 - into_last + last_tiles - 1, all, n_bins) - b + 1;
        }
        plan.bins[b] = bin;
    }
}

__device__ void plan_chunks(const struct attention_plan &plan, const struct plan_key &key, int32_t *start,
                            int32_t *keys, const int32_t *seq_start, const int32_t *kv_len, int32_t first_seq,
                            int32_t n, int32_t max_tiles)
{
    seq_start += first_seq, kv_len += first_seq;
    prefix_sums(start, n, [=](int32_t s) {
        return (seq_start[s + 1] - seq_start[s] + key.tile_rows - 1) / key.tile_rows;
    });
    const int32_t n_tiles = min(start[n], max_tiles);
    for (int32_t i = threadIdx.x; i < n_tiles; i += PLAN_THREADS) {
        const int32_t s = last_at_most(start, n, i), row = (i - start[s]) * key.tile_rows;
        const int32_t rows = seq_start[s + 1] - seq_start[s], past = kv_len[s] - rows;
        keys[i] = past + min(rows, row + key.tile_rows) - first_key(past + row, key.window);
    }
    __syncthreads();
    for (int32_t i = threadIdx.x; i < n_tiles; i += PLAN_THREADS) {
        int32_t rank = 0;
        for (int32_t j = 0; j < n_tiles; j++) rank += keys[j] > keys[i] || (keys[j] == keys[i] && j < i);
        const int32_t s = last_at_most(start, n, i), row = (i - start[s]) * key.tile_rows;
        const int32_t rows = seq_start[s + 1] - seq_start[s];
        plan.tiles[rank] = {first_seq + s, seq_start[s] + row, min(rows - row, key.tile_rows),
                            kv_len[s] - rows + row, kv_len[s]};
    }
    if (threadIdx.x == 0) *plan.n_tiles = n_tiles;
}

__global__ void __launch_bounds__(PLAN_THREADS)
    plan_kernel(const struct attention_plan plan, const struct plan_key key, const int32_t *seq_start,
                const int32_t *kv_len, int32_t n_decode, int32_t n_seqs, int32_t max_tiles)
{
    extern __shared__ int32_t plan_memory[];
    pdl_wait();
    pdl_launch();
    const int32_t n = n_seqs - n_decode;
    if (key.n_bins)
        plan_decodes(plan, key, plan_memory, kv_len, n_decode);
    else
        plan_chunks(plan, key, plan_memory, plan_memory + n + 1, seq_start, kv_len, n_decode, n, max_tiles);
}

llm_status attention_make_plan(struct cuda_backend *cu, const struct attention_plan *plan,
                               const struct plan_key *key, const struct step_shape *shape)
{
    const int32_t n_chunks = shape->n_seqs - shape->n_decode, max_tiles = cu->attention->max_tiles;
    const int32_t ints = (key->n_bins ? shape->n_decode : n_chunks + max_tiles) + 1;
    const size_t smem = static_cast<size_t>(ints) * sizeof(int32_t);
    if (smem > 48 << 10 &&
        cuda_check(cu,
                   cudaFuncSetAttribute(plan_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(smem)),
                   "attention plan"))
        return LLM_EFAILED;
    return cuda_launch(cu, "attention plan", plan_kernel, dim3(1), dim3(PLAN_THREADS), smem, *plan, *key,
                       shape->seq_start, shape->kv_len, shape->n_decode, shape->n_seqs, max_tiles);
}
