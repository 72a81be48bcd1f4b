/* Prompt chunks by wgmma and TMA (sm_90a). A block has 128 rows of one head at a time: a producer warp copies
 * q, and tiles of K and V into rings in shared memory, a page a box of a tensor map over the whole pool, and
 * two warpgroups of 64 rows each compute. While a warpgroup does the softmax of one tile its products with V
 * of the tile before run, and the other warpgroup's products fill what is left. The grid is persistent; tiles
 * come longest first (attention_plan.cu). */

#include "kernels/cuda/attention_hopper_rows.cuh"

enum { HOPPER_THREADS = 384 };

/* Named barriers of warpgroup 0 or 1: of its own threads; and of both, to take turns at the tensor cores. */
__device__ __forceinline__ int32_t own_barrier(int32_t group)
{
    return 1 + group;
}

__device__ __forceinline__ int32_t turn_barrier(int32_t group)
{
    return 3 + group;
}

#if HOPPER
/* Where a warpgroup is in the rings, and what it computes with. */
template <int HD> struct hopper_group {
    const struct hopper_barriers &bar;
    char *memory;
    uint32_t smem;     /* address of the memory */
    int32_t first_row; /* of its own in an item */
    int32_t own, turn, other_turn;
    struct ring_place<HOPPER_STAGES> k, v;
    struct ring_place<hopper_layout<HD>::Q_STAGES> q;
};

/* Starts the scores of the next tile of K. */
template <typename T, int HD>
__device__ __forceinline__ void next_scores(struct hopper_group<HD> &g,
                                            float (&s)[hopper_layout<HD>::KEYS / 8][4])
{
    using layout = hopper_layout<HD>;
    begin_scores<T, HD>(s, g.smem + g.q.stage * layout::Q + g.first_row * UNIT_BYTES,
                        g.smem + layout::K_AT + g.k.stage * layout::TILE);
}

/* Starts the sums of the next tile of V; `left`: keys of the sequence from the tile's first on. */
template <typename T, int HD>
__device__ __forceinline__ void next_sums(struct hopper_group<HD> &g, struct hopper_state<HD> &st,
                                          const uint32_t (&p)[hopper_layout<HD>::KEYS / 16][4], int32_t left)
{
    using layout = hopper_layout<HD>;
    barrier_wait(g.bar.v_full + 8 * g.v.stage, g.v.phase);
    if (left < layout::KEYS) {
        clear_rows<HD>(g.memory + layout::V_AT + g.v.stage * layout::TILE, left);
        async_fence();
        named_sync(g.own, 128);
    }
    begin_sums<T, HD>(st.sum, p, g.smem + layout::V_AT + g.v.stage * layout::TILE);
}

/* The stage is used: the producer may have it. */
template <int STAGES> __device__ __forceinline__ void release(uint32_t empty, struct ring_place<STAGES> &at)
{
    if (threadIdx.x % 32 == 0) barrier_arrive(empty + 8 * at.stage);
    at.next();
}

/* The scores of the next tile of K, while the sums of the next tile of V begin. */
template <typename T, int HD>
__device__ __forceinline__ void scores_and_sums(struct hopper_group<HD> &g, struct hopper_state<HD> &st,
                                                float (&s)[hopper_layout<HD>::KEYS / 8][4],
                                                const uint32_t (&p)[hopper_layout<HD>::KEYS / 16][4],
                                                int32_t left)
{
    barrier_wait(g.bar.k_full + 8 * g.k.stage, g.k.phase);
    named_sync(g.turn, 256);
    next_scores<T, HD>(g, s);
    next_sums<T, HD>(g, st, p, left);
    named_arrive(g.other_turn, 256);
    wgmma_wait<1>();
    wgmma_pin(s);
    release(g.bar.k_empty, g.k);
}

/* Waits for the sums that began. */
template <int HD>
__device__ __forceinline__ void end_sums(struct hopper_group<HD> &g, struct hopper_state<HD> &st)
{
    wgmma_wait<0>();
    wgmma_pin(st.sum);
    release(g.bar.v_empty, g.v);
}

