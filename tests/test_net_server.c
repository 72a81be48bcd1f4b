/* The HTTP server against bare sockets: what it answers, in which order, within which memory, and what it
 * tells its owner. */

#include "net_peer.h"

#include "base/mem.h"
#include "net/http_server.h"
#include "net/tls.h"

#include <sys/resource.h>
#include <sys/stat.h>

/* An owner that answers by path: /echo the body; /hold nothing until the test says so; /stream chunks of
 * 1,000 bytes until it has written stream_total, pausing when told. */
struct owner {
    struct net_loop *loop;
    struct http_server *server;
    int port;
    int n_requests, n_done, n_writable, n_paused;
    enum http_done last_done;
    struct http_exchange *held;
    size_t stream_total, stream_written, max_unsent;
    char last_path[256], last_query[256];
    int drained, memory_fails;
};

static char chunk[1000];

static void stream_on(struct owner *o, struct http_exchange *x)
{
    while (o->stream_written < o->stream_total) {
        llm_status rc = http_reply_write(x, chunk, sizeof chunk);
        assert_true(rc == LLM_OK || rc == LLM_EAGAIN);
        o->stream_written += sizeof chunk;
        if (http_exchange_unsent(x) > o->max_unsent) o->max_unsent = http_exchange_unsent(x);
        if (rc == LLM_EAGAIN) {
            o->n_paused++;
            return;
        }
    }
    http_reply_end(x);
}

static void on_request(void *ud, struct http_exchange *x)
{
    struct owner *o = ud;
    const struct http_request *r = http_exchange_request(x);
    struct http_field type = {{"Content-Type", 12}, {"text/plain", 10}};
    o->n_requests++;
    snprintf(o->last_path, sizeof o->last_path, "%s", r->path.data);
    snprintf(o->last_query, sizeof o->last_query, "%s", r->query.data);
    if (strcmp(r->path.data, "/hold") == 0) {
        o->held = x;
    } else if (strcmp(r->path.data, "/stream") == 0) {
        o->held = x;
        assert_int_equal(http_reply_start(x, 200, &type, 1, -1), LLM_OK);
        stream_on(o, x);
    } else if (strcmp(r->path.data, "/empty") == 0) {
        assert_int_equal(http_reply(x, 204, NULL, 0, NULL, 0), LLM_OK);
    } else {
        llm_status rc = http_reply(x, 200, &type, 1, r->body.data, r->body.size);
        assert_int_equal(rc, o->memory_fails ? rc : LLM_OK);
        if (rc) http_exchange_abort(x);
    }
}

static void on_writable(void *ud, struct http_exchange *x)
{
    struct owner *o = ud;
    o->n_writable++;
    stream_on(o, x);
}

static void on_done(void *ud, struct http_exchange *x, enum http_done why)
{
    struct owner *o = ud;
    if (o->held == x) o->held = NULL;
    o->n_done++;
    o->last_done = why;
}

static void owner_open(struct owner *o, const struct http_server_options *options, struct net_tls *tls)
{
    struct llm_error err;
    struct http_handler handler = {
        .on_request = on_request, .on_writable = on_writable, .on_done = on_done, .ud = o};
    memset(o, 0, sizeof *o);
    assert_int_equal(net_loop_open(&o->loop, &err), LLM_OK);
    assert_int_equal(http_server_open(o->loop, options, &handler, &o->server, &err), LLM_OK);
    if (http_server_listen(o->server, "127.0.0.1", 0, 0, tls, &err) != LLM_OK) fail_msg("%s", err.message);
    o->port = http_server_port(o->server);
    assert_true(o->port > 0);
}

static void owner_close(struct owner *o)
{
    struct http_server_stats stats;
    http_server_close(o->server);
    http_server_stats(o->server, &stats);
    assert_int_equal(stats.n_connections, 0);
    assert_int_equal(stats.n_exchanges, 0);
    assert_int_equal(o->n_done, o->n_requests);
    net_loop_close(o->loop);
}

