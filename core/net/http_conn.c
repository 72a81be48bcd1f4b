#include "net/http_server_impl.h"

#include "base/mem.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

/* How long and how much of a refused request is read after our answer. */
enum { LINGER_MS = 2000, LINGER_BYTES = 1 << 20 };
/* A body must bring this many bytes within body_timeout_ms. */
enum { BODY_PROGRESS_BYTES = 4096 };
enum { BODY_FIRST_CAPACITY = 4096 };

/* ---- deadlines ----------------------------------------------------------------------------------------- */

static void on_conn_timeout(struct http_conn *c)
{
    if (c->state == CONN_HEAD || c->state == CONN_BODY)
        http_conn_refuse(c, 408, "the request did not arrive in time");
    else
        http_conn_close(c, HTTP_DONE_TIMEOUT);
}

static void arm_timer(struct http_conn *c, int64_t now)
{
    int64_t ms = c->deadline - now;
    struct timeval after = {ms / 1000, ms % 1000 * 1000};
    c->timer_due = c->deadline;
    event_add(&c->timer, &after);
}

/* A deadline that moved on since the timer was set costs one spurious firing, not one event_add a request. */
static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct http_conn *c = arg;
    int64_t now = net_now_ms();
    c->timer_due = 0;
    if (c->deadline == 0) return;
    if (c->deadline > now) {
        arm_timer(c, now);
        return;
    }
    c->deadline = 0;
    on_conn_timeout(c);
}

void http_conn_set_deadline(struct http_conn *c, int64_t ms_from_now)
{
    if (ms_from_now <= 0) {
        c->deadline = 0;
        return;
    }
    int64_t now = net_now_ms();
    c->deadline = now + ms_from_now;
    if (c->timer_due == 0 || c->timer_due > c->deadline) arm_timer(c, now);
}

/* ---- lifetime ------------------------------------------------------------------------------------------ */

static void exchange_free(struct http_exchange *x)
{
    mem_free(x->body);
    mem_free(x);
}

static void exchange_done(struct http_server *server, struct http_exchange *x, enum http_done why)
{
    if (!x) return;
    if (x->owned) {
        server->stats.n_exchanges--;
        server->handler.on_done(server->handler.ud, x, why);
    }
    exchange_free(x);
}

void http_conn_finish_exchange(struct http_conn *c, enum http_done why)
{
    struct http_exchange *x = c->exchange;
    c->exchange = NULL;
    exchange_done(c->server, x, why);
}

static void conn_release(struct net_grave *grave)
{
    mem_free(grave); /* the conn begins with its stream, and that with its grave */
}

void http_conn_close(struct http_conn *c, enum http_done why)
{
    if (c->stream.fd < 0) return;
    struct http_server *server = c->server;
    struct http_exchange *x = c->exchange;
    c->exchange = NULL;
    if (c->prev)
        c->prev->next = c->next;
    else
        server->conns = c->next;
    if (c->next) c->next->prev = c->prev;
    server->stats.n_connections--;
    event_del(&c->timer);
    mem_free(c->in);
    c->in = NULL;
    net_stream_close(&c->stream, conn_release);
    exchange_done(server, x, why);
    http_server_conn_closed(server);
}

/* ---- heads --------------------------------------------------------------------------------------------- */

/* Finds the path and query in the target (RFC 9112 §3.2). Returns 0 or a status to refuse with. */
static int split_target(struct http_request *r, char *path_space)
{
    struct net_str t = r->target;
    if (net_str_is(t, "*")) {
        if (!net_str_is(r->method, "OPTIONS")) return 400;
    } else if (net_str_is(r->method, "CONNECT")) {
        return 501;
    } else if (t.data[0] != '/') { /* absolute form: the scheme and authority go */
        struct net_url url;
        if (net_url_parse(t, &url, NULL) != LLM_OK) return 400;
        t = url.target;
    }
    const char *mark = t.size ? memchr(t.data, '?', t.size) : NULL;
    struct net_str raw = {t.data, mark ? (size_t)(mark - t.data) : t.size};
    if (mark)
        r->query = (struct net_str){mark + 1, t.size - raw.size - 1};
    else
        r->query = (struct net_str){"", 0};
    if (raw.size == 0) raw = (struct net_str){"/", 1};
    ptrdiff_t n = net_percent_decode(raw, 0, path_space);
    if (n < 0) return 400;
    path_space[n] = '\0';
    r->path = (struct net_str){path_space, (size_t)n};
    return 0;
}

static void rebase(struct net_str *s, const char *from, const char *to)
{
    s->data = to + (s->data - from);
}

