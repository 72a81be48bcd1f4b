/* Decodes: one row a sequence, all the time goes into reading K and V. The q heads that share a KV head are
 * the rows of a tensor-core product, so that KV is read once. The tiles of all sequences and heads are dealt
 * out evenly to a persistent grid (attention_plan.cu); what a block computes of one sequence and head is a
 * piece. A piece that does not have all keys leaves its sums in `partials`, and the last to come adds them
 * up.
 *
 * Each warp takes 16 keys of every tile by itself: its own copies, softmax and sums, no barrier before the
 * end of a piece. Copies run n_stages - 1 tiles ahead, across pieces. */

#include "kernels/cuda/attention_rows.cuh"

enum { DECODE_WARPS = 4, DECODE_THREADS = 32 * DECODE_WARPS, WARP_KEYS = DECODE_TILE / DECODE_WARPS };
enum { MERGE_BLOCK = 64 /* partials whose weights are in shared memory at once */ };

/* Bytes in shared memory. Rows are an odd number of 16-byte units apart: 8 rows of a matrix are in 8
 * different groups of banks. */
template <int HD> struct decode_layout {
    static constexpr int ROW = 2 * HD + 16;
    static constexpr int HALF = WARP_KEYS * ROW; /* K of a warp, then as much V */
    static constexpr int STAGE = DECODE_WARPS * 2 * HALF;
    /* A warp's sums at the end of a piece, over its K and V: [16][SUM_ROW] floats. */
    static constexpr int SUM_ROW = HD + 8;
    static_assert(16 * SUM_ROW * 4 == 2 * HALF, "the sums of a warp fit where its keys were");
};

/* A place in the order sequence, KV head, tile. */
struct decode_walk {
    int32_t seq, head, tile; /* tile: from key 0 of the sequence */
    int32_t first, end, len; /* of seq: tiles, keys */
    int32_t next_len;        /* keys of the next sequence, fetched before they are asked for */
};

__device__ __forceinline__ void walk_enter(struct decode_walk &w, const struct attention_call &a, int32_t seq,
                                           int32_t len, int32_t n_seqs)
{
    w.seq = seq;
    w.len = len;
    w.next_len = seq + 1 < n_seqs ? a.kv_len[seq + 1] : 0;
    w.first = first_key(len - 1, a.window) / DECODE_TILE;
    w.end = (len - 1) / DECODE_TILE + 1;
    w.tile = w.first;
}

__device__ __forceinline__ void walk_next(struct decode_walk &w, const struct attention_call &a,
                                          int32_t n_seqs)
{
    if (++w.tile < w.end) return;
    w.tile = w.first;
    if (++w.head < a.n_kv_heads) return;
    w.head = 0;
    if (w.seq + 1 < n_seqs) walk_enter(w, a, w.seq + 1, w.next_len, n_seqs);
}

/* The page of this warp's keys; 16 consecutive keys are in one. */
__device__ __forceinline__ int32_t walk_page(const struct decode_walk &w, const struct attention_call &a,
                                             int32_t warp)
{
    const int32_t key = min(w.tile * DECODE_TILE + warp * WARP_KEYS, w.len - 1);
    return a.block_table[w.seq * a.block_table_stride + (key >> a.page_shift)];
}

/* Starts the copy of this warp's keys; those past the end become zeros, since what a page held before may be
 * anything, NaN too. */
