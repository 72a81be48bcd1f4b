#define _GNU_SOURCE
#include "net/stream.h"

#include "net/tls.h"

#include <openssl/err.h>
#include <openssl/ssl.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

/* System calls a flush may make before other connections get their turn: 4 x 64 blocks, 2 MiB. */
enum { MAX_SENDS = 4 };

static void stream_end(struct net_stream *s, llm_status status, const char *reason)
{
    unsigned level = status == LLM_OK ? 1 : 2; /* output may still break after the peer's orderly end */
    if (s->ended >= level || s->fd < 0) return;
    s->ended = level & 3;
    net_stream_read(s, NET_READ_OFF);
    s->ops->on_end(s, status, reason);
}

static void arm_write(struct net_stream *s, int on)
{
    if (s->write_armed == (unsigned)on) return;
    s->write_armed = (unsigned)on;
    if (on)
        event_add(&s->ev_write, NULL);
    else
        event_del(&s->ev_write);
}

/* ---- in ------------------------------------------------------------------------------------------------ */

static void read_plain(struct net_stream *s)
{
    ssize_t n = recv(s->fd, s->loop->scratch, NET_SCRATCH_BYTES, 0);
    if (n > 0)
        s->ops->on_data(s, s->loop->scratch, (size_t)n);
    else if (n == 0)
        stream_end(s, LLM_OK, "closed by the peer");
    else if (errno != EAGAIN && errno != EINTR)
        stream_end(s, LLM_EIO, strerror(errno));
}

static void read_tls(struct net_stream *s)
{
    size_t n = 0;
    int rc = 1, reason = SSL_ERROR_NONE;
    errno = 0;
    ERR_clear_error();
    while (n < NET_SCRATCH_BYTES && reason == SSL_ERROR_NONE) {
        rc = SSL_read(s->ssl, s->loop->scratch + n, (int)(NET_SCRATCH_BYTES - n));
        if (rc > 0)
            n += (size_t)rc;
        else
            reason = SSL_get_error(s->ssl, rc);
    }
    char text[200];
    const char *why = reason == SSL_ERROR_SSL || reason == SSL_ERROR_SYSCALL
                          ? net_tls_reason(s->ssl, text, sizeof text)
                          : "closed by the peer";
    if (n > 0) s->ops->on_data(s, s->loop->scratch, n);
    if (s->fd < 0) return;
    switch (reason) {
    case SSL_ERROR_NONE: /* the scratch was full: bytes inside the session wake nobody */
        if (s->read_mode == NET_READ_ON && SSL_pending(s->ssl) > 0) event_active(&s->ev_read, EV_READ, 1);
        break;
    case SSL_ERROR_WANT_READ:
        break;
    case SSL_ERROR_WANT_WRITE:
        arm_write(s, 1);
        break;
    case SSL_ERROR_ZERO_RETURN:
        stream_end(s, LLM_OK, why);
        break;
    default:
        stream_end(s, LLM_EIO, why);
    }
}

static void handshake(struct net_stream *s)
{
    errno = 0;
    ERR_clear_error();
    int rc = SSL_do_handshake(s->ssl);
    if (rc == 1) {
        s->handshaking = 0;
        arm_write(s, 0);
        if (s->out.size > 0) net_stream_touch(s);
        if (s->ops->on_ready) s->ops->on_ready(s);
        /* The first request may have come in the same bytes as the end of the handshake. */
        if (s->fd >= 0 && s->read_mode == NET_READ_ON) read_tls(s);
        return;
    }
    int reason = SSL_get_error(s->ssl, rc);
    if (reason == SSL_ERROR_WANT_READ) {
        arm_write(s, 0);
        if (s->read_mode == NET_READ_OFF) net_stream_read(s, NET_READ_ON);
    } else if (reason == SSL_ERROR_WANT_WRITE) {
        arm_write(s, 1);
    } else {
        char text[200], message[260];
        snprintf(message, sizeof message, "TLS: %s", net_tls_reason(s->ssl, text, sizeof text));
        stream_end(s, LLM_EIO, message);
    }
}

static void on_readable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    struct net_stream *s = arg;
    if (s->read_mode == NET_READ_HANGUP && what & EV_CLOSED)
        stream_end(s, LLM_OK, "closed by the peer");
    else if (s->read_mode != NET_READ_ON)
        return;
    else if (s->handshaking)
        handshake(s);
    else if (s->ssl)
        read_tls(s);
    else
        read_plain(s);
}

void net_stream_read(struct net_stream *s, enum net_read_mode mode)
{
    if (s->read_mode == mode || s->fd < 0 || (s->ended && mode != NET_READ_OFF)) return;
    if (s->read_mode != NET_READ_OFF) event_del(&s->ev_read);
    s->read_mode = (unsigned char)mode;
    if (mode == NET_READ_OFF) return;
    short what = mode == NET_READ_ON ? EV_READ : EV_CLOSED;
    event_assign(&s->ev_read, s->loop->base, s->fd, what | EV_PERSIST, on_readable, s);
    event_add(&s->ev_read, NULL);
    if (mode == NET_READ_ON && s->ssl && SSL_pending(s->ssl) > 0) event_active(&s->ev_read, EV_READ, 1);
}

