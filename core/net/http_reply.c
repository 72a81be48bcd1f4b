#include "net/http_server_impl.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

static int is_reserved(struct net_str name)
{
    static const char *const reserved[] = {"content-length", "transfer-encoding", "connection", "date"};
    for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++)
        if (net_str_is_nocase(name, reserved[i])) return 1;
    return 0;
}

static void put(struct net_stream *s, const void *data, size_t n)
{
    net_buf_put(&s->out, data, n);
}

static void put_text(struct net_stream *s, const char *text)
{
    net_buf_put(&s->out, text, strlen(text));
}

/* Output begins to wait: the client has write_timeout_ms to take some of it. */
static void touch(struct http_conn *c)
{
    if (c->deadline == 0) http_conn_set_deadline(c, c->server->options.write_timeout_ms);
    net_stream_touch(&c->stream);
}

/* What decides how the body is framed. */
struct framing {
    int status;
    int64_t length; /* -1: not known */
    int chunked;
    int no_length; /* 1xx, 204: the field may not be sent */
};

static llm_status put_head(struct http_conn *c, const struct framing *f, const struct http_field *fields,
                           int32_t n_fields)
{
    struct net_stream *s = &c->stream;
    const char *reason = http_status_text(f->status);
    char line[64], length[64] = "";
    int date_bytes;
    const char *date = net_loop_date(s->loop, &date_bytes);
    snprintf(line, sizeof line, "HTTP/1.1 %d ", f->status);
    if (f->chunked)
        snprintf(length, sizeof length, "Transfer-Encoding: chunked\r\n");
    else if (f->length >= 0 && !f->no_length)
        snprintf(length, sizeof length, "Content-Length: %lld\r\n", (long long)f->length);
    /* HTTP/1.0 must be told that the connection lives; HTTP/1.1 that it does not. */
    const char *connection = "";
    if (c->close_after)
        connection = "Connection: close\r\n";
    else if (c->exchange && c->exchange->request.minor_version == 0)
        connection = "Connection: keep-alive\r\n";
    size_t total =
        strlen(line) + strlen(reason) + strlen(length) + strlen(connection) + (size_t)date_bytes + 4;
    for (int32_t i = 0; i < n_fields; i++) total += fields[i].name.size + fields[i].value.size + 4;
    if (net_buf_ensure(&s->out, &s->loop->pool, total) != LLM_OK) return LLM_ENOMEM;
    put_text(s, line);
    put_text(s, reason);
    put(s, "\r\n", 2);
    put(s, date, (size_t)date_bytes);
    put_text(s, length);
    put_text(s, connection);
    for (int32_t i = 0; i < n_fields; i++) {
        put(s, fields[i].name.data, fields[i].name.size);
        put(s, ": ", 2);
        put(s, fields[i].value.data, fields[i].value.size);
        put(s, "\r\n", 2);
    }
    put(s, "\r\n", 2);
    c->server->stats.bytes_out += total;
    return LLM_OK;
}

llm_status http_reply_start(struct http_exchange *x, int status, const struct http_field *fields,
                            int32_t n_fields, int64_t length)
{
    struct http_conn *c = x->conn;
    if (x->status != 0 || c->state != CONN_OWNED || status < 200 || status > 599) return LLM_EINVAL;
    for (int32_t i = 0; i < n_fields; i++)
        if (!http_field_valid(&fields[i]) || is_reserved(fields[i].name)) return LLM_EINVAL;
    int is_head = net_str_is(x->request.method, "HEAD");
    int bodiless = status == 204 || status == 304;
    int until_close = length < 0 && x->request.minor_version == 0;
    if (c->server->draining || (until_close && !bodiless && !is_head)) c->close_after = 1;
    struct framing f = {
        .status = status,
        .length = length,
        .chunked = length < 0 && !bodiless && !until_close,
        .no_length = bodiless,
    };
    llm_status rc = put_head(c, &f, fields, n_fields);
    if (rc) return rc;
    x->status = status;
    x->no_body = is_head || bodiless;
    x->reply_chunked = f.chunked && !is_head;
    x->reply_left = length < 0 ? -1 : length;
    touch(c);
    return LLM_OK;
}