template <int HD>
__device__ __forceinline__ void copy_keys(const struct decode_walk &w, const struct attention_call &a,
                                          int32_t page, uint32_t to, int32_t warp, int32_t lane)
{
    using layout = decode_layout<HD>;
    constexpr int UNITS = HD / 8; /* of 16 bytes, a row */
    const int32_t key = w.tile * DECODE_TILE + warp * WARP_KEYS, left = w.len - key;
    const char *from = a.k + page * a.page_bytes + w.head * a.head_bytes +
                       static_cast<int64_t>(key & ((1 << a.page_shift) - 1)) * (2 * HD);
#pragma unroll
    for (int i = 0; i < UNITS * WARP_KEYS / 32; i++) {
        const int32_t unit = lane + 32 * i, row = unit / UNITS;
        copy_async_16(to + row * layout::ROW + unit % UNITS * 16, from + unit * 16, row < left);
    }
#pragma unroll
    for (int i = 0; i < UNITS * WARP_KEYS / 32; i++) {
        const int32_t unit = lane + 32 * i, row = unit / UNITS;
        copy_async_16(to + layout::HALF + row * layout::ROW + unit % UNITS * 16, from + a.v_bytes + unit * 16,
                      row < left);
    }
}

/* A warp's share of q of a piece: every fourth of the fragments of a product, [HD / 16][lane]. */
template <int HD> struct decode_q {
    static constexpr int N = (HD / 16 + DECODE_WARPS - 1) / DECODE_WARPS;
    uint4 v[N];
};

/* Rows past the group are zero. */
template <typename T, int HD>
__device__ __forceinline__ void fetch_q(struct decode_q<HD> &f, const struct attention_call &a, int32_t seq,
                                        int32_t head, int32_t warp, int32_t lane)
{
    const int32_t r = lane / 4;
    const T *q = static_cast<const T *>(a.q) + seq * a.q_stride +
                 (static_cast<int64_t>(head) * a.group + r) * HD + lane % 4 * 2;
    auto pair = [&](int32_t row, int32_t column) {
        return r + row < a.group ? *reinterpret_cast<const uint32_t *>(q + row * HD + column) : 0;
    };
#pragma unroll
    for (int i = 0; i < decode_q<HD>::N; i++) {
        const int32_t k = i * DECODE_WARPS + warp;
        if (k < HD / 16)
            f.v[i] = make_uint4(pair(0, k * 16), pair(8, k * 16), pair(0, k * 16 + 8), pair(8, k * 16 + 8));
    }
}

/* Puts q where all warps see it; fetches that of the next piece, to be there when this one ends. */
template <typename T, int HD>
__device__ __forceinline__ void piece_begin(struct row_state<HD> &st, struct decode_q<HD> &f,
                                            const struct decode_walk &w, const struct attention_call &a,
                                            uint4 *fragments, int32_t n_seqs)
{
    const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < decode_q<HD>::N; i++)
        if (i * DECODE_WARPS + warp < HD / 16) fragments[(i * DECODE_WARPS + warp) * 32 + lane] = f.v[i];
    rows_clear(st);
    __syncthreads();
    const bool last_head = w.head + 1 == a.n_kv_heads;
    if (!last_head || w.seq + 1 < n_seqs)
        fetch_q<T, HD>(f, a, w.seq + last_head, last_head ? 0 : w.head + 1, warp, lane);
}

template <typename T, int HD>
__device__ __forceinline__ void attend_tile(struct row_state<HD> &st, const struct decode_walk &w,
                                            const struct attention_call &a, const uint4 *q, uint32_t k,
                                            int32_t warp, int32_t lane)
{
    using layout = decode_layout<HD>;
    const int32_t key = w.tile * DECODE_TILE + warp * WARP_KEYS, low = first_key(w.len - 1, a.window);
    if (key >= w.len || key + WARP_KEYS <= low) return;
    float s[2][4] = {};
    const uint32_t k_lane = k + k_lane_offset<layout::ROW>(lane);
#pragma unroll
    for (int i = 0; i < HD / 16; i++) {
        uint32_t b[4];
        load_matrices(b, k_lane + i * 32);
        const uint4 v = q[i * 32 + lane];
        const uint32_t rows[4] = {v.x, v.y, v.z, v.w};
        multiply<T>(s[0], rows, b[0], b[1]);
        multiply<T>(s[1], rows, b[2], b[3]);
    }
    const struct key_range range = {{low, low}, {w.len, w.len}};
    rows_weigh(st, s, a, range, key + lane % 4 * 2, key < low || key + WARP_KEYS > w.len);
    rows_add<T, HD>(st, s[0], s[1], k + layout::HALF + v_lane_offset<layout::ROW>(lane));
}