/* ---- out ----------------------------------------------------------------------------------------------- */

enum send_result { SEND_ALL, SEND_BLOCKED, SEND_ENDED };

static enum send_result send_plain(struct net_stream *s)
{
    for (int i = 0; i < MAX_SENDS && s->out.size > 0; i++) {
        struct iovec iov[NET_IOV_MAX];
        struct msghdr msg = {.msg_iov = iov, .msg_iovlen = (size_t)net_buf_iov(&s->out, iov)};
        size_t offered = 0;
        for (size_t k = 0; k < msg.msg_iovlen; k++) offered += iov[k].iov_len;
        ssize_t n = sendmsg(s->fd, &msg, MSG_NOSIGNAL);
        if (n < 0 && (errno == EAGAIN || errno == EINTR)) return SEND_BLOCKED;
        if (n < 0) {
            stream_end(s, LLM_EIO, strerror(errno));
            return SEND_ENDED;
        }
        net_buf_consume(&s->out, &s->loop->pool, (size_t)n);
        if ((size_t)n < offered) return SEND_BLOCKED;
    }
    return s->out.size > 0 ? SEND_BLOCKED : SEND_ALL;
}

static enum send_result send_tls(struct net_stream *s)
{
    for (int i = 0; i < MAX_SENDS * NET_IOV_MAX && s->out.size > 0; i++) {
        struct iovec iov[NET_IOV_MAX];
        net_buf_iov(&s->out, iov);
        errno = 0;
        ERR_clear_error();
        int n = SSL_write(s->ssl, iov[0].iov_base, (int)iov[0].iov_len);
        if (n <= 0) {
            int reason = SSL_get_error(s->ssl, n);
            if (reason == SSL_ERROR_WANT_WRITE || reason == SSL_ERROR_WANT_READ) return SEND_BLOCKED;
            char text[200];
            stream_end(s, LLM_EIO, net_tls_reason(s->ssl, text, sizeof text));
            return SEND_ENDED;
        }
        net_buf_consume(&s->out, &s->loop->pool, (size_t)n);
    }
    return s->out.size > 0 ? SEND_BLOCKED : SEND_ALL;
}

static void flush(struct net_stream *s)
{
    if (s->fd < 0 || s->handshaking) return;
    size_t before = s->out.size;
    enum send_result result = s->ssl ? send_tls(s) : send_plain(s);
    if (result == SEND_ENDED || s->fd < 0) return;
    arm_write(s, result == SEND_BLOCKED);
    if (s->out.size < before || s->out.size == 0) s->ops->on_flush(s);
}

static void on_writable(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct net_stream *s = arg;
    if (s->handshaking)
        handshake(s);
    else
        flush(s);
}

void net_stream_touch(struct net_stream *s)
{
    if (s->dirty || s->fd < 0) return;
    s->dirty = 1;
    s->next_dirty = NULL;
    if (s->loop->dirty_last)
        s->loop->dirty_last->next_dirty = s;
    else
        s->loop->dirty_first = s;
    s->loop->dirty_last = s;
}

void net_stream_flush_dirty(struct net_loop *loop)
{
    while (loop->dirty_first) {
        struct net_stream *s = loop->dirty_first;
        loop->dirty_first = s->next_dirty;
        if (!loop->dirty_first) loop->dirty_last = NULL;
        s->dirty = 0;
        /* A blocked socket is tried again when it says so, not at each new piece. */
        if (!s->write_armed) flush(s);
    }
}

/* ---- lifetime ------------------------------------------------------------------------------------------ */

llm_status net_stream_init(struct net_stream *s, struct net_loop *loop, int fd, struct net_tls *tls,
                           const char *tls_host, const struct net_stream_ops *ops)
{
    s->loop = loop;
    s->ops = ops;
    s->fd = -1;
    if (tls) {
        s->ssl = net_tls_session(tls, fd, tls_host);
        if (!s->ssl) return LLM_ENOMEM;
        s->handshaking = 1;
    }
    s->fd = fd;
    event_assign(&s->ev_write, loop->base, fd, EV_WRITE | EV_PERSIST, on_writable, s);
    return LLM_OK;
}

void net_stream_handshake(struct net_stream *s)
{
    arm_write(s, 1);
}

void net_stream_shutdown(struct net_stream *s)
{
    if (s->fd < 0) return;
    if (s->ssl && !s->handshaking && !s->ended) {
        ERR_clear_error();
        SSL_shutdown(s->ssl);
    }
    shutdown(s->fd, SHUT_WR);
}

void net_stream_close(struct net_stream *s, void (*release)(struct net_grave *))
{
    if (s->fd < 0) return;
    net_stream_read(s, NET_READ_OFF);
    arm_write(s, 0);
    if (s->ssl && !s->handshaking && !s->ended && s->out.size == 0) {
        ERR_clear_error();
        SSL_shutdown(s->ssl); /* best effort: the peer learns that nothing was cut off */
    }
    SSL_free(s->ssl);
    s->ssl = NULL;
    close(s->fd);
    s->fd = -1;
    net_buf_clear(&s->out, &s->loop->pool);
    net_loop_bury(s->loop, &s->grave, release);
}