llm_status http_reply_writev(struct http_exchange *x, const struct iovec *parts, int n_parts)
{
    struct http_conn *c = x->conn;
    struct net_stream *s = &c->stream;
    size_t total = 0;
    for (int i = 0; i < n_parts; i++) total += parts[i].iov_len;
    if (x->status == 0 || c->state != CONN_OWNED) return LLM_EINVAL;
    if (x->reply_left >= 0 && total > (uint64_t)x->reply_left) return LLM_EINVAL;
    if (total > 0 && !x->no_body) {
        char size_line[24];
        size_t framed = total, n_line = 0;
        if (x->reply_chunked) {
            /* "%zx\r\n", written by hand: this runs once a token. */
            int digits = 1;
            while (digits < 16 && total >> (4 * digits)) digits++;
            for (int i = digits - 1; i >= 0; i--)
                size_line[n_line++] = "0123456789abcdef"[total >> (4 * i) & 15];
            size_line[n_line++] = '\r';
            size_line[n_line++] = '\n';
            framed += n_line + 2;
        }
        if (net_buf_ensure(&s->out, &s->loop->pool, framed) != LLM_OK) return LLM_ENOMEM;
        put(s, size_line, n_line);
        for (int i = 0; i < n_parts; i++) put(s, parts[i].iov_base, parts[i].iov_len);
        if (x->reply_chunked) put(s, "\r\n", 2);
        c->server->stats.bytes_out += framed;
        x->reply_bytes += total;
        touch(c);
    }
    if (x->reply_left >= 0) x->reply_left -= (int64_t)total;
    if (s->out.size < c->server->options.high_water) return LLM_OK;
    x->paused = 1;
    return LLM_EAGAIN;
}

llm_status http_reply_write(struct http_exchange *x, const void *data, size_t n)
{
    struct iovec part = {(void *)(uintptr_t)data, n};
    return http_reply_writev(x, &part, 1);
}

static void end_reply(struct http_exchange *x, int cut)
{
    struct http_conn *c = x->conn;
    if (cut) c->close_after = 1; /* the client sees that the body is short */
    x->cut = cut & 1;
    c->state = CONN_SENDING;
    touch(c);
}

void http_reply_end(struct http_exchange *x)
{
    struct http_conn *c = x->conn;
    struct net_stream *s = &c->stream;
    if (c->state != CONN_OWNED) return;
    int cut = x->status == 0 || (x->reply_left > 0 && !x->no_body);
    if (!cut && x->reply_chunked) {
        cut = net_buf_ensure(&s->out, &s->loop->pool, 5) != LLM_OK;
        if (!cut) put(s, "0\r\n\r\n", 5);
    }
    end_reply(x, cut);
}

void http_reply_cut(struct http_exchange *x)
{
    if (x->conn->state == CONN_OWNED) end_reply(x, 1);
}

llm_status http_reply(struct http_exchange *x, int status, const struct http_field *fields, int32_t n_fields,
                      const void *body, size_t n)
{
    /* Room for all of it first: a head without its body could not be taken back. */
    struct net_stream *s = &x->conn->stream;
    size_t extra = 1024;
    for (int32_t i = 0; i < n_fields; i++) extra += fields[i].name.size + fields[i].value.size + 4;
    if (net_buf_ensure(&s->out, &s->loop->pool, n + extra) != LLM_OK) return LLM_ENOMEM;
    llm_status rc = http_reply_start(x, status, fields, n_fields, (int64_t)n);
    if (rc) return rc;
    if (n > 0) http_reply_write(x, body, n);
    http_reply_end(x);
    return LLM_OK;
}

void http_conn_refuse(struct http_conn *c, int status, const char *message)
{
    struct http_server *server = c->server;
    const struct http_handler *h = &server->handler;
    char body[1024];
    size_t n;
    if (h->format_error)
        n = h->format_error(h->ud, status, message, body, sizeof body);
    else
        n = (size_t)snprintf(body, sizeof body, "%s\n", message);
    const char *type = h->format_error && h->error_type ? h->error_type : "text/plain; charset=utf-8";
    struct http_field field = {{"Content-Type", 12}, {type, strlen(type)}};
    struct framing f = {.status = status, .length = (int64_t)n};
    server->stats.n_rejected++;
    c->close_after = 1;
    c->linger = 1;
    http_conn_finish_exchange(c, HTTP_DONE_CLOSED); /* never seen by the owner */
    c->state = CONN_SENDING;
    if (c->stream.handshaking || net_buf_ensure(&c->stream.out, &c->stream.loop->pool, n + 1024) != LLM_OK ||
        put_head(c, &f, &field, 1) != LLM_OK) {
        http_conn_close(c, HTTP_DONE_CLOSED);
        return;
    }
    put(&c->stream, body, n);
    server->stats.bytes_out += n;
    http_conn_set_deadline(c, server->options.write_timeout_ms);
    net_stream_touch(&c->stream);
}

/* ---- small accessors ----------------------------------------------------------------------------------- */

void http_exchange_abort(struct http_exchange *x)
{
    http_conn_close(x->conn, HTTP_DONE_CLOSED);
}

const struct http_request *http_exchange_request(const struct http_exchange *x)
{
    return &x->request;
}

void http_exchange_set_user(struct http_exchange *x, void *user)
{
    x->user = user;
}

void *http_exchange_user(const struct http_exchange *x)
{
    return x->user;
}

int http_exchange_status(const struct http_exchange *x)
{
    return x->status;
}

uint64_t http_exchange_body_bytes(const struct http_exchange *x)
{
    return x->reply_bytes;
}

size_t http_exchange_unsent(const struct http_exchange *x)
{
    return x->conn->stream.out.size;
}