template <typename T> __device__ __forceinline__ void store_4(T *to, const float4 &v)
{
    *reinterpret_cast<uint2 *>(to) = make_uint2(pack<T>(v.x, v.y), pack<T>(v.z, v.w));
}

__device__ __forceinline__ void add_scaled(float4 &sum, const float4 &v, float scale)
{
    sum.x += v.x * scale, sum.y += v.y * scale, sum.z += v.z * scale, sum.w += v.w * scale;
}

/* Four sums of partial j of a piece that begins in bin b0. */
template <int HD>
__device__ __forceinline__ float4 fetch_sums(const struct decode_partials &partials, int32_t b0, int32_t j,
                                             int32_t group, int32_t e)
{
    const int64_t slot = 2 * (b0 + j) + (j == 0);
    return __ldcg(reinterpret_cast<const float4 *>(partials.sums + slot * group * HD) + e);
}

/* Shared memory of a merge. [partial][row], [turn][row], [row]: a thread has one row, and every eighth
 * partial. */
struct merge_scratch {
    float weights[MERGE_BLOCK][16], reduced[DECODE_THREADS / 16][16], keep[16];
};

/* Of a thread's row: the maximum so far, and its share of the sum of weights. */
struct merge_row {
    float top, total;
};

/* Weights of `here` partials from `first` on, and what the sums so far are to be scaled by. Ends with a
 * barrier. */
__device__ __forceinline__ void merge_weigh(struct merge_row &r, struct merge_scratch &m,
                                            const struct decode_partials &partials, int32_t b0, int32_t first,
                                            int32_t here, int32_t group)
{
    constexpr int TURNS = DECODE_THREADS / 16, N = MERGE_BLOCK / TURNS;
    const int32_t row = threadIdx.x % 16, turn = threadIdx.x / 16;
    float2 stats[N];
    float top = r.top;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int32_t j = turn + i * TURNS, slot = 2 * (b0 + first + j) + (first + j == 0);
        stats[i] =
            row < group && j < here ? __ldcg(&partials.stats[slot * group + row]) : make_float2(-INFINITY, 0);
    }
#pragma unroll
    for (int i = 0; i < N; i++) top = fmaxf(top, stats[i].x);
    m.reduced[turn][row] = top;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < TURNS; i++) top = fmaxf(top, m.reduced[i][row]);
    const float keep = exp2_fast(r.top - top);
    if (turn == 0) m.keep[row] = keep;
    r.top = top;
    r.total *= keep;
#pragma unroll
    for (int i = 0; i < N; i++) {
        const float weight = exp2_fast(stats[i].x - top);
        m.weights[turn + i * TURNS][row] = weight;
        r.total += weight * stats[i].y;
    }
    __syncthreads();
}

__device__ __forceinline__ float4 scaled(const float4 &v, float scale)
{
    return make_float4(v.x * scale, v.y * scale, v.z * scale, v.w * scale);
}

