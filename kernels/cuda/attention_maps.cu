/* Tensor maps for the kernel of chunks on Hopper. They are the same in all layers of a step. */

#include "kernels/cuda/attention.cuh"

#include <cuda.h>

#include <cstring>

void attention_maps_open(struct cuda_attention *at)
{
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &at->encode_map, 12000, cudaEnableDefault,
                                         &found) != cudaSuccess ||
        found != cudaDriverEntryPointSuccess)
        at->encode_map = nullptr;
}

/* Copies the map for `key` to `out`, a CUtensorMap; makes it where `map` is of another key. */
static llm_status fill_map(struct cuda_backend *cu, struct tensor_map *map, const struct tensor_map_key *key,
                           void *out)
{
    struct cuda_attention *at = cu->attention;
    if (memcmp(key, &map->key, sizeof *key)) {
        cuuint64_t sizes[4], strides[3];
        for (int i = 0; i < 4; i++) sizes[i] = static_cast<cuuint64_t>(key->sizes[i]);
        for (int i = 0; i < 3; i++) strides[i] = static_cast<cuuint64_t>(key->strides[i]);
        const cuuint32_t box[] = {64, static_cast<cuuint32_t>(key->box), 1, 1}, steps[] = {1, 1, 1, 1};
        const CUresult e = reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(at->encode_map)(
            reinterpret_cast<CUtensorMap *>(map->map),
            key->dtype == DTYPE_BF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4,
            const_cast<void *>(key->base), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
            CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
        if (e != CUDA_SUCCESS) return cuda_check(cu, cudaErrorInvalidValue, "tensor map of attention");
        map->key = *key;
    }
    memcpy(out, map->map, sizeof map->map);
    return LLM_OK;
}

/* Coordinates: column, row of a page, plane (layer, k or v, head), page. */
llm_status attention_kv_map(struct cuda_backend *cu, const struct kv_cache *kv, int32_t keys, void *out)
{
    struct tensor_map_key key;
    memset(&key, 0, sizeof key);
    key.base = kv->base;
    key.sizes[0] = kv->head_dim, key.sizes[1] = kv->page_size;
    key.sizes[2] = 2 * kv->n_layers * kv->n_kv_heads, key.sizes[3] = kv->n_pages;
    key.strides[0] = 2 * key.sizes[0], key.strides[1] = key.strides[0] * key.sizes[1];
    key.strides[2] = static_cast<int64_t>(kv->page_bytes);
    key.box = kv->page_size < keys ? kv->page_size : keys;
    key.dtype = kv->dtype;
    return fill_map(cu, &cu->attention->kv_map, &key, out);
}

/* Coordinates: column, row, head, 0. */
llm_status attention_q_map(struct cuda_backend *cu, const struct attention_call *a, enum llm_dtype dtype,
                           void *out)
{
    struct tensor_map_key key;
    memset(&key, 0, sizeof key);
    key.base = a->q;
    key.sizes[0] = a->head_dim, key.sizes[1] = cu->attention->shape.n_tokens;
    key.sizes[2] = a->n_heads, key.sizes[3] = 1;
    key.strides[0] = 2 * a->q_stride, key.strides[1] = 2 * key.sizes[0];
    key.strides[2] = key.strides[0] * key.sizes[1];
    key.box = HOPPER_ROWS;
    key.dtype = dtype;
    return fill_map(cu, &cu->attention->q_map, &key, out);
}