/* Copies a parsed head into memory that lives as long as the exchange. */
static struct http_exchange *exchange_new(struct http_conn *c, const struct http_head *head, const char *data,
                                          size_t n)
{
    size_t fields_bytes = (size_t)head->n_fields * sizeof(struct http_field);
    struct http_exchange *x = mem_alloc(sizeof *x + fields_bytes + n + head->target.size + 2);
    if (!x) return NULL;
    memset(x, 0, sizeof *x);
    char *copy = (char *)x->fields + fields_bytes;
    memcpy(copy, data, n);
    memcpy(x->fields, head->fields, fields_bytes);
    for (int32_t i = 0; i < head->n_fields; i++) {
        rebase(&x->fields[i].name, data, copy);
        rebase(&x->fields[i].value, data, copy);
    }
    x->conn = c;
    x->content_length = head->content_length;
    x->is_chunked = head->chunked;
    x->expect_continue = head->expect_continue;
    x->request.method = head->method;
    x->request.target = head->target;
    rebase(&x->request.method, data, copy);
    rebase(&x->request.target, data, copy);
    x->request.fields = x->fields;
    x->request.n_fields = head->n_fields;
    x->request.minor_version = head->minor;
    x->request.tls = c->stream.ssl != NULL;
    x->request.body = (struct net_str){"", 0};
    return x;
}

static void dispatch(struct http_conn *c)
{
    struct http_exchange *x = c->exchange;
    struct http_server *server = c->server;
    if (x->body) {
        x->body[x->body_bytes] = '\0';
        x->request.body = (struct net_str){x->body, x->body_bytes};
    }
    c->state = CONN_OWNED;
    http_conn_set_deadline(c, 0);
    x->owned = 1;
    server->stats.n_exchanges++;
    server->stats.n_requests++;
    server->handler.on_request(server->handler.ud, x);
}

static void send_continue(struct http_conn *c)
{
    static const char text[] = "HTTP/1.1 100 Continue\r\n\r\n";
    if (net_buf_ensure(&c->stream.out, &c->stream.loop->pool, sizeof text - 1) != LLM_OK) return;
    net_buf_put(&c->stream.out, text, sizeof text - 1);
    net_stream_touch(&c->stream);
}

/* A whole head of n bytes. more: bytes that follow it are here already. */
static void begin_request(struct http_conn *c, char *data, size_t n, int more)
{
    struct http_server *server = c->server;
    const char *why = "malformed request";
    struct http_head head = {.fields = server->scratch_fields};
    int rc = http_request_parse(data, n, &server->options.limits, &head, &why);
    if (rc) {
        http_conn_refuse(c, -rc, why);
        return;
    }
    if (head.content_length > 0 && (uint64_t)head.content_length > server->options.max_body) {
        http_conn_refuse(c, 413, "the request body is larger than this server accepts");
        return;
    }
    struct http_exchange *x = exchange_new(c, &head, data, n);
    if (!x) {
        http_conn_refuse(c, 503, "out of memory");
        return;
    }
    c->exchange = x;
    if (!head.keep_alive) c->close_after = 1;
    int status =
        split_target(&x->request, (char *)x->fields + (size_t)head.n_fields * sizeof(struct http_field) + n);
    if (status) {
        http_conn_refuse(c, status, status == 501 ? "CONNECT is not served" : "malformed request target");
        return;
    }
    if (!x->is_chunked && x->content_length <= 0) {
        dispatch(c);
        return;
    }
    c->state = CONN_BODY;
    http_conn_set_deadline(c, server->options.body_timeout_ms);
    if (x->expect_continue && !more) send_continue(c);
}

static size_t take_head(struct http_conn *c, char *data, size_t n)
{
    ptrdiff_t size = http_head_scan(data, n, &c->scan, &c->server->options.limits);
    if (size < 0) {
        http_conn_refuse(c, (int)-size, http_status_text((int)-size));
        return n;
    }
    if (size == 2) { /* a stray empty line, RFC 9112 §2.2 */
        memset(&c->scan, 0, sizeof c->scan);
        return 2;
    }
    if (size == 0) {
        if (c->state == CONN_IDLE) {
            c->state = CONN_HEAD;
            http_conn_set_deadline(c, c->server->options.head_timeout_ms);
        }
        return 0;
    }
    memset(&c->scan, 0, sizeof c->scan);
    begin_request(c, data, (size_t)size, n > (size_t)size);
    return (size_t)size;
}

/* ---- bodies -------------------------------------------------------------------------------------------- */

