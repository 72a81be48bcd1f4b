#ifndef LLM_NET_STREAM_H
#define LLM_NET_STREAM_H

/* A connected socket, plain or TLS: bytes in by callback, bytes out through a buffer that is sent at the end
 * of the loop's turn. The common ground of the HTTP server's and client's connections, which embed it. */

#include "net/buf.h"
#include "net/loop_impl.h"

#include <sys/socket.h>

struct net_stream;
struct net_tls;
struct ssl_st;

/* Callbacks. Each may close the stream. */
struct net_stream_ops {
    /* data lives until the callback returns. */
    void (*on_data)(struct net_stream *stream, const char *data, size_t n);
    /* The peer will send no more (LLM_OK), or the connection broke (LLM_EIO), possibly after an LLM_OK that
     * the owner answered by sending on. After LLM_EIO it must close. */
    void (*on_end)(struct net_stream *stream, llm_status status, const char *reason);
    /* Some output has left; stream->out.size says what still waits. Each net_stream_touch leads to one call
     * at least once all is out, even if nothing was waiting. */
    void (*on_flush)(struct net_stream *stream);
    /* The TLS handshake is done. May be null. */
    void (*on_ready)(struct net_stream *stream);
};

enum net_read_mode {
    NET_READ_OFF,
    NET_READ_ON,
    NET_READ_HANGUP /* take no bytes but notice that the peer closes */
};

struct net_stream {
    struct net_grave grave; /* the owner's memory: stream is its first member */
    struct net_loop *loop;
    const struct net_stream_ops *ops;
    struct ssl_st *ssl; /* null: plain */
    struct event ev_read, ev_write;
    struct net_buf out;
    struct net_stream *next_dirty;
    int fd; /* -1: closed */
    unsigned char read_mode;
    unsigned handshaking : 1, dirty : 1, write_armed : 1;
    unsigned ended : 2; /* 1: the peer sends no more; 2: broken */
};

/* Takes the connected, non-blocking fd. tls: null for plain. Reading is off until asked for. On failure the
 * fd stays the caller's. Errors: LLM_ENOMEM. */
llm_status net_stream_init(struct net_stream *stream, struct net_loop *loop, int fd, struct net_tls *tls,
                           const char *tls_host, const struct net_stream_ops *ops);
/* A client's TLS session begins its handshake in the next turn; on_ready or on_end tells how it went. */
void net_stream_handshake(struct net_stream *stream);

void net_stream_read(struct net_stream *stream, enum net_read_mode mode);

/* After net_buf_put calls on stream->out: it is sent at the end of this turn. */
void net_stream_touch(struct net_stream *stream);

/* Closes the socket now, dropping what has not been sent, and buries the owner's memory. No callback follows.
 */
void net_stream_close(struct net_stream *stream, void (*release)(struct net_grave *));

/* Says to the peer that nothing more comes, without closing. */
void net_stream_shutdown(struct net_stream *stream);

/* For loop.c: sends what all streams have put into their buffers. */
void net_stream_flush_dirty(struct net_loop *loop);

#endif
