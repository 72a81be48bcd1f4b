#include "net/http_client.h"

#include "base/mem.h"
#include "net/dial.h"
#include "net/stream.h"
#include "net/tls.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_IDLE = 64, KEEP_IDLE_MS = 20000, CONNECT_MS = 10000, IDLE_MS = 60000, MAX_FIELDS = 200 };
static const struct http_limits response_limits = {
    .max_head = 65536, .max_target = 8192, .max_fields = MAX_FIELDS};

enum body_mode { BODY_NONE, BODY_LENGTH, BODY_CHUNKED, BODY_TO_END };

/* One connection: with a call, or idle in the client's list. */
struct client_conn {
    struct net_stream stream; /* first: a conn is its stream's grave */
    struct http_client *client;
    struct client_conn *prev, *next; /* of the idle list */
    struct http_call *call;          /* null: idle */
    struct event timer;              /* how long it is kept idle */
    char *key;                       /* where it leads to */
    char *in;                        /* a response head not yet complete */
    size_t in_bytes, in_capacity;
    struct http_scan scan;
    int keep_alive;
};

struct http_call {
    struct net_grave grave;
    struct http_client *client;
    struct http_call *prev, *next;
    struct client_conn *conn; /* null while dialing */
    struct net_dial *dial;
    struct net_tls *tls;
    struct event timer;
    int64_t phase_due, total_due; /* net_now_ms; 0: no limit */
    int64_t connect_timeout_ms, idle_timeout_ms;
    char *request; /* head and body, kept for a second try */
    size_t request_bytes;
    char *key, *host, *unix_path;
    int port;
    enum body_mode mode;
    uint64_t left;
    struct http_chunked chunked;
    unsigned is_head : 1, replayable : 1, reused : 1, got_head : 1, got_bytes : 1, paused : 1;
    void (*on_head)(void *ud, struct http_call *call, const struct http_response *response);
    void (*on_data)(void *ud, struct http_call *call, const char *data, size_t n);
    void (*on_done)(void *ud, struct http_call *call, llm_status status, const struct llm_error *err);
    void *ud;
};

struct http_client {
    struct net_grave grave;
    struct net_loop *loop;
    struct http_call *calls;
    struct client_conn *idle;
    int32_t n_idle;
    struct http_field fields[MAX_FIELDS]; /* for parsing */
    struct net_tls *default_tls;          /* opened by the first https call that brings none */
};

static llm_status dial(struct http_call *call, struct llm_error *err);

/* ---- connections --------------------------------------------------------------------------------------- */

static void conn_release(struct net_grave *grave)
{
    struct client_conn *conn = (struct client_conn *)grave;
    mem_free(conn->key);
    mem_free(conn->in);
    mem_free(conn);
}

static void conn_unlist(struct client_conn *conn)
{
    struct http_client *client = conn->client;
    event_del(&conn->timer);
    if (conn->prev)
        conn->prev->next = conn->next;
    else
        client->idle = conn->next;
    if (conn->next) conn->next->prev = conn->prev;
    conn->prev = conn->next = NULL;
    client->n_idle--;
}

static void conn_close(struct client_conn *conn)
{
    if (conn->call)
        conn->call->conn = NULL;
    else
        conn_unlist(conn);
    conn->call = NULL;
    net_stream_close(&conn->stream, conn_release);
}

static void on_idle_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    conn_close(arg);
}

/* The call has ended; the connection waits for another to the same place. */
static void conn_keep(struct client_conn *conn)
{
    struct http_client *client = conn->client;
    struct timeval after = {KEEP_IDLE_MS / 1000, 0};
    conn->call->conn = NULL;
    conn->call = NULL;
    conn->prev = NULL;
    conn->next = client->idle;
    if (conn->next) conn->next->prev = conn;
    client->idle = conn;
    client->n_idle++;
    event_add(&conn->timer, &after);
    net_stream_read(&conn->stream, NET_READ_ON); /* to notice the server's closing */
    if (client->n_idle > MAX_IDLE) conn_close(conn);
}

static struct client_conn *conn_find(struct http_client *client, const char *key)
{
    for (struct client_conn *conn = client->idle; conn; conn = conn->next)
        if (strcmp(conn->key, key) == 0) return conn;
    return NULL;
}

/* ---- ends of calls ------------------------------------------------------------------------------------- */

