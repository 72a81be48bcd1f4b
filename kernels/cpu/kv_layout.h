#ifndef LLM_KERNELS_CPU_KV_LAYOUT_H
#define LLM_KERNELS_CPU_KV_LAYOUT_H

/* The inside of a KV page on the CPU:
 *
 *     [n_layers][n_kv_heads] { K [head_dim][page_size], V [page_size][head_dim] }
 *
 * K is transposed: a vector holds one coordinate of consecutive tokens, so scores of many tokens accumulate
 * by broadcast and multiply-add, with no sum across lanes. V is as it comes: a vector holds consecutive
 * coordinates of one token, which is what the weighted sum wants. What one head of one layer reads of a page
 * is contiguous. */

#include "kernels/kernels.h"

static inline size_t kv_elem_bytes(const struct kv_cache *kv)
{
    return (size_t)dtype_table[kv->dtype].bytes;
}

/* Elements of K (or of V) of one head and layer in a page. */
static inline size_t kv_head_elems(const struct kv_cache *kv)
{
    return (size_t)kv->head_dim * (size_t)kv->page_size;
}

/* Bytes from a page's start to the K of (layer, head); its V is kv_head_elems further. */
static inline size_t kv_head_offset(const struct kv_cache *kv, int32_t layer, int32_t head)
{
    size_t pair = (size_t)layer * (size_t)kv->n_kv_heads + (size_t)head;
    return pair * 2 * kv_head_elems(kv) * kv_elem_bytes(kv);
}

static inline uint8_t *kv_page_head(const struct kv_cache *kv, int32_t page, int32_t layer, int32_t head)
{
    return (uint8_t *)kv->base + (size_t)page * kv->page_bytes + kv_head_offset(kv, layer, head);
}

#endif
