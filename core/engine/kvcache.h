#ifndef LLM_ENGINE_KVCACHE_H
#define LLM_ENGINE_KVCACHE_H

/* Who owns which page of KV memory. Knows page numbers only, not what is in the pages. Engine thread only.
 *
 * A page is in one of four places:
 *
 *   used      referenced by one or more sequences
 *   spare     free, touched before, holds nothing worth keeping: a stack, so that warm memory is used again
 *   fresh     free and never touched: the pages from n_touched on; the system has not backed them yet
 *   cached    free, but holds a full block that the prefix index can find: a list, least recently used first
 *
 * Pages are given out in the order spare, fresh, cached: memory grows only when needed, and what is cached is
 * kept as long as possible. */

#include "engine/histogram.h"
#include "engine/prefix.h"

struct kv_page {
    int32_t refs;
    int32_t filled; /* slots that hold a token */
    int32_t next, previous;
    int named; /* 1: `hash` is in the index */
    struct block_hash hash;
    int64_t born, used; /* ns: when it was given out; when it was last taken or let go */
};

struct kv_pool {
    int32_t n_pages, page_size;
    int32_t n_used, n_touched, n_spare, n_cached;
    int64_t n_filled; /* slots that hold a token, in used pages */
    int32_t spare;    /* top of the stack, linked by `next`; -1: empty */
    int32_t oldest, newest;
    struct kv_page *pages;
    struct prefix_table index;
    int64_t now;                            /* ns, set by the owner; 0 where nobody looks at the times */
    struct histogram lifetime, idle, reuse; /* of cached pages: llmlua.h */
};

/* secret: of the prefix index (prefix.h). Errors: LLM_ENOMEM, LLM_EIO. */
llm_status kv_pool_init(struct kv_pool *pool, int32_t n_pages, int32_t page_size, const uint8_t *secret,
                        struct llm_error *err);
void kv_pool_deinit(struct kv_pool *pool);

static inline int32_t kv_n_free(const struct kv_pool *pool)
{
    return pool->n_pages - pool->n_used;
}

/* Pages that n tokens take. */
static inline int32_t kv_pages_for(const struct kv_pool *pool, int32_t n_tokens)
{
    return (n_tokens + pool->page_size - 1) / pool->page_size;
}

/* A page with one reference, empty; -1: all are used. May forget a cached block. */
int32_t kv_alloc(struct kv_pool *pool);
void kv_ref(struct kv_pool *pool, int32_t page);
/* The last reference frees the page, which stays cached if it is named. */
void kv_unref(struct kv_pool *pool, int32_t page);
/* Says that the first n slots of a used page hold tokens. */
void kv_fill(struct kv_pool *pool, int32_t page, int32_t n);
/* A page with one reference will be written again from slot n on: what is there loses its name. */
void kv_rewrite(struct kv_pool *pool, int32_t page, int32_t n);

/* Names a used, full page, so that kv_find finds it; does nothing if another page has that name. */
void kv_name(struct kv_pool *pool, int32_t page, struct block_hash hash);
/* A page that holds this block, with one more reference; -1: none. */
int32_t kv_find(struct kv_pool *pool, struct block_hash hash);
/* Forgets one block, and with it what follows it: that cannot be found without it. 0: it is not there. */
int kv_evict(struct kv_pool *pool, struct block_hash hash);
/* Forgets all names. Used pages stay as they are. */
void kv_forget(struct kv_pool *pool);

/* Slots of used pages that hold no token, as a share of all slots of used pages. */
double kv_waste(const struct kv_pool *pool);

/* For tests: 1 if every page is in exactly one place and all counts are right. */
int kv_check(const struct kv_pool *pool);

#endif
