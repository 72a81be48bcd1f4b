#ifndef LLM_NET_HTTP_SERVER_H
#define LLM_NET_HTTP_SERVER_H

/* An HTTP/1.1 server on a loop. It listens, reads whole requests within limits, hands each to the owner as an
 * exchange, and sends the response that the owner builds at its leisure: at once, or in pieces over minutes.
 *
 * A connection serves one exchange at a time; pipelined requests wait in order. While an exchange is with the
 * owner the socket is still watched: a client that closes (or half-closes) it has left, and the owner is told
 * at once (the one exception: a client that has pipelined more behind its request than we and the kernel
 * hold, whose end cannot be seen). Malformed, oversized and stalled requests are answered by the server
 * itself and never reach the owner: 400, 408, 413, 414, 417, 431, 501, 505.
 *
 * Back-pressure: http_reply_write always takes what it is given, and answers LLM_EAGAIN once a client's
 * unsent bytes pass the high-water mark; the owner then waits for on_writable. A client that takes no byte
 * for write_timeout_ms is dropped. All on the loop's thread. */

#include "net/http_parse.h"
#include "net/loop.h"

#include <sys/uio.h>

struct http_server;
struct http_exchange;
struct net_tls;

/* Why an exchange is over. */
enum http_done {
    HTTP_DONE_SENT,    /* the whole response was handed to the kernel */
    HTTP_DONE_LEFT,    /* the client closed or broke the connection */
    HTTP_DONE_TIMEOUT, /* the client stopped reading */
    HTTP_DONE_CLOSED   /* aborted by the owner, or the server closed */
};

/* on_request: the exchange is complete and now the owner's, who must start a reply sooner or later.
 * on_writable: after an LLM_EAGAIN, the client has caught up. on_done: exactly once for each on_request, and
 * the last use of the exchange. on_writable may be null. */
struct http_handler {
    void (*on_request)(void *ud, struct http_exchange *x);
    void (*on_writable)(void *ud, struct http_exchange *x);
    void (*on_done)(void *ud, struct http_exchange *x, enum http_done why);
    /* Writes the body of a response that the server sends by itself, of error_type, into text; returns its
     * bytes, at most capacity. Null: the message as plain text. */
    size_t (*format_error)(void *ud, int status, const char *message, char *text, size_t capacity);
    const char *error_type; /* e.g. "application/json" */
    void *ud;
};

/* Times in milliseconds, sizes in bytes; http_server_options_init fills in the defaults named here. */
struct http_server_options {
    struct http_limits limits; /* 64 KiB, 8 KiB, 100 fields */
    size_t max_body;           /* 64 MiB */
    size_t high_water;         /* 64 KiB unsent: pause; resumes at a quarter of it */
    int32_t max_connections;   /* 65,536; beyond it connections wait to be accepted */
    int32_t send_buffer;       /* SO_SNDBUF; 0: the kernel's choice */
    int64_t idle_timeout_ms;   /* 75,000: between requests */
    int64_t head_timeout_ms;   /* 10,000: for a whole head, and the TLS handshake before it */
    int64_t body_timeout_ms;   /* 30,000: for each further 4 KiB of a body */
    int64_t write_timeout_ms;  /* 60,000 without a byte taken */
};

void http_server_options_init(struct http_server_options *options);

/* options: copied, null: defaults. handler: copied. Errors: LLM_ENOMEM, LLM_EINVAL. */
llm_status http_server_open(struct net_loop *loop, const struct http_server_options *options,
                            const struct http_handler *handler, struct http_server **out,
                            struct llm_error *err);
/* Closes all connections (on_done with HTTP_DONE_CLOSED) and listeners. */
void http_server_close(struct http_server *server);

/* Listens on all addresses of host (null: every interface, IPv4 and IPv6). port 0: any free one, of the first
 * address only. reuse_port: other servers (of other threads) may listen on the same one, and the kernel
 * spreads connections. tls: null, or outlives the server. Errors: LLM_EIO with host, port and the system's
 * reason. */
