#include "engine/kvcache.h"

#include "base/mem.h"

#include <assert.h>

llm_status kv_pool_init(struct kv_pool *pool, int32_t n_pages, int32_t page_size, const uint8_t *secret,
                        struct llm_error *err)
{
    *pool =
        (struct kv_pool){.n_pages = n_pages, .page_size = page_size, .spare = -1, .oldest = -1, .newest = -1};
    pool->pages = mem_array((size_t)n_pages, sizeof *pool->pages);
    if (!pool->pages) return llm_fail(err, LLM_ENOMEM, "no memory for the book of %d KV pages", n_pages);
    histogram_init_residency(&pool->lifetime);
    histogram_init_residency(&pool->idle);
    histogram_init_residency(&pool->reuse);
    llm_status status = prefix_init(&pool->index, n_pages, secret, err);
    if (status) kv_pool_deinit(pool);
    return status;
}

void kv_pool_deinit(struct kv_pool *pool)
{
    prefix_deinit(&pool->index);
    mem_free(pool->pages);
    pool->pages = NULL;
}

/* ---- places -------------------------------------------------------------------------------------------- */

static void push_spare(struct kv_pool *pool, int32_t page)
{
    pool->pages[page].next = pool->spare;
    pool->spare = page;
    pool->n_spare++;
}

static void push_cached(struct kv_pool *pool, int32_t page)
{
    pool->pages[page].next = -1;
    pool->pages[page].previous = pool->newest;
    if (pool->newest >= 0)
        pool->pages[pool->newest].next = page;
    else
        pool->oldest = page;
    pool->newest = page;
    pool->n_cached++;
}

static void unlink_cached(struct kv_pool *pool, int32_t page)
{
    struct kv_page *p = &pool->pages[page];
    if (p->previous >= 0)
        pool->pages[p->previous].next = p->next;
    else
        pool->oldest = p->next;
    if (p->next >= 0)
        pool->pages[p->next].previous = p->previous;
    else
        pool->newest = p->previous;
    pool->n_cached--;
}

static double seconds_since(const struct kv_pool *pool, int64_t then)
{
    return (double)(pool->now - then) * 1e-9;
}

/* What a cached page held is lost. */
static void note_loss(struct kv_pool *pool, int32_t page)
{
    histogram_add(&pool->lifetime, seconds_since(pool, pool->pages[page].born));
    histogram_add(&pool->idle, seconds_since(pool, pool->pages[page].used));
}

static void unname(struct kv_pool *pool, int32_t page)
{
    prefix_remove(&pool->index, pool->pages[page].hash);
    pool->pages[page].named = 0;
}

/* ---- references ---------------------------------------------------------------------------------------- */

int32_t kv_alloc(struct kv_pool *pool)
{
    int32_t page;
    if (pool->spare >= 0) {
        page = pool->spare;
        pool->spare = pool->pages[page].next;
        pool->n_spare--;
    } else if (pool->n_touched < pool->n_pages) {
        page = pool->n_touched++;
    } else if (pool->oldest >= 0) {
        page = pool->oldest;
        unlink_cached(pool, page);
        unname(pool, page);
        note_loss(pool, page);
    } else {
        return -1;
    }
    pool->pages[page].refs = 1;
    pool->pages[page].filled = 0;
    pool->pages[page].born = pool->pages[page].used = pool->now;
    pool->n_used++;
    return page;
}

void kv_ref(struct kv_pool *pool, int32_t page)
{
    struct kv_page *p = &pool->pages[page];
    if (p->refs++ > 0) return;
    unlink_cached(pool, page); /* nothing but the index leads to a free page */
    pool->n_used++;
    pool->n_filled += p->filled;
}

void kv_unref(struct kv_pool *pool, int32_t page)
{
    struct kv_page *p = &pool->pages[page];
    assert(p->refs > 0);
    if (--p->refs > 0) return;
    pool->n_used--;
    pool->n_filled -= p->filled;
    p->used = pool->now;
    if (p->named)
        push_cached(pool, page);
    else
        push_spare(pool, page);
}

void kv_fill(struct kv_pool *pool, int32_t page, int32_t n)
{
    pool->n_filled += n - pool->pages[page].filled;
    pool->pages[page].filled = n;
}

void kv_rewrite(struct kv_pool *pool, int32_t page, int32_t n)
{
    assert(pool->pages[page].refs == 1);
    if (pool->pages[page].named) unname(pool, page);
    kv_fill(pool, page, n);
}

/* ---- names --------------------------------------------------------------------------------------------- */

void kv_name(struct kv_pool *pool, int32_t page, struct block_hash hash)
{
    struct kv_page *p = &pool->pages[page];
    if (p->named || prefix_find(&pool->index, hash) >= 0) return;
    prefix_insert(&pool->index, hash, page);
    p->hash = hash;
    p->named = 1;
}

int32_t kv_find(struct kv_pool *pool, struct block_hash hash)
{
    int32_t page = prefix_find(&pool->index, hash);
    if (page < 0) return page;
    histogram_add(&pool->reuse, seconds_since(pool, pool->pages[page].used));
    pool->pages[page].used = pool->now;
    kv_ref(pool, page);
    return page;
}

int kv_evict(struct kv_pool *pool, struct block_hash hash)
{
    int32_t page = prefix_find(&pool->index, hash);
    if (page < 0) return 0;
    unname(pool, page);
    if (pool->pages[page].refs == 0) {
        unlink_cached(pool, page);
        note_loss(pool, page);
        push_spare(pool, page);
    }
    return 1;
}

void kv_forget(struct kv_pool *pool)
{
    for (int32_t page = 0; page < pool->n_touched; page++)
        if (pool->pages[page].named) unname(pool, page);
    while (pool->oldest >= 0) {
        int32_t page = pool->oldest;
        unlink_cached(pool, page);
        note_loss(pool, page);
        push_spare(pool, page);
    }
}

double kv_waste(const struct kv_pool *pool)
{
    if (!pool->n_used) return 0;
    return 1 - (double)pool->n_filled / ((double)pool->n_used * pool->page_size);
}

int kv_check(const struct kv_pool *pool)
{
    int32_t spare = 0, cached = 0, used = 0, named = 0, indexed = 0;
    int64_t filled = 0;
    for (int32_t i = pool->spare; i >= 0 && spare <= pool->n_pages; i = pool->pages[i].next, spare++)
        if (pool->pages[i].refs || pool->pages[i].named) return 0;
    for (int32_t i = pool->oldest; i >= 0 && cached <= pool->n_pages; i = pool->pages[i].next, cached++)
        if (pool->pages[i].refs || !pool->pages[i].named) return 0;
    for (int32_t i = 0; i < pool->n_pages; i++) {
        const struct kv_page *p = &pool->pages[i];
        if (i >= pool->n_touched && (p->refs || p->named)) return 0;
        if (p->refs < 0 || p->filled < 0 || p->filled > pool->page_size) return 0;
        if (p->named) {
            named++;
            if (prefix_find(&pool->index, p->hash) == i) indexed++;
            if (p->filled != pool->page_size) return 0;
        }
        if (p->refs) {
            used++;
            filled += p->filled;
        }
    }
    return spare == pool->n_spare && cached == pool->n_cached && used == pool->n_used &&
           filled == pool->n_filled && named == indexed && spare + cached + used == pool->n_touched;
}