/* Adds to the body; memory follows what has arrived, not what was announced. Returns 0 or a status. */
static int body_append(struct http_conn *c, const char *data, size_t n)
{
    struct http_exchange *x = c->exchange;
    size_t need = x->body_bytes + n;
    if (need > c->server->options.max_body) return 413;
    if (need + 1 > x->body_capacity) {
        size_t capacity = x->body_capacity ? x->body_capacity * 2 : BODY_FIRST_CAPACITY;
        if (capacity < need + 1) capacity = need + 1;
        if (x->content_length > 0 && capacity > (size_t)x->content_length + 1)
            capacity = (size_t)x->content_length + 1;
        char *grown = mem_grow(x->body, capacity, 1);
        if (!grown) return 503;
        x->body = grown;
        x->body_capacity = capacity;
    }
    memcpy(x->body + x->body_bytes, data, n);
    x->body_bytes = need;
    if (need - x->body_mark >= BODY_PROGRESS_BYTES) {
        x->body_mark = need;
        http_conn_set_deadline(c, c->server->options.body_timeout_ms);
    }
    return 0;
}

static void refuse_body(struct http_conn *c, int status)
{
    http_conn_refuse(c, status,
                     status == 413   ? "the request body is larger than this server accepts"
                     : status == 503 ? "out of memory"
                                     : "malformed chunked body");
}

static size_t take_chunked(struct http_conn *c, const char *data, size_t n)
{
    size_t at = 0;
    while (at < n) {
        size_t used;
        struct net_str piece;
        int rc = http_chunked_next(&c->exchange->chunked, data + at, n - at, &used, &piece);
        at += used;
        int status = rc < 0 ? -rc : rc == HTTP_CHUNKED_DATA ? body_append(c, piece.data, piece.size) : 0;
        if (status) {
            refuse_body(c, status);
            return n;
        }
        if (rc == HTTP_CHUNKED_END) {
            dispatch(c);
            break;
        }
    }
    return at;
}

static size_t take_body(struct http_conn *c, const char *data, size_t n)
{
    struct http_exchange *x = c->exchange;
    if (x->is_chunked) return take_chunked(c, data, n);
    size_t left = (size_t)x->content_length - x->body_bytes;
    size_t part = n < left ? n : left;
    int status = body_append(c, data, part);
    if (status) {
        refuse_body(c, status);
        return n;
    }
    if (part == left) dispatch(c);
    return part;
}

/* ---- input --------------------------------------------------------------------------------------------- */

/* Feeds the state machine until it has a request for the owner or the bytes are used up. */
static size_t consume(struct http_conn *c, char *data, size_t n)
{
    size_t at = 0;
    while (at < n && c->stream.fd >= 0) {
        size_t used;
        if (c->state == CONN_IDLE || c->state == CONN_HEAD)
            used = take_head(c, data + at, n - at);
        else if (c->state == CONN_BODY)
            used = take_body(c, data + at, n - at);
        else
            return c->linger ? n : at; /* of a refused request nothing is kept */
        if (used == 0) break;
        at += used;
    }
    return at;
}

static llm_status keep_input(struct http_conn *c, const char *data, size_t n)
{
    size_t need = c->in_bytes + n;
    if (need > c->in_capacity) {
        size_t capacity = c->in_capacity * 2 > need ? c->in_capacity * 2 : need;
        char *grown = mem_grow(c->in, capacity, 1);
        if (!grown) return LLM_ENOMEM;
        c->in = grown;
        c->in_capacity = capacity;
    }
    memcpy(c->in + c->in_bytes, data, n);
    c->in_bytes = need;
    return LLM_OK;
}

static void run_kept_input(struct http_conn *c)
{
    size_t used = consume(c, c->in, c->in_bytes);
    if (c->stream.fd < 0) return;
    c->in_bytes -= used;
    if (c->in_bytes > 0) {
        memmove(c->in, c->in + used, c->in_bytes);
        return;
    }
    mem_free(c->in);
    c->in = NULL;
    c->in_capacity = 0;
}

static void on_data(struct net_stream *stream, const char *data, size_t n)
{
    struct http_conn *c = (struct http_conn *)stream;
    c->server->stats.bytes_in += n;
    if (c->linger) {
        c->linger_bytes += n;
        if (c->linger_bytes > LINGER_BYTES) http_conn_close(c, HTTP_DONE_CLOSED);
        return;
    }
    int busy = c->state >= CONN_OWNED;
    int fresh = !busy && c->in_bytes == 0;
    /* The loop's scratch is ours until we return: the parser may write its NULs there. */
    size_t used = fresh ? consume(c, (char *)(uintptr_t)data, n) : 0;
    if (c->stream.fd < 0) return;
    if (used < n && keep_input(c, data + used, n - used) != LLM_OK) {
        http_conn_close(c, HTTP_DONE_CLOSED);
        return;
    }
    if (!busy && !fresh) run_kept_input(c);
    if (c->stream.fd < 0) return;
    /* Pipelined input is bounded; beyond it the socket is only watched for the client's leaving. */
    if (c->state >= CONN_OWNED && c->in_bytes >= c->server->options.limits.max_head)
        net_stream_read(stream, NET_READ_HANGUP);
}