llm_status http_server_listen(struct http_server *server, const char *host, int port, int reuse_port,
                              struct net_tls *tls, struct llm_error *err);
/* A Unix socket; a stale one at that path (nobody listens) is replaced. mode: of the file, e.g. 0600. Removed
 * when the server closes or drains. Errors: LLM_EIO, LLM_EINVAL. */
llm_status http_server_listen_unix(struct http_server *server, const char *path, int mode,
                                   struct llm_error *err);
/* The port of the first listener, 0 if it has none. */
int http_server_port(const struct http_server *server);

/* Takes the connections that wait and stops listening, closes idle ones in which no request has come, lets
 * requests under way finish, with "Connection: close". After deadline_ms (-1: none) what is left is closed.
 * Then calls drained(ud), once, from the loop; with nothing open that is in the next turn. */
llm_status http_server_drain(struct http_server *server, int64_t deadline_ms, net_call_fn *drained, void *ud);

struct http_server_stats {
    int32_t n_connections, n_exchanges;          /* now */
    uint64_t n_accepted, n_requests, n_rejected; /* ever; rejected: answered by the server itself */
    uint64_t bytes_in, bytes_out;
};
void http_server_stats(const struct http_server *server, struct http_server_stats *out);

/* ---- exchanges ----------------------------------------------------------------------------------------- */

/* Lives as long as the exchange. All strings are NUL-terminated as well. */
struct http_request {
    struct net_str method;
    struct net_str target;           /* as sent */
    struct net_str path;             /* percent-decoded once; begins with '/', or is "*" */
    struct net_str query;            /* still encoded, without '?' */
    const struct http_field *fields; /* names in lower case */
    int32_t n_fields;
    int minor_version; /* HTTP/1.x */
    int tls;
    struct net_str body;
};
const struct http_request *http_exchange_request(const struct http_exchange *x);
/* "192.0.2.1:4711", "[2001:db8::1]:4711" or "unix". */
void http_exchange_peer(const struct http_exchange *x, char *text, size_t capacity);
void http_exchange_set_user(struct http_exchange *x, void *user);
void *http_exchange_user(const struct http_exchange *x);

/* Begins the response. length: bytes of the body; -1: as many as are written until http_reply_end (chunked,
 * or until close for HTTP/1.0). Date, Content-Length, Transfer-Encoding and Connection are the server's own
 * fields and refused among yours. Errors: LLM_EINVAL (already begun; a field that is not valid HTTP),
 * LLM_ENOMEM. */
llm_status http_reply_start(struct http_exchange *x, int status, const struct http_field *fields,
                            int32_t n_fields, int64_t length);
/* Adds to the body; one call is one chunk. LLM_EAGAIN: taken, but wait for on_writable before the next.
 * Errors: LLM_EINVAL (not begun, ended, beyond its length), LLM_ENOMEM (nothing taken). */
llm_status http_reply_write(struct http_exchange *x, const void *data, size_t n);
llm_status http_reply_writev(struct http_exchange *x, const struct iovec *parts, int n_parts);
/* The response is complete; on_done follows from the loop. A body short of its length closes the connection.
 */
void http_reply_end(struct http_exchange *x);
/* The response cannot be completed: what has been written is sent, then the connection closes without the end
 * that the framing promised. on_done follows from the loop, with HTTP_DONE_CLOSED. */
void http_reply_cut(struct http_exchange *x);
/* All of it in one call. */
llm_status http_reply(struct http_exchange *x, int status, const struct http_field *fields, int32_t n_fields,
                      const void *body, size_t n);
/* Closes the connection at once, unsent bytes and all. on_done follows within the call. */
void http_exchange_abort(struct http_exchange *x);
/* The status begun, 0 if none; bytes of body written. */
int http_exchange_status(const struct http_exchange *x);
uint64_t http_exchange_body_bytes(const struct http_exchange *x);
size_t http_exchange_unsent(const struct http_exchange *x);

#endif