static void call_release(struct net_grave *grave)
{
    struct http_call *call = (struct http_call *)grave;
    mem_free(call->request);
    mem_free(call->key);
    mem_free(call->host);
    mem_free(call->unix_path);
    mem_free(call);
}

static void call_close(struct http_call *call)
{
    struct http_client *client = call->client;
    if (call->prev)
        call->prev->next = call->next;
    else
        client->calls = call->next;
    if (call->next) call->next->prev = call->prev;
    event_del(&call->timer);
    net_dial_close(call->dial);
    call->dial = NULL;
    if (call->conn) conn_close(call->conn);
    net_loop_bury(client->loop, &call->grave, call_release);
}

void http_call_cancel(struct http_call *call)
{
    call_close(call);
}

static void call_fail(struct http_call *call, const char *what, const char *reason)
{
    struct llm_error err = {0};
    llm_fail(&err, LLM_EIO, "%s: %s%s%s", call->key, what, reason ? ": " : "", reason ? reason : "");
    call_close(call);
    call->on_done(call->ud, call, LLM_EIO, &err);
}

static void call_complete(struct http_call *call, int extra_bytes)
{
    struct client_conn *conn = call->conn;
    if (conn->keep_alive && !extra_bytes && conn->stream.out.size == 0 && !conn->stream.ended &&
        call->mode != BODY_TO_END)
        conn_keep(conn);
    call_close(call);
    call->on_done(call->ud, call, LLM_OK, NULL);
}

/* ---- time ---------------------------------------------------------------------------------------------- */

static void arm_timer(struct http_call *call)
{
    int64_t due = call->phase_due;
    if (call->total_due && (!due || call->total_due < due)) due = call->total_due;
    if (!due) return;
    int64_t ms = due - net_now_ms();
    if (ms < 0) ms = 0;
    struct timeval after = {ms / 1000, ms % 1000 * 1000};
    event_add(&call->timer, &after);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct http_call *call = arg;
    int64_t now = net_now_ms();
    if (call->total_due && now >= call->total_due)
        call_fail(call, "timed out", "the call took longer than its time limit");
    else if (call->phase_due && now >= call->phase_due)
        call_fail(call, "timed out",
                  call->conn && !call->conn->stream.handshaking ? "no answer from the server"
                                                                : "no connection");
    else
        arm_timer(call); /* bytes came meanwhile */
}

/* Later deadlines need no new timer: the old one fires first and finds them. */
static void heard(struct http_call *call)
{
    call->phase_due = call->paused ? 0 : net_now_ms() + call->idle_timeout_ms;
}

void http_call_pause(struct http_call *call, int on)
{
    if (call->paused == (unsigned)(on != 0)) return;
    call->paused = on != 0;
    heard(call);
    if (!on) arm_timer(call);
    if (call->conn && call->got_head) net_stream_read(&call->conn->stream, on ? NET_READ_OFF : NET_READ_ON);
}

/* ---- responses ----------------------------------------------------------------------------------------- */

static void set_body_mode(struct http_call *call, const struct http_head *head)
{
    if (call->is_head || head->status == 204 || head->status == 304) {
        call->mode = BODY_NONE;
    } else if (head->chunked) {
        call->mode = BODY_CHUNKED;
    } else if (head->content_length >= 0) {
        call->mode = head->content_length ? BODY_LENGTH : BODY_NONE;
        call->left = (uint64_t)head->content_length;
    } else {
        call->mode = BODY_TO_END;
    }
}

/* Whether the owner still wants the call after a callback: canceling takes its connection away. */
static int still_there(const struct client_conn *conn)
{
    return conn->stream.fd >= 0 && conn->call;
}

static void take_body(struct client_conn *conn, const char *data, size_t n)
{
    struct http_call *call = conn->call;
    size_t at = 0;
    while (at < n) {
        struct net_str piece = {data + at, n - at};
        size_t used = n - at;
        int rc = HTTP_CHUNKED_DATA;
        if (call->mode == BODY_CHUNKED) {
            rc = http_chunked_next(&call->chunked, data + at, n - at, &used, &piece);
            if (rc < 0) {
                call_fail(call, "malformed chunked response", NULL);
                return;
            }
        } else if (call->mode == BODY_LENGTH) {
            if (used > call->left) used = piece.size = (size_t)call->left;
            call->left -= used;
        }
        at += used;
        if (rc == HTTP_CHUNKED_DATA && call->on_data) call->on_data(call->ud, call, piece.data, piece.size);
        if (!still_there(conn)) return;
        if (rc == HTTP_CHUNKED_END || (call->mode == BODY_LENGTH && call->left == 0)) {
            call_complete(call, at < n);
            return;
        }
    }
}