/* The results of an item whose q is at `q_stage`. */
template <typename T, int HD>
__device__ __forceinline__ void store_item(struct hopper_group<HD> &g, struct hopper_state<HD> &st,
                                           const struct attention_call &a, const struct hopper_item &it,
                                           uint32_t q_stage)
{
    using layout = hopper_layout<HD>;
    const int32_t warp_row = g.first_row + threadIdx.x % 128 / 32 * 16;
    if constexpr (layout::Q_STAGES > 1)
        store_lines<T, HD>(st, a, it, g.memory + q_stage * layout::Q + warp_row * UNIT_BYTES, warp_row);
    else
        store_sums<T, HD>(st, a, it, warp_row + threadIdx.x % 32 / 4);
}

/* A warpgroup: 64 rows of every item. The products of a tile's V run with those of the next tile's K, be that
 * of the same item or of the next. */
template <typename T, int HD>
__device__ __forceinline__ void consume(const struct attention_call &a, const struct hopper_barriers &bar,
                                        char *memory, const struct hopper_item *items)
{
    using layout = hopper_layout<HD>;
    constexpr int N = layout::KEYS / 8;
    constexpr bool Q_KEPT = layout::Q_STAGES > 1; /* until its item's results have gone through its place */
    /* Through a shuffle, so that the compiler knows it to be one value a warp. */
    const int32_t group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0) - 1;
    const int32_t row = group * 64 + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    struct hopper_group<HD> g = {
        bar, memory, shared_address(memory), group * 64, own_barrier(group), turn_barrier(group),
            turn_barrier(1 - group)
    };
    float s[N][4];
    uint32_t p[N / 2][4];
    struct hopper_state<HD> st;
    if (group == 1) named_arrive(g.other_turn, 256);
    barrier_wait(bar.q_full, 0);
    struct hopper_item it = items[0];
    if (!it.n_tiles) return;

    state_clear(st);
    barrier_wait(bar.k_full + 8 * g.k.stage, g.k.phase);
    next_scores<T, HD>(g, s);
    wgmma_wait<0>();
    wgmma_pin(s);
    release(bar.k_empty, g.k);
    weigh_tile<HD>(st, s, a, it, it.first_key, it.rows.first_position + row);
    pack_tile<T, N>(p, s);
    for (;;) {
        int32_t key = it.first_key;
        for (int32_t t = 1; t < it.n_tiles; t++, key += layout::KEYS) {
            scores_and_sums<T, HD>(g, st, s, p, it.rows.len - key);
            weigh_tile<HD>(st, s, a, it, key + layout::KEYS, it.rows.first_position + row);
            end_sums(g, st);
            scale_sums<HD>(st);
            pack_tile<T, N>(p, s);
        }
        struct ring_place<layout::Q_STAGES> q_before = g.q;
        if (!Q_KEPT)
            barrier_arrive(bar.q_empty); /* all threads: each has read the item, which lies beside q */
        g.q.next();
        barrier_wait(bar.q_full + 8 * g.q.stage, g.q.phase);
        const struct hopper_item next = items[g.q.stage];
        if (!next.n_tiles) {
            next_sums<T, HD>(g, st, p, it.rows.len - key);
            wgmma_wait<0>();
            wgmma_pin(st.sum);
            store_item<T, HD>(g, st, a, it, q_before.stage);
            return;
        }
        scores_and_sums<T, HD>(g, st, s, p, it.rows.len - key);
        end_sums(g, st);
        store_item<T, HD>(g, st, a, it, q_before.stage);
        if (Q_KEPT) release(bar.q_empty, q_before);
        it = next;
        state_clear(st);
        weigh_tile<HD>(st, s, a, it, it.first_key, it.rows.first_position + row);
        pack_tile<T, N>(p, s);
    }
}
#endif

