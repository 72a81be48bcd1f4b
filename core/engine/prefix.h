#ifndef LLM_ENGINE_PREFIX_H
#define LLM_ENGINE_PREFIX_H

/* The prefix cache's index: which page holds a full block of tokens after given tokens. A block is named by a
 * 128-bit hash of its tokens and of the name of the block before it, so that a name stands for the whole
 * prefix; the chain starts from a hash of the request's cache salt. The hash is XXH3 keyed with a random
 * secret: names cannot be forged by choosing prompts. Engine thread only. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct block_hash {
    uint64_t low, high;
};

enum {
    PREFIX_SECRET_BYTES = 192,
    PREFIX_MAX_BLOCK = 128 /* tokens: the largest KV page there is (kernels.h) */
};

/* An open-addressing table with linear probing, at most half full; sized at open. */
struct prefix_table {
    struct prefix_entry *entries;
    uint32_t mask;
    uint8_t secret[PREFIX_SECRET_BYTES];
};

/* secret: PREFIX_SECRET_BYTES bytes, copied; null: from the system's random numbers. Errors: LLM_ENOMEM. */
llm_status prefix_init(struct prefix_table *t, int32_t n_pages, const uint8_t *secret, struct llm_error *err);
void prefix_deinit(struct prefix_table *t);

struct block_hash prefix_root(const struct prefix_table *t, const char *salt, size_t bytes);
/* n tokens, at most PREFIX_MAX_BLOCK. */
struct block_hash prefix_next(const struct prefix_table *t, struct block_hash parent, const int32_t *tokens,
                              int32_t n);

/* The page of a block, -1: none. */
int32_t prefix_find(const struct prefix_table *t, struct block_hash hash);
/* The hash is not in the table; the table has room as no page has two names. */
void prefix_insert(struct prefix_table *t, struct block_hash hash, int32_t page);
void prefix_remove(struct prefix_table *t, struct block_hash hash);

#endif