/* Adds up the n partials of a piece that begins in bin b0, MERGE_BLOCK at a time, into out [group][HD]. */
template <typename T, int HD>
__device__ void merge_partials(const struct decode_partials &partials, int32_t b0, int32_t n, int32_t group,
                               struct merge_scratch &m, T *out)
{
    constexpr int FOURS = HD / 4, EACH = (FOURS * DECODE_MAX_GROUP + DECODE_THREADS - 1) / DECODE_THREADS;
    constexpr int EARLY = HD <= 64 ? 8 : 16; /* partials fetched before their weights are known */
    const int32_t thread = threadIdx.x, used = group * FOURS;
    struct merge_row r = {-INFINITY, 0};
    float4 sum[EACH] = {}, early[EARLY];
#pragma unroll
    for (int j = 0; j < EARLY; j++)
        early[j] = j < n && thread < used ? fetch_sums<HD>(partials, b0, j, group, thread) : float4{};
    for (int32_t first = 0; first < n; first += MERGE_BLOCK) {
        const int32_t here = min(n - first, static_cast<int32_t>(MERGE_BLOCK));
        merge_weigh(r, m, partials, b0, first, here, group);
#pragma unroll
        for (int i = 0; i < EACH; i++) {
            const int32_t e = thread + i * DECODE_THREADS, row = e / FOURS;
            if (e >= used) break;
            sum[i] = scaled(sum[i], m.keep[row]);
            int32_t j = 0;
            if (first == 0 && i == 0)
#pragma unroll
                for (; j < EARLY; j++) add_scaled(sum[0], early[j], m.weights[j][row]);
#pragma unroll 8
            for (; j < here; j++)
                add_scaled(sum[i], fetch_sums<HD>(partials, b0, first + j, group, e), m.weights[j][row]);
        }
        __syncthreads();
    }
    m.reduced[thread / 16][thread % 16] = r.total;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < EACH; i++) {
        const int32_t e = thread + i * DECODE_THREADS;
        if (e >= used) break;
        float total = 0;
#pragma unroll
        for (int t = 0; t < DECODE_THREADS / 16; t++) total += m.reduced[t][e / FOURS];
        store_4(out + 4 * e, scaled(sum[i], 1 / total));
    }
}

/* The sums of the four warps at the end of a piece, in shared memory. */
struct decode_stats {
    float top[DECODE_WARPS][16], weight[DECODE_WARPS][16];
};

template <int HD>
__device__ __forceinline__ void put_sums(struct row_state<HD> &st, struct decode_stats &stats, char *area,
                                         int32_t group, int32_t warp, int32_t lane)
{
    using layout = decode_layout<HD>;
    float *sums = reinterpret_cast<float *>(area + warp * 2 * layout::HALF);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int32_t row = lane / 4 + 8 * i;
        const float weight = quad_sum(st.weight[i]);
        if (row >= group) continue;
        if (lane % 4 == 0) stats.top[warp][row] = st.top[i], stats.weight[warp][row] = weight;
#pragma unroll
        for (int d = 0; d < HD / 8; d++)
            *reinterpret_cast<float2 *>(sums + row * layout::SUM_ROW + d * 8 + lane % 4 * 2) =
                make_float2(st.sum[d][2 * i], st.sum[d][2 * i + 1]);
    }
}

/* Adds up the warps: into out [group][HD], or, if slot >= 0, unscaled into that partial. */
template <typename T, int HD>
__device__ __forceinline__ void add_warps(const struct decode_stats &stats, const char *area, int32_t group,
                                          const struct decode_partials &partials, int64_t slot, T *out)
{
    using layout = decode_layout<HD>;
    for (int32_t e = threadIdx.x; e < group * HD / 4; e += DECODE_THREADS) {
        const int32_t row = e / (HD / 4), column = e % (HD / 4) * 4;
        float top = stats.top[0][row], total = 0;
        for (int w = 1; w < DECODE_WARPS; w++) top = fmaxf(top, stats.top[w][row]);
        float4 sum = {};
#pragma unroll
        for (int w = 0; w < DECODE_WARPS; w++) {
            const float scale = exp2_fast(stats.top[w][row] - top);
            const float *from = reinterpret_cast<const float *>(area + w * 2 * layout::HALF);
            total += scale * stats.weight[w][row];
            add_scaled(sum, *reinterpret_cast<const float4 *>(from + row * layout::SUM_ROW + column), scale);
        }
        if (slot >= 0) {
            reinterpret_cast<float4 *>(partials.sums + slot * group * HD)[e] = sum;
            if (column == 0) partials.stats[slot * group + row] = make_float2(top, total);
        } else {
            store_4(out + 4 * e, scaled(sum, 1 / total));
        }
    }
}

/* What of a piece is elsewhere: it is one of n_parts, those of bins from first_bin on. */
struct decode_piece {
    int32_t first_bin, n_parts;
    bool begun_here;
};

