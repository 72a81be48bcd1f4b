#ifndef LLM_NET_HTTP_SERVER_IMPL_H
#define LLM_NET_HTTP_SERVER_IMPL_H

/* Shared by http_server.c (listeners, drain), http_conn.c (requests in) and http_reply.c (responses out).
 *
 *              bytes            head complete      body complete       http_reply_end        all sent
 *   CONN_IDLE ───────► CONN_HEAD ─────────► CONN_BODY ────────► CONN_OWNED ────────► CONN_SENDING ───►
 * CONN_IDLE └─── refused ────────┴──► CONN_SENDING ──► CONN_LINGER ──► closed
 *
 * CONN_LINGER: our side is shut; what the client still sends is read and dropped for a short while, because a
 * close with unread input would reset the connection and take our answer with it. */

#include "net/http_server.h"
#include "net/stream.h"

enum conn_state { CONN_IDLE, CONN_HEAD, CONN_BODY, CONN_OWNED, CONN_SENDING, CONN_LINGER };

struct http_exchange {
    struct http_conn *conn;
    void *user;
    struct http_request request;
    char *body; /* grows as bytes arrive, never ahead of them by more than double */
    size_t body_bytes, body_capacity;
    size_t body_mark;       /* body_bytes when the deadline was last moved */
    int64_t content_length; /* of the request; -1: chunked or none */
    struct http_chunked chunked;
    int is_chunked, expect_continue;
    /* The response. */
    int status;                 /* 0: not begun */
    int64_t reply_left;         /* -1: no fixed length */
    uint64_t reply_bytes;       /* of body */
    unsigned reply_chunked : 1; /* frame each write */
    unsigned no_body : 1;       /* HEAD, 1xx, 204, 304: writes are dropped */
    unsigned owned : 1;         /* on_request was called, on_done is owed */
    unsigned cut : 1;           /* ended before its announced length */
    unsigned paused : 1;        /* told LLM_EAGAIN; owes an on_writable */
    struct http_field fields[]; /* n_fields, then the head's bytes, then the decoded path */
};

struct http_conn {
    struct net_stream stream; /* first: a conn is its stream's grave */
    struct http_server *server;
    struct http_conn *prev, *next;
    struct http_exchange *exchange; /* from CONN_BODY on; null in a reply that the server makes itself */
    struct event timer;
    int64_t deadline;  /* when on_conn_timeout is due; 0: never */
    int64_t timer_due; /* when the timer will fire; 0: not set. Deadlines move without touching it. */
    char *in;          /* input that had to wait: part of a head, or a pipelined request */
    size_t in_bytes, in_capacity;
    size_t linger_bytes;
    struct http_scan scan;
    unsigned char state;
    unsigned close_after : 1; /* no request follows this response */
    unsigned linger : 1;      /* the request was not read to its end */
    unsigned is_unix : 1;
};

struct http_listener {
    struct http_listener *next;
    struct http_server *server;
    struct net_tls *tls;
    struct event ev;
    int fd;
    char *unix_path; /* null: TCP */
};

struct http_server {
    struct net_grave grave;
    struct net_loop *loop;
    struct http_server_options options;
    struct http_handler handler;
    struct http_listener *listeners;
    struct http_conn *conns;
    struct http_server_stats stats;
    struct http_field *scratch_fields; /* limits.max_fields, for parsing */
    struct event accept_again;         /* after the process ran out of descriptors */
    struct event drain_timer;
    int accepting, draining;
    net_call_fn *drained;
    void *drained_ud;
};

/* http_conn.c */
llm_status http_conn_open(struct http_server *server, int fd, struct net_tls *tls, int is_unix);
void http_conn_close(struct http_conn *c, enum http_done why);
void http_conn_finish_exchange(struct http_conn *c, enum http_done why);
void http_conn_set_deadline(struct http_conn *c, int64_t ms_from_now);

/* http_server.c */
void http_server_conn_closed(struct http_server *server);

/* http_reply.c: an error by the server itself; the connection closes behind it. */
void http_conn_refuse(struct http_conn *c, int status, const char *message);

#endif