/* A peer whose request is held. */
static struct peer ask_and_hold(struct owner *o)
{
    struct peer p = peer_connect(o->port);
    peer_send(&p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL(o->loop, o->held);
    return p;
}

static int connections(const struct owner *o)
{
    struct http_server_stats stats;
    http_server_stats(o->server, &stats);
    return stats.n_connections;
}

static void test_keep_alive(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer p = peer_connect(o.port);
    for (int i = 0; i < 3; i++) {
        peer_forget(&p);
        peer_send(&p, "POST /echo%20me?a=%31 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
        UNTIL_SAYS(o.loop, &p, "hello");
        assert_non_null(strstr(p.in, "HTTP/1.1 200 OK\r\nDate: "));
        assert_non_null(strstr(p.in, "Content-Length: 5\r\n"));
        assert_null(strstr(p.in, "Connection:"));
    }
    assert_string_equal(o.last_path, "/echo me");
    assert_string_equal(o.last_query, "a=%31");
    assert_int_equal(connections(&o), 1);
    peer_send(&p, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    UNTIL_CLOSED(o.loop, &p);
    assert_non_null(strstr(p.in, "Connection: close\r\n"));
    assert_int_equal(o.last_done, HTTP_DONE_SENT);
    UNTIL(o.loop, connections(&o) == 0);
    peer_close(&p);
    owner_close(&o);
}

static void test_versions_and_methods(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer p = peer_connect(o.port);
    peer_send(&p, "\r\nHEAD /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody"
                  "GET /empty HTTP/1.1\r\nHost: a\r\n\r\n"
                  "OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL(o.loop, (peer_read(&p), count_of(p.in, "HTTP/1.1") == 3));
    assert_non_null(strstr(p.in, "Content-Length: 4\r\n"));
    assert_null(strstr(p.in, "body"));
    assert_int_equal(count_of(p.in, "HTTP/1.1 204 No Content\r\n"), 1);
    assert_int_equal(count_of(p.in, "Content-Length"), 2); /* not with 204 */
    peer_close(&p);

    o.stream_total = 2000;
    p = peer_connect(o.port);
    peer_send(&p, "GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    UNTIL_CLOSED(o.loop, &p); /* no chunks in 1.0: the end of the connection is the end of the body */
    assert_null(strstr(p.in, "chunked"));
    const char *body = strstr(p.in, "\r\n\r\n") + 4;
    assert_int_equal(strlen(body), 2000);
    peer_close(&p);

    p = peer_connect(o.port);
    peer_send(&p, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    UNTIL_SAYS(o.loop, &p, "Connection: keep-alive\r\n");
    peer_close(&p);
    owner_close(&o);
}

static void test_pipelining(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer p = peer_connect(o.port);
    char all[20000] = "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n";
    for (int i = 0; i < 100; i++)
        sprintf(all + strlen(all), "POST /n HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n<%02d>", i);
    peer_send(&p, all);
    for (int i = 0; i < 5; i++) turn(o.loop);
    assert_int_equal(o.n_requests, 1); /* the others wait for the held one */
    assert_non_null(o.held);
    http_reply(o.held, 200, NULL, 0, "first", 5);
    UNTIL_SAYS(o.loop, &p, "<99>");
    assert_int_equal(o.n_requests, 101);
    const char *at = strstr(p.in, "first");
    for (int i = 0; i < 100; i++) {
        char want[24];
        sprintf(want, "<%02d>", i);
        at = at ? strstr(at, want) : NULL;
        assert_non_null(at);
    }
    peer_close(&p);
    owner_close(&o);
}

/* The same requests in pieces of every size give the same answers. */
static void test_split_input(void **state)
{
    (void)state;
    static const char text[] = "POST /a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                               "3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nT: u\r\n\r\n"
                               "POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nxyz";
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer p = peer_connect(o.port);
    for (size_t step = 1; step < sizeof text; step += step < 8 ? 1 : 9) {
        peer_forget(&p);
        for (size_t at = 0; at < sizeof text - 1; at += step) {
            size_t part = sizeof text - 1 - at < step ? sizeof text - 1 - at : step;
            peer_send_bytes(&p, text + at, part);
            turn(o.loop);
        }
        UNTIL_SAYS(o.loop, &p, "xyz");
        assert_non_null(strstr(p.in, "\r\n\r\nabcdefgHTTP/1.1 200"));
        assert_int_equal(count_of(p.in, "HTTP/1.1 200 OK"), 2);
    }
    peer_close(&p);
    owner_close(&o);
}

static void test_expect_continue(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer p = peer_connect(o.port);
    peer_send(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    UNTIL_SAYS(o.loop, &p, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_int_equal(o.n_requests, 0);
    peer_send(&p, "ok");
    UNTIL_SAYS(o.loop, &p, "\r\n\r\nok");
    peer_close(&p);
    owner_close(&o);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        const char *status, *text;
    } rows[] = {
        {"400", "GET / HTTP/1.1\r\n\r\n"},
        {"400",
         "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
        {"400", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"},
        {"400", "GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n"},
        {"400", "GET /%00 HTTP/1.1\r\nHost: a\r\n\r\n"},
        {"400", "GET * HTTP/1.1\r\nHost: a\r\n\r\n"},
        {"400", "GET v1 HTTP/1.1\r\nHost: a\r\n\r\n"},
        {"413", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 101\r\n\r\n"},
        {"413", "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 101\r\n\r\n"},
        {"413", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                "60\r\n0123456789012345678901234567890123456789012345678901234567890123456789"
                "01234567890123456789012345\r\n5\r\nabcde\r\n"},
        {"501", "CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"},
        {"501", "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"},
        {"505", "GET / HTTP/3.0\r\nHost: a\r\n\r\n"},
    };
    struct http_server_options options;
    http_server_options_init(&options);
    options.max_body = 100;
    struct owner o;
    owner_open(&o, &options, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char expected[32];
        struct peer p = peer_connect(o.port);
        peer_send(&p, rows[i].text);
        /* What comes behind must be taken neither for a request nor for a reason to reset the answer away. */
        peer_send(&p, "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n");
        UNTIL_CLOSED(o.loop, &p);
        sprintf(expected, "HTTP/1.1 %s ", rows[i].status);
        if (strncmp(p.in, expected, strlen(expected)) != 0) fail_msg("%s\n->\n%s", rows[i].text, p.in);
        assert_int_equal(count_of(p.in, "\r\nDate: "), 1);
        assert_non_null(strstr(p.in, "Connection: close\r\n"));
        peer_close(&p);
    }
    assert_int_equal(o.n_requests, 0);
    struct http_server_stats stats;
    http_server_stats(o.server, &stats);
    assert_int_equal(stats.n_rejected, sizeof rows / sizeof rows[0]);
    UNTIL(o.loop, connections(&o) == 0);
    owner_close(&o);
}

static size_t format_error(void *ud, int status, const char *message, char *text, size_t capacity)
{
    (void)ud;
    return (size_t)snprintf(text, capacity, "{\"code\":%d,\"message\":\"%s\"}", status, message);
}

static void test_error_format(void **state)
{
    (void)state;
    struct net_loop *loop;
    struct http_server *server;
    struct owner o = {0};
    struct http_handler handler = {.on_request = on_request,
                                   .on_done = on_done,
                                   .format_error = format_error,
                                   .error_type = "application/json",
                                   .ud = &o};
    assert_int_equal(net_loop_open(&loop, NULL), LLM_OK);
    assert_int_equal(http_server_open(loop, NULL, &handler, &server, NULL), LLM_OK);
    assert_int_equal(http_server_listen(server, "127.0.0.1", 0, 0, NULL, NULL), LLM_OK);
    struct peer p = peer_connect(http_server_port(server));
    peer_send(&p, "bad\r\n\r\n");
    UNTIL_CLOSED(loop, &p);
    assert_non_null(strstr(p.in, "Content-Type: application/json\r\n"));
    assert_non_null(strstr(p.in, "{\"code\":400,"));
    peer_close(&p);
    http_server_close(server);
    net_loop_close(loop);
}

/* A reader that reads nothing: output stops near the high-water mark and goes on when the reader does. */
static void test_back_pressure(void **state)
{
    (void)state;
    struct http_server_options options;
    http_server_options_init(&options);
    options.send_buffer = 16384;
    struct owner o;
    owner_open(&o, &options, NULL);
    o.stream_total = 8 * 1000 * 1000;
    struct peer p = peer_connect(o.port);
    peer_send(&p, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL(o.loop, o.n_paused > 0);
    uint64_t blocks = mem_count();
    for (int i = 0; i < 20; i++) turn(o.loop);
    assert_true(o.stream_written < o.stream_total / 2);
    assert_true(o.max_unsent < options.high_water + 2000);
    assert_true(mem_count() - blocks < 100);
    UNTIL(o.loop, (peer_read(&p), o.n_done == 1));
    peer_read(&p);
    assert_int_equal(o.stream_written, o.stream_total);
    assert_true(o.n_writable > 10);
    assert_true(o.max_unsent < options.high_water + 2000);
    /* Each write is a chunk: 3e8, CR LF, 1,000 bytes, CR LF. */
    size_t head = (size_t)(strstr(p.in, "\r\n\r\n") + 4 - p.in);
    assert_int_equal(p.n - head, o.stream_total / 1000 * (5 + 1000 + 2) + 5);
    peer_close(&p);
    owner_close(&o);
}

static void test_client_leaves(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer p = peer_connect(o.port); /* while nothing has been said */
    peer_send(&p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL(o.loop, o.held);
    peer_close(&p);
    UNTIL(o.loop, o.n_done == 1);
    assert_int_equal(o.last_done, HTTP_DONE_LEFT);

    o.stream_total = SIZE_MAX; /* in the middle of a stream */
    p = peer_connect(o.port);
    peer_send(&p, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL_SAYS(o.loop, &p, "200 OK");
    peer_close(&p);
    UNTIL(o.loop, o.n_done == 2);
    assert_int_equal(o.last_done, HTTP_DONE_LEFT);

    p = peer_connect(o.port);  /* with more pipelined than is kept */
    static char flood[120000]; /* fits the kernel's buffers: a close behind it can be seen */
    for (size_t i = 0; i < sizeof flood; i++) flood[i] = "GET / HTTP/1.1\r\nHost: a\r\n\r\n"[i % 27];
    peer_send(&p, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL(o.loop, o.held);
    assert_true(send(p.fd, flood, sizeof flood, MSG_NOSIGNAL) == sizeof flood);
    for (int i = 0; i < 10; i++) turn(o.loop);
    peer_close(&p);
    UNTIL(o.loop, o.n_done == 3);
    assert_int_equal(o.last_done, HTTP_DONE_LEFT);
    UNTIL(o.loop, connections(&o) == 0);
    owner_close(&o);
}

/* A client that shuts its sending side after the request is answered if the answer is ready. */
static void test_half_close(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer p = peer_connect(o.port);
    peer_send(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    shutdown(p.fd, SHUT_WR);
    UNTIL_CLOSED(o.loop, &p);
    assert_non_null(strstr(p.in, "\r\n\r\nhi"));
    peer_close(&p);
    owner_close(&o);
}

static void test_timeouts(void **state)
{
    (void)state;
    struct http_server_options options;
    http_server_options_init(&options);
    options.idle_timeout_ms = options.head_timeout_ms = options.body_timeout_ms = 60;
    options.write_timeout_ms = 60;
    options.send_buffer = 16384;
    struct owner o;
    owner_open(&o, &options, NULL);
    struct peer idle = peer_connect(o.port), head = peer_connect(o.port), body = peer_connect(o.port),
                slow = peer_connect(o.port);
    o.stream_total = SIZE_MAX;
    peer_send(&head, "GET / HT");
    peer_send(&body, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nhalf");
    peer_send(&slow, "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n"); /* and never reads */
    UNTIL_CLOSED(o.loop, &idle);
    assert_int_equal(idle.n, 0);
    UNTIL_CLOSED(o.loop, &head);
    assert_non_null(strstr(head.in, "HTTP/1.1 408 "));
    UNTIL_CLOSED(o.loop, &body);
    assert_non_null(strstr(body.in, "HTTP/1.1 408 "));
    UNTIL(o.loop, o.n_done == 1);
    assert_int_equal(o.last_done, HTTP_DONE_TIMEOUT);
    peer_close(&idle);
    peer_close(&head);
    peer_close(&body);
    peer_close(&slow);
    owner_close(&o);
}

/* A held request is not hurried by any of the client's time-outs. */
static void test_no_timeout_while_held(void **state)
{
    (void)state;
    struct http_server_options options;
    http_server_options_init(&options);
    options.idle_timeout_ms = options.head_timeout_ms = options.body_timeout_ms = 20;
    options.write_timeout_ms = 20;
    struct owner o;
    owner_open(&o, &options, NULL);
    struct peer p = ask_and_hold(&o);
    assert_int_equal(http_reply_start(o.held, 200, NULL, 0, -1), LLM_OK);
    int64_t begin = net_now_ms();
    while (net_now_ms() - begin < 100) turn(o.loop);
    assert_non_null(o.held);
    assert_int_equal(http_reply_write(o.held, "late", 4), LLM_OK);
    http_reply_end(o.held);
    UNTIL_SAYS(o.loop, &p, "4\r\nlate\r\n0\r\n\r\n");
    peer_close(&p);
    owner_close(&o);
}

static void test_reply_contract(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer p = ask_and_hold(&o);
    struct http_exchange *x = o.held;
    char peer_name[64];
    http_exchange_peer(x, peer_name, sizeof peer_name);
    assert_memory_equal(peer_name, "127.0.0.1:", 10);
    struct http_field split = {{"X", 1}, {"a\r\nSet-Cookie: b", 16}},
                      reserved = {{"content-Length", 14}, {"1", 1}};
    assert_int_equal(http_reply_write(x, "a", 1), LLM_EINVAL); /* not begun */
    assert_int_equal(http_reply_start(x, 200, &split, 1, -1), LLM_EINVAL);
    assert_int_equal(http_reply_start(x, 200, &reserved, 1, -1), LLM_EINVAL);
    assert_int_equal(http_reply_start(x, 99, NULL, 0, -1), LLM_EINVAL);
    assert_int_equal(http_exchange_status(x), 0);
    assert_int_equal(http_reply_start(x, 200, NULL, 0, 4), LLM_OK);
    assert_int_equal(http_reply_start(x, 200, NULL, 0, 4), LLM_EINVAL);
    assert_int_equal(http_reply_write(x, "12345", 5), LLM_EINVAL); /* beyond its length */
    assert_int_equal(http_reply_write(x, "12", 2), LLM_OK);
    http_reply_end(x); /* short of its length */
    UNTIL_CLOSED(o.loop, &p);
    assert_int_equal(o.last_done, HTTP_DONE_CLOSED);
    peer_close(&p);
    owner_close(&o);
}

static void test_ends_of_replies(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer p = ask_and_hold(&o);
    http_reply_start(o.held, 200, NULL, 0, -1);
    http_reply_write(o.held, "part", 4);
    turn(o.loop);
    http_exchange_abort(o.held);
    assert_null(o.held); /* told within the call */
    UNTIL_CLOSED(o.loop, &p);
    assert_null(strstr(p.in, "\r\n0\r\n")); /* and no false end */
    peer_close(&p);

    p = ask_and_hold(&o);
    http_reply_start(o.held, 200, NULL, 0, -1);
    http_reply_write(o.held, "part", 4);
    http_reply_cut(o.held);
    UNTIL_CLOSED(o.loop, &p);
    assert_non_null(strstr(p.in, "4\r\npart\r\n"));
    assert_null(strstr(p.in, "\r\n0\r\n"));
    assert_int_equal(o.last_done, HTTP_DONE_CLOSED);
    peer_close(&p);

    /* A stream whose every byte is out already still ends. */
    p = peer_connect(o.port);
    peer_send(&p, "GET /hold HTTP/1.0\r\n\r\n");
    UNTIL(o.loop, o.held);
    http_reply_start(o.held, 200, NULL, 0, -1);
    UNTIL_SAYS(o.loop, &p, "\r\n\r\n");
    http_reply_end(o.held);
    UNTIL_CLOSED(o.loop, &p);
    assert_int_equal(o.last_done, HTTP_DONE_SENT);
    peer_close(&p);
    owner_close(&o);
}

/* All the pieces written within a turn are one segment to the client, and cost no allocation once warm. */
static void test_corked_and_no_malloc(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer p = ask_and_hold(&o);
    http_reply_start(o.held, 200, NULL, 0, -1);
    UNTIL_SAYS(o.loop, &p, "\r\n\r\n");
    uint64_t before = mem_count();
    for (int round = 0; round < 100; round++) {
        for (int i = 0; i < 10; i++) assert_int_equal(http_reply_write(o.held, "0123456789", 10), LLM_OK);
        turn(o.loop);
        char got[400];
        assert_int_equal(recv(p.fd, got, sizeof got, 0), 10 * 15);
    }
    assert_int_equal(mem_count(), before);
    http_reply_end(o.held);
    turn(o.loop);
    peer_close(&p);
    owner_close(&o);
}

static void on_drained(void *ud)
{
    ((struct owner *)ud)->drained++;
}

static void test_drain(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    struct peer idle = peer_connect(o.port), busy = peer_connect(o.port);
    peer_send(&busy, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL(o.loop, o.held && connections(&o) == 2);
    http_server_drain(o.server, -1, on_drained, &o);
    UNTIL_CLOSED(o.loop, &idle);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)o.port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), -1);
    close(fd);
    assert_int_equal(o.drained, 0);
    http_reply(o.held, 200, NULL, 0, "bye", 3);
    UNTIL_CLOSED(o.loop, &busy);
    assert_non_null(strstr(busy.in, "bye"));
    assert_non_null(strstr(busy.in, "Connection: close\r\n"));
    UNTIL(o.loop, o.drained == 1);
    peer_close(&idle);
    peer_close(&busy);
    owner_close(&o);

    owner_open(&o, NULL, NULL); /* a deadline cuts what does not end */
    busy = peer_connect(o.port);
    peer_send(&busy, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL(o.loop, o.held);
    http_server_drain(o.server, 30, on_drained, &o);
    UNTIL(o.loop, o.drained == 1);
    assert_int_equal(o.last_done, HTTP_DONE_CLOSED);
    peer_close(&busy);
    owner_close(&o);

    owner_open(&o, NULL, NULL); /* who has connected and asked before is answered */
    busy = peer_connect(o.port);
    idle = peer_connect(o.port);
    peer_send(&busy, "GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    http_server_drain(o.server, -1, on_drained, &o);
    UNTIL(o.loop, o.held);
    UNTIL_CLOSED(o.loop, &idle);
    http_reply(o.held, 200, NULL, 0, "late", 4);
    UNTIL_CLOSED(o.loop, &busy);
    assert_non_null(strstr(busy.in, "late"));
    UNTIL(o.loop, o.drained == 1);
    peer_close(&idle);
    peer_close(&busy);
    owner_close(&o);

    owner_open(&o, NULL, NULL); /* nothing open */
    http_server_drain(o.server, -1, on_drained, &o);
    assert_int_equal(o.drained, 0);
    UNTIL(o.loop, o.drained == 1);
    owner_close(&o);
}

static void test_unix_socket(void **state)
{
    (void)state;
    struct owner o;
    struct llm_error err;
    struct stat st;
    char dir[] = "/tmp/llmlua_net_XXXXXX";
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    assert_non_null(mkdtemp(dir));
    snprintf(a.sun_path, sizeof a.sun_path, "%s/s", dir);
    int stale = socket(AF_UNIX, SOCK_STREAM, 0); /* left by a process that died */
    assert_int_equal(bind(stale, (struct sockaddr *)&a, sizeof a), 0);
    close(stale);
    owner_open(&o, NULL, NULL);
    assert_int_equal(http_server_listen_unix(o.server, a.sun_path, 0600, &err), LLM_OK);
    assert_int_equal(http_server_listen_unix(o.server, a.sun_path, 0600, &err), LLM_EIO); /* in use */
    assert_int_equal(stat(a.sun_path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    struct peer p = peer_take(fd);
    peer_send(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    UNTIL_SAYS(o.loop, &p, "\r\n\r\nhi");
    peer_close(&p);
    owner_close(&o);
    assert_int_equal(stat(a.sun_path, &st), -1);
    rmdir(dir);
}

static void test_listen_errors(void **state)
{
    (void)state;
    struct owner o, other;
    struct llm_error err;
    owner_open(&o, NULL, NULL);
    owner_open(&other, NULL, NULL);
    assert_int_equal(http_server_listen(other.server, "127.0.0.1", o.port, 0, NULL, &err), LLM_EIO);
    assert_non_null(strstr(err.message, "127.0.0.1 port"));
    assert_non_null(strstr(err.message, "in use"));
    assert_int_equal(http_server_listen(other.server, "127.0.0.1", 70000, 0, NULL, &err), LLM_EINVAL);
    owner_close(&o);
    owner_close(&other);
}

static void test_thousand_connections(void **state)
{
    (void)state;
    enum { N = 1000 };
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_cur < 2 * N + 100) {
        limit.rlim_cur = limit.rlim_max < 2 * N + 100 ? limit.rlim_max : 2 * N + 100;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (limit.rlim_cur < 2 * N + 100) skip();
    struct owner o;
    struct http_server_options options;
    http_server_options_init(&options);
    options.max_connections = N - 100; /* the rest waits to be accepted */
    owner_open(&o, &options, NULL);
    struct peer *peers = calloc(N, sizeof *peers);
    for (int i = 0; i < N; i++) {
        peers[i] = peer_connect(o.port);
        turn(o.loop);
    }
    UNTIL(o.loop, connections(&o) == N - 100);
    for (int i = 0; i < N; i++)
        peer_send(&peers[i], "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    for (int i = 0; i < N - 100; i++) UNTIL_SAYS(o.loop, &peers[i], "\r\n\r\nhi");
    assert_int_equal(connections(&o), N - 100);
    for (int i = 0; i < 100; i++) peer_close(&peers[i]);
    for (int i = N - 100; i < N; i++) UNTIL_SAYS(o.loop, &peers[i], "\r\n\r\nhi");
    for (int i = 100; i < N; i++) peer_close(&peers[i]);
    UNTIL(o.loop, connections(&o) == 0);
    free(peers);
    owner_close(&o);
}

/* Every allocation on the way of a request fails once: a refusal or a close, no crash, and the next one
 * works. */
static void test_out_of_memory(void **state)
{
    (void)state;
    struct owner o;
    owner_open(&o, NULL, NULL);
    o.memory_fails = 1;
    for (uint64_t n = 1; n < 12; n++) {
        struct peer p = peer_connect(o.port);
        mem_fail_at(n);
        peer_send(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n");
        for (int i = 0; i < 9; i++) {
            turn(o.loop);
            send(p.fd, chunk, sizeof chunk, MSG_NOSIGNAL);
        }
        for (int i = 0; i < 40; i++) turn(o.loop);
        mem_fail_at(0);
        peer_close(&p);
        UNTIL(o.loop, connections(&o) == 0);
    }
    struct peer p = peer_connect(o.port);
    peer_send(&p, "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi");
    UNTIL_SAYS(o.loop, &p, "\r\n\r\nhi");
    peer_close(&p);
    owner_close(&o);
}

int main(void)
{
    memset(chunk, 'x', sizeof chunk);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_versions_and_methods),
        cmocka_unit_test(test_pipelining),
        cmocka_unit_test(test_split_input),
        cmocka_unit_test(test_expect_continue),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_error_format),
        cmocka_unit_test(test_back_pressure),
        cmocka_unit_test(test_client_leaves),
        cmocka_unit_test(test_half_close),
        cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_no_timeout_while_held),
        cmocka_unit_test(test_reply_contract),
        cmocka_unit_test(test_ends_of_replies),
        cmocka_unit_test(test_corked_and_no_malloc),
        cmocka_unit_test(test_drain),
        cmocka_unit_test(test_unix_socket),
        cmocka_unit_test(test_listen_errors),
        cmocka_unit_test(test_thousand_connections),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
