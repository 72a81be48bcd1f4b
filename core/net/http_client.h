#ifndef LLM_NET_HTTP_CLIENT_H
#define LLM_NET_HTTP_CLIENT_H

/* An asynchronous HTTP/1.1 client on a loop: requests with whole bodies, responses streamed to callbacks.
 * Connections are kept and used again. Redirects, cookies and compression are the caller's business. All on
 * the loop's thread. */

#include "net/http_parse.h"
#include "net/loop.h"

struct http_client;
struct http_call;
struct net_tls;

struct http_response {
    int status;
    const struct http_field *fields; /* names in lower case */
    int32_t n_fields;
    int64_t content_length; /* -1: not announced */
};

/* Zero means the default. Strings, fields and body are borrowed for http_call_start only. */
struct http_call_options {
    const char *method; /* "GET" */
    const char *url;
    const struct http_field *fields; /* Host, Content-Length, Transfer-Encoding, Connection are ours */
    int32_t n_fields;
    const void *body;
    size_t body_bytes;
    const char *unix_path;      /* connect there; the URL's host is only the Host header */
    struct net_tls *tls;        /* for https; null: the system's authorities; outlives the client */
    int64_t connect_timeout_ms; /* 10,000: name, connection, handshake */
    int64_t idle_timeout_ms;    /* 60,000: without a byte from the server */
    int64_t timeout_ms;         /* for the whole call; 0: no limit */
    /* All from the loop. Data lives for the callback. Each may cancel the call. on_done comes once, unless
     * the call is canceled, and is the last use of the call: LLM_OK when the response is complete, else the
     * reason (LLM_EIO: network, time-outs, malformed responses). on_head and on_data may be null. */
    void (*on_head)(void *ud, struct http_call *call, const struct http_response *response);
    void (*on_data)(void *ud, struct http_call *call, const char *data, size_t n);
    void (*on_done)(void *ud, struct http_call *call, llm_status status, const struct llm_error *err);
    void *ud;
};

/* Errors: LLM_ENOMEM. */
llm_status http_client_open(struct net_loop *loop, struct http_client **out, struct llm_error *err);
/* Cancels all calls, closes all connections. */
void http_client_close(struct http_client *client);

/* Errors: LLM_EINVAL (URL, method, fields), LLM_ENOMEM. What goes wrong later comes by on_done. */
llm_status http_call_start(struct http_client *client, const struct http_call_options *options,
                           struct http_call **out, struct llm_error *err);
/* No callback follows. */
void http_call_cancel(struct http_call *call);
/* on 1: stops reading the response, so that the server feels the back-pressure (bytes read already
 * still come); 0: goes on. */
void http_call_pause(struct http_call *call, int on);

#endif