static void on_end(struct net_stream *stream, llm_status status, const char *reason)
{
    (void)reason;
    struct http_conn *c = (struct http_conn *)stream;
    if (status == LLM_OK && c->state == CONN_SENDING) {
        c->close_after = 1; /* it has asked all its questions and may be waiting for this answer */
        c->linger = 0;
        return;
    }
    http_conn_close(c, HTTP_DONE_LEFT);
}

/* ---- output -------------------------------------------------------------------------------------------- */

static void response_sent(struct http_conn *c)
{
    int cut = c->exchange && c->exchange->cut;
    http_conn_finish_exchange(c, cut ? HTTP_DONE_CLOSED : HTTP_DONE_SENT);
    if (c->stream.fd < 0) return;
    if (c->linger) {
        c->state = CONN_LINGER;
        http_conn_set_deadline(c, LINGER_MS);
        net_stream_shutdown(&c->stream);
        net_stream_read(&c->stream, NET_READ_ON);
        return;
    }
    if (c->close_after || c->server->draining) {
        http_conn_close(c, HTTP_DONE_SENT);
        return;
    }
    c->state = CONN_IDLE;
    http_conn_set_deadline(c, c->server->options.idle_timeout_ms);
    if (c->in_bytes > 0) run_kept_input(c);
    if (c->stream.fd >= 0 && c->in_bytes < c->server->options.limits.max_head)
        net_stream_read(&c->stream, NET_READ_ON);
}

static void on_flush(struct net_stream *stream)
{
    struct http_conn *c = (struct http_conn *)stream;
    struct http_server *server = c->server;
    struct http_exchange *x = c->exchange;
    if (c->state == CONN_OWNED || c->state == CONN_SENDING)
        http_conn_set_deadline(c, stream->out.size > 0 ? server->options.write_timeout_ms : 0);
    if (c->state == CONN_OWNED && x->paused && stream->out.size <= server->options.high_water / 4) {
        x->paused = 0;
        if (server->handler.on_writable) server->handler.on_writable(server->handler.ud, x);
    } else if (c->state == CONN_SENDING && stream->out.size == 0) {
        response_sent(c);
    }
}

llm_status http_conn_open(struct http_server *server, int fd, struct net_tls *tls, int is_unix)
{
    static const struct net_stream_ops ops = {.on_data = on_data, .on_end = on_end, .on_flush = on_flush};
    struct http_conn *c = mem_zalloc(sizeof *c);
    if (!c) return LLM_ENOMEM;
    llm_status rc = net_stream_init(&c->stream, server->loop, fd, tls, NULL, &ops);
    if (rc) {
        mem_free(c);
        return rc;
    }
    c->server = server;
    c->is_unix = is_unix & 1;
    evtimer_assign(&c->timer, server->loop->base, on_timer, c);
    c->next = server->conns;
    if (c->next) c->next->prev = c;
    server->conns = c;
    server->stats.n_connections++;
    http_conn_set_deadline(c, tls ? server->options.head_timeout_ms : server->options.idle_timeout_ms);
    net_stream_read(&c->stream, NET_READ_ON);
    return LLM_OK;
}

void http_exchange_peer(const struct http_exchange *x, char *text, size_t capacity)
{
    struct sockaddr_storage address;
    socklen_t size = sizeof address;
    char host[INET6_ADDRSTRLEN] = "";
    if (x->conn->is_unix) {
        snprintf(text, capacity, "unix");
    } else if (getpeername(x->conn->stream.fd, (struct sockaddr *)&address, &size) != 0) {
        snprintf(text, capacity, "gone");
    } else if (address.ss_family == AF_INET6) {
        const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)&address;
        inet_ntop(AF_INET6, &a->sin6_addr, host, sizeof host);
        snprintf(text, capacity, "[%s]:%d", host, ntohs(a->sin6_port));
    } else {
        const struct sockaddr_in *a = (const struct sockaddr_in *)&address;
        inet_ntop(AF_INET, &a->sin_addr, host, sizeof host);
        snprintf(text, capacity, "%s:%d", host, ntohs(a->sin_port));
    }
}