/* The end of a piece: all warps' sums to the output, or to a partial; then the last of its sequence and head
 * adds the partials up. `area`: the stage just used, free. Ends with a barrier. */
template <typename T, int HD>
__device__ void piece_end(struct row_state<HD> &st, const struct decode_walk &w,
                          const struct attention_call &a, const struct decode_partials &partials,
                          const struct decode_piece &piece, char *area)
{
    __shared__ struct decode_stats stats;
    __shared__ int32_t is_last;
    put_sums<HD>(st, stats, area, a.group, threadIdx.x / 32, threadIdx.x % 32);
    T *out = static_cast<T *>(a.out) + w.seq * a.out_stride + static_cast<int64_t>(w.head) * a.group * HD;
    const int64_t slot = piece.n_parts == 1 ? -1 : 2 * static_cast<int64_t>(blockIdx.x) + piece.begun_here;
    __syncthreads();
    add_warps<T, HD>(stats, area, a.group, partials, slot, out);
    __syncthreads();
    if (slot < 0) return;

    int32_t *arrived = &partials.arrived[w.seq * a.n_kv_heads + w.head];
    if (threadIdx.x == 0) {
        is_last = add_acquire_release(arrived, 1) == piece.n_parts - 1;
        if (is_last) *arrived = 0;
    }
    __syncthreads();
    if (is_last)
        merge_partials<T, HD>(partials, piece.first_bin, piece.n_parts, a.group,
                              *reinterpret_cast<struct merge_scratch *>(area), out);
    __syncthreads();
}

template <typename T, int HD>
__global__ void __launch_bounds__(DECODE_THREADS, HD <= 64    ? 4
                                                  : HD <= 96  ? 3
                                                  : HD <= 128 ? 2
                                                              : 1)
    decode_kernel(const struct attention_call a, const struct attention_plan plan,
                  const struct decode_partials partials, int32_t n_decode, int32_t n_stages)
{
    using layout = decode_layout<HD>;
    extern __shared__ __align__(128) char smem[];
    __shared__ uint4 q[HD / 16 * 32];
    const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const uint32_t own = shared_address(smem) + warp * 2 * layout::HALF;
    pdl_launch();
    if (!a.planned) pdl_wait();
    const struct decode_bin bin = plan.bins[blockIdx.x];
    if (!bin.n) {
        if (a.planned) pdl_wait();
        return;
    }
    struct decode_walk here;
    walk_enter(here, a, bin.seq, bin.len, n_decode);
    here.head = bin.head;
    here.tile += bin.tile;
    struct decode_walk ahead = here;
    int32_t page = plan.bins[blockIdx.x].page[warp], to_copy = bin.n;

    auto copy_next = [&](int32_t stage) {
        if (to_copy) {
            copy_keys<HD>(ahead, a, page, own + stage * layout::STAGE, warp, lane);
            if (--to_copy) {
                walk_next(ahead, a, n_decode);
                page = walk_page(ahead, a, warp);
            }
        }
        copy_async_commit();
    };
    /* Keys but for a sequence's newest were written in earlier steps. */
    int32_t begun = 0;
    if (a.planned) {
        while (begun < n_stages - 1 && ahead.tile + 1 < ahead.end) copy_next(begun++);
        pdl_wait();
    }
    for (; begun < n_stages - 1; begun++) copy_next(begun);

    struct decode_q<HD> fetched;
    fetch_q<T, HD>(fetched, a, here.seq, here.head, warp, lane);
    struct row_state<HD> st;
    piece_begin<T, HD>(st, fetched, here, a, q, n_decode);
    struct decode_piece piece = {bin.first_bin, bin.n_parts, bin.tile == 0};
    int32_t stage = 0, free_stage = n_stages - 1;
    for (int32_t left = bin.n; left > 0; left--) {
        if (n_stages == 2)
            copy_async_wait<0>();
        else if (n_stages == 3)
            copy_async_wait<1>();
        else
            copy_async_wait<2>();
        __syncwarp();
        copy_next(free_stage);
        attend_tile<T, HD>(st, here, a, q, own + stage * layout::STAGE, warp, lane);
        if (left == 1 || here.tile + 1 == here.end) {
            __syncwarp();
            piece_end<T, HD>(st, here, a, partials, piece, smem + stage * layout::STAGE);
            if (left == 1) return;
            walk_next(here, a, n_decode);
            piece_begin<T, HD>(st, fetched, here, a, q, n_decode);
            const bool goes_on = left - 1 < here.end - here.first;
            piece = {static_cast<int32_t>(blockIdx.x), goes_on ? bin.n_last_parts : 1, true};
        } else {
            here.tile++;
        }
        free_stage = stage;
        if (++stage == n_stages) stage = 0;
    }
}

