/* The plan of a step, by one block: decodes are cut into bins of equal work, chunks into tiles of rows, those
 * with the most keys first, so that the last to run are short.
 *
 * A piece is the tiles of one sequence and KV head. If there are fewer pieces than bins, and bins of whole
 * fractions of a piece are at most a tile longer than an even share, those are taken: a block then has one
 * piece to begin and to end. Else the tiles of all pieces are strung together and cut evenly, where a piece
 * counts for a tile more than it has, about what its end costs. */

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

/* The last i < n with start(i) <= x. */
template <typename Start> __device__ __forceinline__ int32_t last_at_most(int32_t n, int32_t x, Start start)
{
    int32_t low = 0, high = n - 1;
    while (low < high) {
        const int32_t middle = (low + high + 1) / 2;
        if (start(middle) <= x)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* Decodes to plan: start[i] is the tiles of one head of the sequences before i. */
struct decode_work {
    const int32_t *start;
    int32_t n_seqs, heads, n_bins;
    int32_t extra; /* tiles that a piece counts for beyond its own */
    __device__ int32_t tiles(int32_t s) const { return start[s + 1] - start[s]; }
    __device__ int32_t units(int32_t s) const { return start[s] + extra * s; }
    __device__ int32_t all() const { return units(n_seqs) * heads; }
    /* The first unit of a bin, and the bin that has a unit. */
    __device__ int32_t from(int32_t bin) const
    {
        return static_cast<int32_t>(static_cast<int64_t>(bin) * all() / n_bins);
    }
    __device__ int32_t bin_of(int32_t unit) const
    {
        return static_cast<int32_t>((static_cast<int64_t>(unit + 1) * n_bins - 1) / all());
    }
};

/* A tile, and how many tiles of all sequences and heads come before it. */
struct decode_place {
    int32_t seq, head, tile, before;
};

/* The first tile at or after a unit. */
__device__ __forceinline__ struct decode_place place_of(const struct decode_work &w, int32_t unit)
{
    const int32_t seq = last_at_most(w.n_seqs, unit / w.heads, [&](int32_t s) { return w.units(s); });
    const int32_t tiles = w.tiles(seq), in_seq = unit - w.units(seq) * w.heads;
    struct decode_place p = {seq, in_seq / (tiles + w.extra), max(0, in_seq % (tiles + w.extra) - w.extra),
                             0};
    p.before = w.start[seq] * w.heads + p.head * tiles + p.tile;
    return p;
}

/* The bins that have tiles of a piece. */
struct piece_bins {
    int32_t first, last;
};

__device__ __forceinline__ struct piece_bins bins_of(const struct decode_work &w, int32_t seq, int32_t head)
{
    const int32_t tiles = w.tiles(seq);
    const int32_t unit = w.units(seq) * w.heads + head * (tiles + w.extra) + w.extra;
    return {w.bin_of(unit), w.bin_of(unit + tiles - 1)};
}

__device__ __forceinline__ struct decode_bin even_bin(const struct decode_work &w, int32_t b)
{
    const struct decode_place from = place_of(w, w.from(b));
    const int32_t end = b + 1 < w.n_bins ? place_of(w, w.from(b + 1)).before : w.start[w.n_seqs] * w.heads;
    const int32_t last = last_at_most(w.n_seqs, (end - 1) / w.heads, [&](int32_t s) { return w.start[s]; });
    const int32_t last_head = (end - 1 - w.start[last] * w.heads) / w.tiles(last);
    const struct piece_bins bins = bins_of(w, from.seq, from.head), last_bins = bins_of(w, last, last_head);
    struct decode_bin bin = {from.seq, from.head, from.tile, end - from.before};
    bin.first_bin = bins.first;
    bin.n_parts = bins.last - bins.first + 1;
    bin.n_last_parts = last_bins.last - b + 1;
    return bin;
}

/* parts[i]: bins of one head of the sequences before i. */
__device__ __forceinline__ struct decode_bin whole_bin(const struct decode_work &w, const int32_t *parts,
                                                       int32_t b)
{
    const int32_t seq = last_at_most(w.n_seqs, b / w.heads, [&](int32_t s) { return parts[s]; });
    const int32_t n = parts[seq + 1] - parts[seq], in_seq = b - parts[seq] * w.heads, part = in_seq % n;
    const int32_t tiles = w.tiles(seq), tile = part * tiles / n;
    struct decode_bin bin = {seq, in_seq / n, tile, (part + 1) * tiles / n - tile};
    bin.first_bin = b - part;
    bin.n_parts = n;
    return bin;
}

/* `start` and `parts`: shared memory, [n + 1] each. */
__device__ void plan_decodes(const struct attention_plan &plan, const struct plan_key &key,
                             const struct attention_call &a, int32_t *start, int32_t *parts, int32_t n)
{
    prefix_sums(start, n, [&](int32_t s) {
        const int32_t p = a.kv_len[s] - 1;
        return p / DECODE_TILE - first_key(p, key.window) / DECODE_TILE + 1;
    });
    struct decode_work w = {start, n, key.n_kv_heads, key.n_bins, 0};
    const int32_t all = w.all(), most = all / key.n_bins + 1;
    bool whole = n * w.heads <= key.n_bins;
    if (whole) {
        prefix_sums(parts, n, [&](int32_t s) { return (w.tiles(s) + most - 1) / most; });
        whole = parts[n] * w.heads <= key.n_bins;
    }
    if (whole)
        w.n_bins = parts[n] * w.heads;
    else if (all >= 4 * key.n_bins) /* every bin keeps a tile */
        w.extra = 1;
    for (int32_t b = threadIdx.x; b < key.n_bins; b += PLAN_THREADS) {
        struct decode_bin bin = {};
        if (b < w.n_bins) {
            bin = whole ? whole_bin(w, parts, b) : even_bin(w, b);
            bin.len = a.kv_len[bin.seq];
            const int32_t key_0 = (first_key(bin.len - 1, key.window) / DECODE_TILE + bin.tile) * DECODE_TILE;
            for (int i = 0; i < 4; i++) {
                const int32_t k = min(key_0 + i * DECODE_TILE / 4, bin.len - 1);
                bin.page[i] = a.block_table[bin.seq * a.block_table_stride + (k >> a.page_shift)];
            }
        }
        plan.bins[b] = bin;
    }
}

/* Sequences from first_seq on. `start`: shared memory, [n + 1], then `keys`, as many as there are tiles. */
__device__ void plan_chunks(const struct attention_plan &plan, const struct plan_key &key,
                            const struct attention_call &a, int32_t *start, int32_t *keys, int32_t first_seq,
                            int32_t max_tiles)
{
    const int32_t *seq_start = a.seq_start + first_seq, *kv_len = a.kv_len + first_seq;
    const int32_t n = a.n_seqs - first_seq;
    prefix_sums(start, n, [&](int32_t s) {
        return (seq_start[s + 1] - seq_start[s] + key.tile_rows - 1) / key.tile_rows;
    });
    const int32_t n_tiles = min(start[n], max_tiles);
    auto tile_of = [&](int32_t i) -> struct prefill_tile {
        const int32_t s = last_at_most(n, i, [&](int32_t k) { return start[k]; });
        const int32_t row = (i - start[s]) * key.tile_rows, rows = seq_start[s + 1] - seq_start[s];
        return {first_seq + s, seq_start[s] + row, min(rows - row, key.tile_rows), kv_len[s] - rows + row,
                kv_len[s]};
    };
    for (int32_t i = threadIdx.x; i < n_tiles; i += PLAN_THREADS) {
        const struct prefill_tile t = tile_of(i);
        keys[i] = t.first_position + t.n_rows - first_key(t.first_position, key.window);
    }
    __syncthreads();
    for (int32_t i = threadIdx.x; i < n_tiles; i += PLAN_THREADS) {
        int32_t rank = 0;
        for (int32_t j = 0; j < n_tiles; j++) rank += keys[j] > keys[i] || (keys[j] == keys[i] && j < i);
        plan.tiles[rank] = tile_of(i);
    }
    if (threadIdx.x == 0) *plan.n_tiles = n_tiles;
}

/* Without pdl_launch(): whatever is launched later begins when the plan, and all before it, is there.
 * Attention of the layers after the first relies on that. */
__global__ void __launch_bounds__(PLAN_THREADS)
    plan_kernel(const struct attention_plan plan, const struct plan_key key, const struct attention_call a,
                int32_t n_decode, int32_t max_tiles)
{
    extern __shared__ int32_t plan_memory[];
    pdl_wait();
    if (key.n_bins)
        plan_decodes(plan, key, a, plan_memory, plan_memory + n_decode + 1, n_decode);
    else
        plan_chunks(plan, key, a, plan_memory, plan_memory + a.n_seqs - n_decode + 1, n_decode, max_tiles);
    __threadfence();
}

llm_status attention_make_plan(struct cuda_backend *cu, const struct attention_plan *plan,
                               const struct plan_key *key, const struct attention_call *a)
{
    const int32_t n_decode = cu->attention->shape.n_decode, max_tiles = cu->attention->max_tiles;
    const int32_t ints = key->n_bins ? 2 * (n_decode + 1) : a->n_seqs - n_decode + 1 + max_tiles;
    const size_t smem = static_cast<size_t>(ints) * sizeof(int32_t);
    if (smem > 48 << 10 &&
        cuda_check(cu,
                   cudaFuncSetAttribute(plan_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        static_cast<int>(smem)),
                   "attention plan"))
        return LLM_EFAILED;
    return cuda_launch(cu, "attention plan", plan_kernel, dim3(1), dim3(PLAN_THREADS), smem, *plan, *key, *a,
                       n_decode, max_tiles);
}