/* The final head has been parsed; what follows it in conn->in is body. */
static void begin_body(struct client_conn *conn, const struct http_head *head, size_t head_bytes)
{
    struct http_call *call = conn->call;
    set_body_mode(call, head);
    call->got_head = 1;
    conn->keep_alive = head->keep_alive;
    struct http_response response = {head->status, head->fields, head->n_fields, head->content_length};
    if (call->on_head) call->on_head(call->ud, call, &response);
    if (!still_there(conn)) return;
    char *in = conn->in; /* ours from here on: a callback may bury the conn */
    size_t n = conn->in_bytes - head_bytes;
    conn->in = NULL;
    conn->in_bytes = conn->in_capacity = 0;
    if (call->mode == BODY_NONE)
        call_complete(call, n > 0);
    else if (n > 0)
        take_body(conn, in + head_bytes, n);
    mem_free(in);
    if (still_there(conn) && conn->call->paused) net_stream_read(&conn->stream, NET_READ_OFF);
}

static void take_head(struct client_conn *conn)
{
    struct http_call *call = conn->call;
    for (;;) {
        struct http_head head = {.fields = conn->client->fields};
        const char *why = "malformed response";
        ptrdiff_t size = http_head_scan(conn->in, conn->in_bytes, &conn->scan, &response_limits);
        if (size == 0) return;
        int rc =
            size <= 2 ? -502 : http_response_parse(conn->in, (size_t)size, &response_limits, &head, &why);
        if (rc || head.status == 101) {
            call_fail(call, "malformed response", size < 0 ? http_status_text((int)-size) : why);
            return;
        }
        memset(&conn->scan, 0, sizeof conn->scan);
        if (head.status >= 200) {
            begin_body(conn, &head, (size_t)size);
            return;
        }
        conn->in_bytes -= (size_t)size; /* an interim response: the real one follows */
        memmove(conn->in, conn->in + size, conn->in_bytes);
    }
}

static void on_data(struct net_stream *stream, const char *data, size_t n)
{
    struct client_conn *conn = (struct client_conn *)stream;
    struct http_call *call = conn->call;
    if (!call) { /* nobody asked: a server out of step */
        conn_close(conn);
        return;
    }
    heard(call);
    call->got_bytes = 1;
    if (call->got_head) {
        take_body(conn, data, n);
        return;
    }
    if (conn->in_bytes + n > conn->in_capacity) {
        char *grown = mem_grow(conn->in, conn->in_bytes + n, 1);
        if (!grown) {
            call_fail(call, "out of memory", NULL);
            return;
        }
        conn->in = grown;
        conn->in_capacity = conn->in_bytes + n;
    }
    memcpy(conn->in + conn->in_bytes, data, n);
    conn->in_bytes += n;
    take_head(conn);
}

static void on_end(struct net_stream *stream, llm_status status, const char *reason)
{
    struct client_conn *conn = (struct client_conn *)stream;
    struct http_call *call = conn->call;
    if (!call) {
        conn_close(conn);
    } else if (status == LLM_OK && call->got_head && call->mode == BODY_TO_END) {
        call_complete(call, 0);
    } else if (call->reused && !call->got_bytes && call->replayable) {
        /* The server closed the kept connection just when we used it again. */
        struct llm_error err = {0};
        conn_close(conn);
        call->reused = 0;
        if (dial(call, &err) != LLM_OK) call_fail(call, err.message, NULL);
    } else {
        call_fail(call,
                  call->got_bytes       ? "connection lost within the response"
                  : stream->handshaking ? "cannot connect"
                                        : "connection lost before the response",
                  reason);
    }
}

static void on_flush(struct net_stream *stream)
{
    struct client_conn *conn = (struct client_conn *)stream;
    if (conn->call) heard(conn->call); /* the server takes the request: it lives */
}

/* ---- requests ------------------------------------------------------------------------------------------ */

static llm_status send_request(struct http_call *call)
{
    struct net_stream *s = &call->conn->stream;
    if (net_buf_ensure(&s->out, &s->loop->pool, call->request_bytes) != LLM_OK) return LLM_ENOMEM;
    net_buf_put(&s->out, call->request, call->request_bytes);
    net_stream_touch(s);
    net_stream_read(s, NET_READ_ON);
    heard(call);
    arm_timer(call);
    return LLM_OK;
}

