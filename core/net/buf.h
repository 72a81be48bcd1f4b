#ifndef LLM_NET_BUF_H
#define LLM_NET_BUF_H

/* Bytes that wait to be sent: a chain of fixed-size blocks from a free list that belongs to the loop. An
 * empty buffer holds no block, so an idle connection costs no buffer memory, and in steady state nothing is
 * allocated. One thread. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

enum {
    NET_BLOCK_BYTES = 8192,
    NET_POOL_MAX_FREE = 512, /* blocks kept for later: 4 MiB a loop */
    NET_IOV_MAX = 64
};

struct net_block {
    struct net_block *next;
    uint32_t begin, end; /* bytes not yet sent: data[begin .. end) */
    char data[NET_BLOCK_BYTES - 16];
};

struct net_pool {
    struct net_block *free;
    int32_t n_free;
};

void net_pool_deinit(struct net_pool *pool);

struct net_buf {
    struct net_block *head; /* oldest bytes */
    struct net_block *tail; /* being filled; blocks after it are empty */
    struct net_block *last; /* end of the chain */
    size_t size;            /* bytes held */
    size_t room;            /* bytes that net_buf_put takes without more blocks */
};

/* Makes room for n more bytes, so that the net_buf_put calls that follow cannot fail half way through a
 * frame. Errors: LLM_ENOMEM, and the buffer is as it was. */
llm_status net_buf_ensure(struct net_buf *buf, struct net_pool *pool, size_t n);
/* Appends; n is at most the room. */
void net_buf_put(struct net_buf *buf, const void *data, size_t n);
/* Points iov[0 .. returned) at the oldest bytes; at most NET_IOV_MAX entries. */
int net_buf_iov(const struct net_buf *buf, struct iovec *iov);
/* Forgets the n oldest bytes. */
void net_buf_consume(struct net_buf *buf, struct net_pool *pool, size_t n);
void net_buf_clear(struct net_buf *buf, struct net_pool *pool);

#endif