template <typename T, int HD>
__global__ void __launch_bounds__(HOPPER_THREADS, 1)
    hopper_kernel(const __grid_constant__ CUtensorMap kv_map, const __grid_constant__ CUtensorMap q_map,
                  const struct attention_call a, const struct attention_plan plan, int32_t plane)
{
#if HOPPER
    using layout = hopper_layout<HD>;
    extern __shared__ char unaligned[];
    __shared__ struct hopper_item items[layout::Q_STAGES];
    char *memory = unaligned + (-shared_address(unaligned) & 1023);
    const struct hopper_barriers bar = barriers_at<HD>(shared_address(memory));
    if (threadIdx.x == 0) barriers_init<HD>(bar);
    __syncthreads();
    pdl_wait();
    pdl_launch();
    if (threadIdx.x < 128) {
        registers_give<56>();
        if (threadIdx.x < 32) {
            const int32_t box_rows = min(1 << a.page_shift, static_cast<int32_t>(layout::KEYS));
            const struct hopper_producer p = {&kv_map,
                                              &q_map,
                                              shared_address(memory),
                                              static_cast<int32_t>(threadIdx.x),
                                              layout::KEYS / box_rows,
                                              box_rows,
                                              (1 << a.page_shift) - 1};
            produce<HD>(p, a, plan, plane, bar, items, *plan.n_tiles * a.n_heads);
        }
    } else {
        registers_take<224>();
        consume<T, HD>(a, bar, memory, items);
    }
#endif
}

/* ---- the host's side ----------------------------------------------------------------------------------- */

typedef void hopper_function(CUtensorMap, CUtensorMap, struct attention_call, struct attention_plan, int32_t);

struct hopper_choice {
    hopper_function *kernel;
    int32_t bytes, keys;
};

template <typename T, int HD> static struct hopper_choice choice_of()
{
    return {hopper_kernel<T, HD>, hopper_layout<HD>::BYTES, hopper_layout<HD>::KEYS};
}

template <typename T> static struct hopper_choice choose_for(int32_t head_dim)
{
    switch (head_dim) {
    case 64:
        return choice_of<T, 64>();
    case 80:
        return choice_of<T, 80>();
    case 96:
        return choice_of<T, 96>();
    case 128:
        return choice_of<T, 128>();
    case 256:
        return choice_of<T, 256>();
    default:
        return {};
    }
}

static struct hopper_choice choose(const struct cuda_backend *cu, const struct kv_cache *kv)
{
    if (cu->major != 9 || kv->dtype != cu->base.act_dtype || kv->page_size < 8) return {};
    if (kv->dtype == DTYPE_BF16) return choose_for<__nv_bfloat16>(kv->head_dim);
    if (kv->dtype == DTYPE_F16) return choose_for<__half>(kv->head_dim);
    return {};
}

int attention_hopper_fits(const struct cuda_backend *cu, const struct attention_call *a,
                          const struct kv_cache *kv)
{
    const uintptr_t both = reinterpret_cast<uintptr_t>(a->q) | reinterpret_cast<uintptr_t>(a->out);
    return cu->attention->encode_map && choose(cu, kv).kernel && both % 16 == 0 &&
           (a->q_stride | a->out_stride) % 8 == 0;
}

llm_status attention_hopper(struct cuda_backend *cu, const struct attention_call *a,
                            const struct kv_cache *kv, int32_t layer, const struct attention_plan *plan,
                            int32_t max_tiles)
{
    const struct hopper_choice c = choose(cu, kv);
    const int64_t most = static_cast<int64_t>(max_tiles) * a->n_heads;
    CUtensorMap kv_map, q_map;
    if (attention_kv_map(cu, kv, c.keys, &kv_map) || attention_q_map(cu, a, kv->dtype, &q_map) ||
        cuda_check(cu, cudaFuncSetAttribute(c.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, c.bytes),
                   "attention of chunks"))
        return LLM_EFAILED;
    return cuda_launch(cu, "attention of chunks", c.kernel,
                       dim3(static_cast<unsigned>(most < cu->n_sms ? most : cu->n_sms)), dim3(HOPPER_THREADS),
                       static_cast<size_t>(c.bytes), kv_map, q_map, *a, *plan, 2 * layer * kv->n_kv_heads);
}