static void on_ready(struct net_stream *stream)
{
    struct client_conn *conn = (struct client_conn *)stream;
    if (conn->call && send_request(conn->call) != LLM_OK) call_fail(conn->call, "out of memory", NULL);
}

static void on_dialed(void *ud, int fd, const char *reason)
{
    static const struct net_stream_ops ops = {
        .on_data = on_data, .on_end = on_end, .on_flush = on_flush, .on_ready = on_ready};
    struct http_call *call = ud;
    call->dial = NULL;
    if (fd < 0) {
        call_fail(call, "cannot connect", reason);
        return;
    }
    struct client_conn *conn = mem_zalloc(sizeof *conn);
    char *key = conn ? mem_strdup(call->key) : NULL;
    if (!key ||
        net_stream_init(&conn->stream, call->client->loop, fd, call->tls, call->host, &ops) != LLM_OK) {
        mem_free(key);
        mem_free(conn);
        close(fd);
        call_fail(call, "out of memory", NULL);
        return;
    }
    conn->client = call->client;
    conn->key = key;
    conn->call = call;
    call->conn = conn;
    evtimer_assign(&conn->timer, call->client->loop->base, on_idle_timer, conn);
    if (call->tls)
        net_stream_handshake(&conn->stream);
    else
        on_ready(&conn->stream);
}

static llm_status dial(struct http_call *call, struct llm_error *err)
{
    call->phase_due = net_now_ms() + call->connect_timeout_ms;
    arm_timer(call);
    return net_dial_open(call->client->loop, call->host, call->port, call->unix_path, on_dialed, call,
                         &call->dial, err);
}

static int is_ours(struct net_str name)
{
    static const char *const ours[] = {"host", "content-length", "transfer-encoding", "connection"};
    for (size_t i = 0; i < sizeof ours / sizeof ours[0]; i++)
        if (net_str_is_nocase(name, ours[i])) return 1;
    return 0;
}

static char *append(char *to, const char *data, size_t n)
{
    memcpy(to, data, n);
    return to + n;
}

static char *append_text(char *to, const char *text)
{
    return append(to, text, strlen(text));
}

static llm_status build_request(struct http_call *call, const struct http_call_options *o,
                                const struct net_url *url, struct llm_error *err)
{
    const char *method = o->method ? o->method : "GET";
    struct http_field line = {{method, strlen(method)}, {"", 0}};
    if (!http_field_valid(&line) || strlen(method) > 32)
        return llm_fail(err, LLM_EINVAL, "HTTP method is not a word of letters");
    size_t total = strlen(method) + url->target.size + url->authority.size + o->body_bytes + 160;
    int has_agent = 0;
    for (int32_t i = 0; i < o->n_fields; i++) {
        const struct http_field *f = &o->fields[i];
        if (!http_field_valid(f) || is_ours(f->name))
            return llm_fail(err, LLM_EINVAL, "header %.*s is malformed or set by the client itself",
                            (int)(f->name.size > 80 ? 80 : f->name.size), f->name.data);
        has_agent |= net_str_is_nocase(f->name, "user-agent");
        total += f->name.size + f->value.size + 4;
    }
    char *p = call->request = mem_alloc(total);
    if (!p) return llm_fail(err, LLM_ENOMEM, "HTTP request: out of memory");
    p = append_text(p, method);
    p = append_text(p, url->target.size && url->target.data[0] == '/' ? " " : " /");
    p = append(p, url->target.data, url->target.size);
    p = append_text(p, " HTTP/1.1\r\nHost: ");
    p = append(p, url->authority.data, url->authority.size);
    p = append_text(p, "\r\n");
    if (!has_agent) p = append_text(p, "User-Agent: llmlua\r\n");
    for (int32_t i = 0; i < o->n_fields; i++) {
        p = append(p, o->fields[i].name.data, o->fields[i].name.size);
        p = append_text(p, ": ");
        p = append(p, o->fields[i].value.data, o->fields[i].value.size);
        p = append_text(p, "\r\n");
    }
    int is_get = strcmp(method, "GET") == 0;
    call->is_head = strcmp(method, "HEAD") == 0;
    call->replayable = is_get || call->is_head || strcmp(method, "PUT") == 0 ||
                       strcmp(method, "DELETE") == 0 || strcmp(method, "OPTIONS") == 0;
    if (o->body_bytes > 0 || (!is_get && !call->is_head))
        p += sprintf(p, "Content-Length: %zu\r\n", o->body_bytes);
    p = append_text(p, "\r\n");
    if (o->body_bytes > 0) p = append(p, o->body, o->body_bytes);
    call->request_bytes = (size_t)(p - call->request);
    return LLM_OK;
}

