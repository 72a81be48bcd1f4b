#ifndef LLM_KERNELS_CUDA_ATTENTION_CUH
#define LLM_KERNELS_CUDA_ATTENTION_CUH

/* Paged attention: what its files share.
 *
 *     attention.cu          the op: chooses kernels, keeps plans
 *     attention_plan.cu     once a step, on the device: who computes what
 *     attention_decode.cu   sequences of one row: memory-bound, KV split evenly over the whole device
 *     attention_prefill.cu  chunks, mma.sync: tensor cores of sm_80 and later
 *     attention_hopper.cu   chunks, wgmma and TMA: sm_90a; attention_maps.cu has its tensor maps
 *     attention_any.cu      any shape and type, float32 too: plain
 *
 * Scores are kept in units of log2: softmax is of 2^s, which is one instruction. */

#include "kernels/cuda/cuda.cuh"

/* One call for the kernels, by value. */
struct attention_call {
    const void *q; /* strides in elements */
    void *out;
    int64_t q_stride, out_stride;
    const int32_t *seq_start, *kv_len, *block_table;
    int64_t block_table_stride;
    const char *k;                           /* of page 0, this layer, head 0 */
    int64_t page_bytes, head_bytes, v_bytes; /* from page to page, head to head, K to V */
    int32_t page_shift, n_seqs, n_heads, n_kv_heads, group, head_dim;
    int32_t window; /* of keys; 0: all */
    /* softcap 0: score = s * scale_log2; else cap_log2 * tanh(s * cap_scale) */
    float scale_log2, cap_log2, cap_scale;
    int planned; /* the plan was made for an earlier call */
};

enum {
    DECODE_TILE = 64, /* keys: the unit in which the KV of decodes is dealt out */
    DECODE_MAX_GROUP = 16,
    PREFILL_ROWS = 64, /* of q in a tile */
    HOPPER_ROWS = 128,
    MAX_PLANS = 8, /* a step: for decodes and for chunks, of each window that its layers use */
    MAX_HEAD_DIM = 512,
};

/* What a block of the decode kernel computes: n tiles from this one on, in the order sequence, KV head, tile;
 * 0: nothing. All that a block needs to start is here, one load away. */
struct alignas(16) decode_bin {
    int32_t seq, head, tile, n; /* tile: from the first that the row sees */
    int32_t len;                /* keys of seq */
    int32_t first_bin, n_parts; /* the bins that have the sequence and head of its first tile */
    int32_t n_last_parts;       /* and of its last tile, if begun here */
    int32_t page[4];            /* of the first tile, of each quarter */
};

/* Rows of a chunk that a block of a prefill kernel computes for one head, and what it needs to start. */
struct alignas(16) prefill_tile {
    int32_t seq, first_row, n_rows; /* of q */
    int32_t first_position, len;    /* of the first row; keys of seq */
};

/* A plan on the device; a function of lengths alone, so that it serves all layers with one window. */
struct attention_plan {
    int32_t *n_tiles;
    struct decode_bin *bins;
    struct prefill_tile *tiles; /* [n_tiles], most keys first */
};

/* What a plan depends on besides the batch. It is for decodes (n_kv_heads, n_bins) or for chunks (tile_rows).
 */
struct plan_key {
    const int32_t *block_table;
    int32_t window, n_kv_heads, n_bins, tile_rows;
};

/* Partial results of decodes whose KV is split: bin b has slots 2b (a sequence begun in an earlier bin) and
 * 2b + 1 (one that goes on in the next). A slot: [group][head_dim] sums, [group] {maximum, sum of weights}.
 */
struct decode_partials {
    float *sums;
    float2 *stats;
    int32_t *arrived; /* [n_seqs][n_kv_heads], zero between launches */
};

/* What a tensor map depends on. Sizes in elements, strides of all but the first in bytes; boxes are of 64
 * columns and `box` rows. */
struct tensor_map_key {
    const void *base;
    int64_t sizes[4], strides[3];
    int32_t box, dtype;
};

struct tensor_map {
    struct tensor_map_key key;
    alignas(64) unsigned char map[128]; /* CUtensorMap */
};

struct cuda_attention {
    struct step_shape shape;
    struct backend_limits limits; /* what the memory below is for */
    int32_t max_bins, max_tiles;
    struct attention_plan plans[MAX_PLANS];
    struct plan_key keys[MAX_PLANS];
    int32_t n_plans; /* made in this step */
    struct decode_partials partials;
    void *memory;     /* all of the above on the device */
    void *encode_map; /* the driver's cuTensorMapEncodeTiled; null: not there */
    struct tensor_map kv_map, q_map;
};

/* The first key that a row at position p sees. */
__host__ __device__ static inline int32_t first_key(int32_t p, int32_t window)
{
    return window && p >= window ? p - window + 1 : 0;
}

#ifdef __CUDACC__
/* The score of q.k, in log2. 1 - 2 / (1 + e^2x) is tanh to some 1e-7, where tanh.approx has 2^-11, too much
 * for a cap of 50. */
__device__ __forceinline__ float attention_score(const struct attention_call &a, float dot)
{
    if (a.cap_log2 == 0) return dot * a.scale_log2;
    const float e = __expf(2 * dot * a.cap_scale);
    return a.cap_log2 * (1 - __fdividef(2.0f, 1 + e));
}
#endif

/* ---- the kernels: each enqueues one launch ------------------------------------------------------------- */

/* Fills `plan`: of sequences [0, n_decode) if the key has bins, of the others if it has tile_rows. */
llm_status attention_make_plan(struct cuda_backend *cu, const struct attention_plan *plan,
                               const struct plan_key *key, const struct attention_call *a);

/* Rows [first_row, first_row + n_rows), of whatever sequences. */
llm_status attention_any(struct cuda_backend *cu, const struct attention_call *a, enum llm_dtype kv_dtype,
                         int32_t first_row, int32_t n_rows);

/* Blocks of the persistent grid; 0: not for this shape. */
int32_t attention_decode_bins(const struct cuda_backend *cu, const struct kv_cache *kv, int32_t group);
llm_status attention_decode(struct cuda_backend *cu, const struct attention_call *a,
                            const struct kv_cache *kv, const struct attention_plan *plan);

/* max_tiles: of the plan, made for PREFILL_ROWS (HOPPER_ROWS). */
int attention_prefill_fits(const struct cuda_backend *cu, const struct kv_cache *kv);
llm_status attention_prefill(struct cuda_backend *cu, const struct attention_call *a,
                             const struct kv_cache *kv, const struct attention_plan *plan, int32_t max_tiles);

/* layer: of the KV cache. */
int attention_hopper_fits(const struct cuda_backend *cu, const struct attention_call *a,
                          const struct kv_cache *kv);
llm_status attention_hopper(struct cuda_backend *cu, const struct attention_call *a,
                            const struct kv_cache *kv, int32_t layer, const struct attention_plan *plan,
                            int32_t max_tiles);

/* `out`: a CUtensorMap; keys: of a tile. */
void attention_maps_open(struct cuda_attention *at);
llm_status attention_kv_map(struct cuda_backend *cu, const struct kv_cache *kv, int32_t keys, void *out);
llm_status attention_q_map(struct cuda_backend *cu, const struct attention_call *a, enum llm_dtype dtype,
                           void *out);

#endif
