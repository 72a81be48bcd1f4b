#include "net/buf.h"

#include "base/mem.h"

#include <assert.h>
#include <string.h>

_Static_assert(sizeof(struct net_block) == NET_BLOCK_BYTES, "a block is a power of two");

static struct net_block *block_take(struct net_pool *pool)
{
    struct net_block *block = pool->free;
    if (block) {
        pool->free = block->next;
        pool->n_free--;
    } else {
        block = mem_alloc(sizeof *block);
        if (!block) return NULL;
    }
    block->next = NULL;
    block->begin = block->end = 0;
    return block;
}

static void block_give(struct net_pool *pool, struct net_block *block)
{
    if (pool->n_free >= NET_POOL_MAX_FREE) {
        mem_free(block);
        return;
    }
    block->next = pool->free;
    pool->free = block;
    pool->n_free++;
}

static void chain_give(struct net_pool *pool, struct net_block *block)
{
    while (block) {
        struct net_block *next = block->next;
        block_give(pool, block);
        block = next;
    }
}

void net_pool_deinit(struct net_pool *pool)
{
    while (pool->free) {
        struct net_block *next = pool->free->next;
        mem_free(pool->free);
        pool->free = next;
    }
    pool->n_free = 0;
}

llm_status net_buf_ensure(struct net_buf *buf, struct net_pool *pool, size_t n)
{
    struct net_block *first = NULL, *last = NULL;
    size_t room = buf->room;
    while (room < n) {
        struct net_block *block = block_take(pool);
        if (!block) {
            chain_give(pool, first);
            return LLM_ENOMEM;
        }
        if (last)
            last->next = block;
        else
            first = block;
        last = block;
        room += sizeof block->data;
    }
    if (!first) return LLM_OK;
    if (buf->last)
        buf->last->next = first;
    else
        buf->head = buf->tail = first;
    buf->last = last;
    buf->room = room;
    return LLM_OK;
}

void net_buf_put(struct net_buf *buf, const void *data, size_t n)
{
    assert(n <= buf->room);
    const char *from = data;
    buf->size += n;
    buf->room -= n;
    while (n > 0) {
        struct net_block *block = buf->tail;
        size_t part = sizeof block->data - block->end;
        if (part == 0) {
            buf->tail = block->next;
            continue;
        }
        if (part > n) part = n;
        memcpy(block->data + block->end, from, part);
        block->end += (uint32_t)part;
        from += part;
        n -= part;
    }
}

int net_buf_iov(const struct net_buf *buf, struct iovec *iov)
{
    int n = 0;
    for (struct net_block *block = buf->head; block && n < NET_IOV_MAX; block = block->next) {
        if (block->begin == block->end) break;
        iov[n].iov_base = block->data + block->begin;
        iov[n].iov_len = block->end - block->begin;
        n++;
    }
    return n;
}

void net_buf_consume(struct net_buf *buf, struct net_pool *pool, size_t n)
{
    assert(n <= buf->size);
    if (n == buf->size) {
        net_buf_clear(buf, pool);
        return;
    }
    buf->size -= n;
    while (n > 0) {
        struct net_block *block = buf->head;
        size_t part = block->end - block->begin;
        if (part > n) {
            block->begin += (uint32_t)n;
            return;
        }
        n -= part;
        buf->head = block->next;
        if (buf->tail == block) buf->tail = block->next;
        block_give(pool, block);
    }
}

void net_buf_clear(struct net_buf *buf, struct net_pool *pool)
{
    chain_give(pool, buf->head);
    memset(buf, 0, sizeof *buf);
}