/* ---- the host's side ----------------------------------------------------------------------------------- */

typedef void decode_function(struct attention_call, struct attention_plan, struct decode_partials, int32_t,
                             int32_t);

struct decode_choice {
    decode_function *kernel;
    int32_t stage_bytes, blocks_per_sm, n_stages;
};

template <typename T> static struct decode_choice choose_for(int32_t head_dim)
{
    switch (head_dim) {
    case 64:
        return {decode_kernel<T, 64>, decode_layout<64>::STAGE, 4, 3};
    case 80:
        return {decode_kernel<T, 80>, decode_layout<80>::STAGE, 3, 3};
    case 96:
        return {decode_kernel<T, 96>, decode_layout<96>::STAGE, 2, 4};
    case 128:
        return {decode_kernel<T, 128>, decode_layout<128>::STAGE, 2, 3};
    case 256:
        return {decode_kernel<T, 256>, decode_layout<256>::STAGE, 1, 3};
    default:
        return {};
    }
}

/* Fills the choice with what this device's shared memory allows; kernel null: nothing. */
static struct decode_choice choose(const struct cuda_backend *cu, const struct kv_cache *kv, int32_t group)
{
    if (kv->dtype != cu->base.act_dtype || group > DECODE_MAX_GROUP || kv->page_size < WARP_KEYS) return {};
    struct decode_choice c = {};
    if (kv->dtype == DTYPE_BF16) c = choose_for<__nv_bfloat16>(kv->head_dim);
    if (kv->dtype == DTYPE_F16) c = choose_for<__half>(kv->head_dim);
    if (!c.kernel) return c;
    /* A block takes 1 KB, and some hundred bytes for its statistics, beside its stages. */
    const size_t per_sm = cu->smem_max + 1024;
    while (c.n_stages >= 2 && c.n_stages * static_cast<size_t>(c.stage_bytes) + 1024 > cu->smem_max)
        c.n_stages--;
    if (c.n_stages < 2) return {};
    while (c.blocks_per_sm > 1 &&
           c.blocks_per_sm * (c.n_stages * static_cast<size_t>(c.stage_bytes) + 2048) > per_sm)
        c.blocks_per_sm--;
    return c;
}

int32_t attention_decode_bins(const struct cuda_backend *cu, const struct kv_cache *kv, int32_t group)
{
    const struct decode_choice c = choose(cu, kv, group);
    return c.kernel ? c.blocks_per_sm * cu->n_sms : 0;
}

llm_status attention_decode(struct cuda_backend *cu, const struct attention_call *a,
                            const struct kv_cache *kv, const struct attention_plan *plan)
{
    const struct decode_choice c = choose(cu, kv, a->group);
    const int32_t bytes = c.n_stages * c.stage_bytes;
    if (cuda_check(cu, cudaFuncSetAttribute(c.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
                   "attention of decodes"))
        return LLM_EFAILED;
    return cuda_launch(cu, "attention of decodes", c.kernel, dim3(c.blocks_per_sm * cu->n_sms),
                       dim3(DECODE_THREADS), static_cast<size_t>(bytes), *a, *plan, cu->attention->partials,
                       cu->attention->shape.n_decode, c.n_stages);
}