/* Where the call goes: connections with equal keys are interchangeable. */
static llm_status set_place(struct http_call *call, const struct http_call_options *o,
                            const struct net_url *url, struct llm_error *err)
{
    char key[700];
    if (url->tls && !o->tls && !call->client->default_tls) {
        llm_status rc = net_tls_client_open(NULL, 1, &call->client->default_tls, err);
        if (rc) return rc;
    }
    call->tls = !url->tls ? NULL : o->tls ? o->tls : call->client->default_tls;
    snprintf(key, sizeof key, "%s://%.*s:%d%s%s", url->tls ? "https" : "http", (int)url->host.size,
             url->host.data, url->port, o->unix_path ? " at " : "", o->unix_path ? o->unix_path : "");
    /* Two sets of authorities must not share a connection that only one of them trusts. */
    if (call->tls && o->tls) snprintf(key + strlen(key), sizeof key - strlen(key), " tls %p", (void *)o->tls);
    call->key = mem_strdup(key);
    call->host = mem_strndup(url->host.data, url->host.size);
    call->unix_path = o->unix_path ? mem_strdup(o->unix_path) : NULL;
    call->port = url->port;
    if (!call->key || !call->host || (o->unix_path && !call->unix_path))
        return llm_fail(err, LLM_ENOMEM, "HTTP request: out of memory");
    return LLM_OK;
}

static void call_set_options(struct http_call *call, const struct http_call_options *o)
{
    call->on_head = o->on_head;
    call->on_data = o->on_data;
    call->on_done = o->on_done;
    call->ud = o->ud;
    call->connect_timeout_ms = o->connect_timeout_ms > 0 ? o->connect_timeout_ms : CONNECT_MS;
    call->idle_timeout_ms = o->idle_timeout_ms > 0 ? o->idle_timeout_ms : IDLE_MS;
    call->total_due = o->timeout_ms > 0 ? net_now_ms() + o->timeout_ms : 0;
    evtimer_assign(&call->timer, call->client->loop->base, on_timer, call);
}

static llm_status use_kept(struct http_call *call, struct client_conn *conn)
{
    conn_unlist(conn);
    conn->call = call;
    call->conn = conn;
    call->reused = 1;
    return send_request(call);
}

llm_status http_call_start(struct http_client *client, const struct http_call_options *o,
                           struct http_call **out, struct llm_error *err)
{
    struct net_url url;
    if (!o->on_done) return llm_fail(err, LLM_EINVAL, "HTTP request: on_done is required");
    llm_status rc = net_url_parse((struct net_str){o->url, strlen(o->url)}, &url, err);
    if (rc) return rc;
    struct http_call *call = mem_zalloc(sizeof *call);
    if (!call) return llm_fail(err, LLM_ENOMEM, "HTTP request: out of memory");
    call->client = client;
    call_set_options(call, o);
    rc = build_request(call, o, &url, err);
    if (!rc) rc = set_place(call, o, &url, err);
    if (rc) {
        call_release(&call->grave);
        return rc;
    }
    call->next = client->calls;
    if (call->next) call->next->prev = call;
    client->calls = call;
    struct client_conn *kept = conn_find(client, call->key);
    rc = kept ? use_kept(call, kept) : dial(call, err);
    if (rc) {
        call_close(call);
        return llm_fail(err, rc, "HTTP request: out of memory");
    }
    *out = call;
    return LLM_OK;
}

llm_status http_client_open(struct net_loop *loop, struct http_client **out, struct llm_error *err)
{
    struct http_client *client = mem_zalloc(sizeof *client);
    if (!client) return llm_fail(err, LLM_ENOMEM, "HTTP client: out of memory");
    client->loop = loop;
    *out = client;
    return LLM_OK;
}

static void client_release(struct net_grave *grave)
{
    struct http_client *client = (struct http_client *)grave;
    net_tls_close(client->default_tls);
    mem_free(client);
}

void http_client_close(struct http_client *client)
{
    if (!client) return;
    while (client->calls) call_close(client->calls);
    while (client->idle) conn_close(client->idle);
    net_loop_bury(client->loop, &client->grave, client_release);
}
