/* The HTTP client against our own server, and against bare sockets that misbehave; TLS between the two; the
 * loop being stopped, its timers and watches. */

#include "net_peer.h"

#include "net/http_client.h"
#include "net/http_server.h"
#include "net/tls.h"

#include <pthread.h>

struct fixture {
    struct net_loop *loop;
    struct http_client *client;
    struct http_server *server;
    int port;
    int n_requests;
    struct http_exchange *held;
    int left;
};

struct reply {
    struct http_call *call;
    int status, n_heads, done;
    char type[64];
    size_t n;
    char body[4096]; /* its beginning */
    llm_status rc;
    struct llm_error err;
    int pause_at_head, cancel_at_head;
};

static void on_request(void *ud, struct http_exchange *x)
{
    struct fixture *f = ud;
    const struct http_request *r = http_exchange_request(x);
    struct http_field type = {{"Content-Type", 12}, {"text/x-test", 11}};
    f->n_requests++;
    if (strcmp(r->path.data, "/hold") == 0) {
        f->held = x;
    } else if (strcmp(r->path.data, "/chunked") == 0) {
        http_reply_start(x, 200, &type, 1, -1);
        for (int i = 0; i < 1000; i++) http_reply_write(x, "0123456789", 10);
        http_reply_end(x);
    } else if (strcmp(r->path.data, "/tls") == 0) {
        http_reply(x, 200, &type, 1, r->tls ? "yes" : "no", r->tls ? 3 : 2);
    } else {
        const struct net_str *agent = http_find(r->fields, r->n_fields, "user-agent");
        assert_non_null(agent);
        http_reply(x, 201, &type, 1, r->body.data, r->body.size);
    }
}

static void on_server_done(void *ud, struct http_exchange *x, enum http_done why)
{
    struct fixture *f = ud;
    if (f->held == x) f->held = NULL;
    f->left += why == HTTP_DONE_LEFT;
}

static void on_head(void *ud, struct http_call *call, const struct http_response *response)
{
    struct reply *r = ud;
    const struct net_str *type = http_find(response->fields, response->n_fields, "content-type");
    r->n_heads++;
    r->status = response->status;
    if (type) snprintf(r->type, sizeof r->type, "%.*s", (int)type->size, type->data);
    if (r->pause_at_head) http_call_pause(call, 1);
    if (r->cancel_at_head) http_call_cancel(call);
}

static void on_data(void *ud, struct http_call *call, const char *data, size_t n)
{
    (void)call;
    struct reply *r = ud;
    for (size_t i = 0; i < n && r->n + i < sizeof r->body - 1; i++) r->body[r->n + i] = data[i];
    r->n += n;
}

static void on_done(void *ud, struct http_call *call, llm_status status, const struct llm_error *err)
{
    struct reply *r = ud;
    assert_ptr_equal(r->call, call);
    r->done++;
    r->rc = status;
    if (err) r->err = *err;
}

static void open_fixture(struct fixture *f, struct net_tls *tls)
{
    struct llm_error err;
    struct http_handler handler = {.on_request = on_request, .on_done = on_server_done, .ud = f};
    memset(f, 0, sizeof *f);
    assert_int_equal(net_loop_open(&f->loop, &err), LLM_OK);
    assert_int_equal(http_client_open(f->loop, &f->client, &err), LLM_OK);
    assert_int_equal(http_server_open(f->loop, NULL, &handler, &f->server, &err), LLM_OK);
    assert_int_equal(http_server_listen(f->server, "127.0.0.1", 0, 0, tls, &err), LLM_OK);
    f->port = http_server_port(f->server);
}

static void close_fixture(struct fixture *f)
{
    http_client_close(f->client);
    http_server_close(f->server);
    net_loop_close(f->loop);
}

static struct http_call_options options_for(struct reply *r)
{
    memset(r, 0, sizeof *r);
    return (struct http_call_options){.on_head = on_head, .on_data = on_data, .on_done = on_done, .ud = r};
}

static void start(struct fixture *f, struct http_call_options *o, struct reply *r, const char *format, ...)
{
    char url[256];
    struct llm_error err;
    va_list ap;
    va_start(ap, format);
    vsnprintf(url, sizeof url, format, ap);
    va_end(ap);
    o->url = url;
    if (http_call_start(f->client, o, &r->call, &err) != LLM_OK) fail_msg("%s", err.message);
    assert_int_equal(r->done, 0);
}

static uint64_t accepted(const struct fixture *f)
{
    struct http_server_stats stats;
    http_server_stats(f->server, &stats);
    return stats.n_accepted;
}

static void test_requests(void **state)
{
    (void)state;
    struct fixture f;
    struct reply r;
    open_fixture(&f, NULL);
    struct http_call_options o = options_for(&r);
    struct http_field field = {{"X-Mine", 6}, {"1", 1}};
    o.method = "POST";
    o.body = "hello";
    o.body_bytes = 5;
    o.fields = &field;
    o.n_fields = 1;
    start(&f, &o, &r, "http://127.0.0.1:%d/echo?x=1", f.port);
    UNTIL(f.loop, r.done);
    assert_int_equal(r.rc, LLM_OK);
    assert_int_equal(r.status, 201);
    assert_string_equal(r.type, "text/x-test");
    assert_string_equal(r.body, "hello");

    o = options_for(&r);
    start(&f, &o, &r, "http://localhost:%d/chunked", f.port); /* a name, from /etc/hosts */
    UNTIL(f.loop, r.done);
    if (r.rc) fail_msg("%s", r.err.message);
    assert_int_equal(r.n, 10000);
    assert_int_equal(accepted(&f), 2); /* another host name: another connection */

    o = options_for(&r);
    o.method = "HEAD";
    start(&f, &o, &r, "http://127.0.0.1:%d?x", f.port);
    UNTIL(f.loop, r.done);
    assert_int_equal(r.rc, LLM_OK);
    assert_int_equal(r.n, 0);
    assert_int_equal(accepted(&f), 2); /* the first one again */
    close_fixture(&f);
}

static void test_bad_arguments(void **state)
{
    (void)state;
    struct fixture f;
    struct reply r;
    struct llm_error err;
    open_fixture(&f, NULL);
    struct http_call_options o = options_for(&r);
    o.url = "gopher://a";
    assert_int_equal(http_call_start(f.client, &o, &r.call, &err), LLM_EINVAL);
    o.url = "http://a/";
    o.method = "GET /\r\n";
    assert_int_equal(http_call_start(f.client, &o, &r.call, &err), LLM_EINVAL);
    o.method = "GET";
    struct http_field field = {{"host", 4}, {"b", 1}};
    o.fields = &field;
    o.n_fields = 1;
    assert_int_equal(http_call_start(f.client, &o, &r.call, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "host"));
    field = (struct http_field){{"X", 1}, {"b\nc", 3}};
    assert_int_equal(http_call_start(f.client, &o, &r.call, &err), LLM_EINVAL);
    close_fixture(&f);
}

static void test_failures(void **state)
{
    (void)state;
    struct fixture f;
    struct reply r;
    int port;
    open_fixture(&f, NULL);
    int fd = peer_listen(&port);
    close(fd);
    struct http_call_options o = options_for(&r);
    start(&f, &o, &r, "http://127.0.0.1:%d/", port);
    UNTIL(f.loop, r.done);
    assert_int_equal(r.rc, LLM_EIO);
    assert_non_null(strstr(r.err.message, "refused"));
    assert_non_null(strstr(r.err.message, "http://127.0.0.1:"));

    o = options_for(&r);
    start(&f, &o, &r, "http://no-such-host.invalid/");
    struct http_call *lookup = r.call;
    struct reply second;
    struct http_call_options o2 = options_for(&second);
    o2.connect_timeout_ms = 50;
    start(&f, &o2, &second, "http://other.invalid/");
    http_call_cancel(lookup); /* within the look-up */
    UNTIL(f.loop, second.done);
    assert_int_equal(second.rc, LLM_EIO);
    assert_int_equal(r.done, 0);

    o = options_for(&r);
    o.unix_path = "/nonexistent/socket";
    start(&f, &o, &r, "http://localhost/");
    UNTIL(f.loop, r.done);
    assert_non_null(strstr(r.err.message, "No such file"));
    close_fixture(&f);
}

/* What a server says, in pieces of each size, and how the call must end. */
static void test_responses(void **state)
{
    (void)state;
    static const struct {
        int ok;
        const char *body, *text;
    } rows[] = {
        {1, "to the end", "HTTP/1.1 200 OK\r\n\r\nto the end"},
        {1, "old", "HTTP/1.0 200 OK\r\nConnection: close\r\n\r\nold"},
        {1, "abc",
         "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nA: b\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: "
         "3\r\n\r\nabc"},
        {1, "abcdef",
         "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n"},
        {1, "", "HTTP/1.1 204 No Content\r\n\r\n"},
        {1, "", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
        {0, "ab", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"},
        {0, "abc", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"},
        {0, "", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n"},
        {0, "", "HTTP/1.1 200 OK\r\nContent-Le"},
        {0, "", "SSH-2.0-OpenSSH\r\n"},
        {0, "", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {0, "", ""},
    };
    struct fixture f;
    struct reply r;
    int port, listener = peer_listen(&port);
    open_fixture(&f, NULL);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t step = 1; step < 1000; step *= 30) {
            size_t n = strlen(rows[i].text);
            struct http_call_options o = options_for(&r);
            start(&f, &o, &r, "http://127.0.0.1:%d/", port);
            int fd;
            UNTIL(f.loop, (fd = accept(listener, NULL, NULL)) >= 0);
            struct peer p = peer_take(fd);
            UNTIL_SAYS(f.loop, &p, "\r\n\r\n");
            for (size_t at = 0; at < n && !r.done; at += step) {
                peer_send_bytes(&p, rows[i].text + at, n - at < step ? n - at : step);
                turn(f.loop);
            }
            peer_close(&p);
            UNTIL(f.loop, r.done);
            if ((r.rc == LLM_OK) != rows[i].ok) fail_msg("step %zu: %s", step, rows[i].text);
            assert_string_equal(r.body, rows[i].body);
        }
    close(listener);
    close_fixture(&f);
}

static void test_timeouts(void **state)
{
    (void)state;
    struct fixture f;
    struct reply silent, slow;
    open_fixture(&f, NULL);
    struct http_call_options o = options_for(&silent);
    o.idle_timeout_ms = 40;
    start(&f, &o, &silent, "http://127.0.0.1:%d/hold", f.port);
    UNTIL(f.loop, silent.done);
    assert_int_equal(silent.rc, LLM_EIO);
    assert_non_null(strstr(silent.err.message, "timed out"));
    UNTIL(f.loop, f.left == 1); /* and the server learns that nobody waits */

    o = options_for(&slow);
    o.timeout_ms = 80;
    start(&f, &o, &slow, "http://127.0.0.1:%d/hold", f.port);
    UNTIL(f.loop, f.held);
    http_reply_start(f.held, 200, NULL, 0, -1);
    while (!slow.done) { /* always a byte in time, never an end */
        if (f.held) http_reply_write(f.held, ".", 1);
        turn(f.loop);
    }
    assert_non_null(strstr(slow.err.message, "limit"));
    assert_true(slow.n > 0);
    close_fixture(&f);
}

static void test_cancel_and_pause(void **state)
{
    (void)state;
    struct fixture f;
    struct reply r;
    open_fixture(&f, NULL);
    struct http_call_options o = options_for(&r);
    r.cancel_at_head = 1;
    start(&f, &o, &r, "http://127.0.0.1:%d/chunked", f.port);
    UNTIL(f.loop, r.n_heads);
    for (int i = 0; i < 5; i++) turn(f.loop);
    assert_int_equal(r.done, 0);
    assert_int_equal(r.n, 0);

    o = options_for(&r);
    r.pause_at_head = 1;
    start(&f, &o, &r, "http://127.0.0.1:%d/hold", f.port);
    UNTIL(f.loop, f.held);
    http_reply_start(f.held, 200, NULL, 0, -1);
    UNTIL(f.loop, r.n_heads);
    size_t sent = 0; /* the client does not read: the server is told to wait */
    static char block[10000];
    while (http_reply_write(f.held, block, sizeof block) == LLM_OK || sent < 100 * sizeof block) {
        sent += sizeof block;
        turn(f.loop);
        assert_true(sent < 64 << 20);
    }
    assert_int_equal(r.n, 0);
    http_reply_end(f.held);
    http_call_pause(r.call, 0);
    UNTIL(f.loop, r.done);
    assert_int_equal(r.rc, LLM_OK);
    assert_int_equal(r.n, sent + sizeof block);
    close_fixture(&f);
}

/* The server closes a kept connection at the moment of its next use: the call is made again, once. */
static void test_stale_connection(void **state)
{
    (void)state;
    struct fixture f;
    struct reply r;
    int port, listener = peer_listen(&port);
    open_fixture(&f, NULL);
    for (int round = 0; round < 2; round++) {
        struct http_call_options o = options_for(&r);
        start(&f, &o, &r, "http://127.0.0.1:%d/", port);
        int fd;
        UNTIL(f.loop, (fd = accept(listener, NULL, NULL)) >= 0);
        struct peer p = peer_take(fd);
        UNTIL_SAYS(f.loop, &p, "\r\n\r\n");
        peer_send(&p, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        UNTIL(f.loop, r.done);

        o = options_for(&r);
        o.method = round == 0 ? "GET" : "POST";
        start(&f, &o, &r, "http://127.0.0.1:%d/", port);
        peer_forget(&p);
        UNTIL_SAYS(f.loop, &p, "\r\n\r\n"); /* on the same connection */
        peer_close(&p);
        if (round == 0) {
            UNTIL(f.loop, (fd = accept(listener, NULL, NULL)) >= 0);
            p = peer_take(fd);
            UNTIL_SAYS(f.loop, &p, "GET /");
            peer_send(&p, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nagain");
            UNTIL(f.loop, r.done);
            assert_string_equal(r.body, "again");
            peer_close(&p);
        } else { /* a POST might have been acted on: the caller decides */
            UNTIL(f.loop, r.done);
            assert_int_equal(r.rc, LLM_EIO);
        }
    }
    close(listener);
    close_fixture(&f);
}

/* A certificate of localhost, another's, and clients that trust the one, the other, and anybody. */
struct tls {
    char dir[32], cert[64], key[64], other_cert[64], other_key[64];
    struct net_tls *server, *trusting, *distrusting, *careless;
};

static void open_tls(struct tls *t)
{
    struct llm_error err;
    strcpy(t->dir, "/tmp/llmlua_tls_XXXXXX");
    assert_non_null(mkdtemp(t->dir));
    snprintf(t->cert, sizeof t->cert, "%s/cert.pem", t->dir);
    snprintf(t->key, sizeof t->key, "%s/key.pem", t->dir);
    snprintf(t->other_cert, sizeof t->other_cert, "%s/cert2.pem", t->dir);
    snprintf(t->other_key, sizeof t->other_key, "%s/key2.pem", t->dir);
    make_certificate(t->cert, t->key, "DNS:localhost");
    make_certificate(t->other_cert, t->other_key, "IP:127.0.0.1");
    assert_int_equal(net_tls_server_open(t->cert, t->key, NULL, &t->server, &err), LLM_OK);
    assert_int_equal(net_tls_client_open(t->cert, 1, &t->trusting, &err), LLM_OK);
    assert_int_equal(net_tls_client_open(t->other_cert, 1, &t->distrusting, &err), LLM_OK);
    assert_int_equal(net_tls_client_open(NULL, 0, &t->careless, &err), LLM_OK);
}

static void close_tls(struct tls *t)
{
    net_tls_close(t->server);
    net_tls_close(t->trusting);
    net_tls_close(t->distrusting);
    net_tls_close(t->careless);
    unlink(t->cert);
    unlink(t->key);
    unlink(t->other_cert);
    unlink(t->other_key);
    rmdir(t->dir);
}

static void test_tls_files(void **state)
{
    (void)state;
    struct tls t;
    struct net_tls *none;
    struct llm_error err;
    open_tls(&t);
    assert_int_equal(net_tls_server_open(t.cert, t.other_key, NULL, &none, &err), LLM_EINVAL);
    assert_int_equal(net_tls_server_open("/nonexistent", t.key, NULL, &none, &err), LLM_EINVAL);
    assert_non_null(strstr(err.message, "/nonexistent: No such file"));
    close_tls(&t);
}

static void test_tls_trust(void **state)
{
    (void)state;
    struct tls t;
    struct fixture f;
    struct reply r;
    open_tls(&t);
    open_fixture(&f, t.server);
    const struct {
        const char *host;
        struct net_tls *tls;
        int ok;
    } rows[] = {{"localhost", t.trusting, 1},
                {"127.0.0.1", t.trusting, 0},
                {"localhost", t.distrusting, 0},
                {"127.0.0.1", t.careless, 1}};
    for (size_t i = 0; i < 4; i++) {
        struct http_call_options o = options_for(&r);
        o.tls = rows[i].tls;
        start(&f, &o, &r, "https://%s:%d/tls", rows[i].host, f.port);
        UNTIL(f.loop, r.done);
        if ((r.rc == LLM_OK) != rows[i].ok) fail_msg("row %zu: %s", i, r.err.message);
        if (rows[i].ok)
            assert_string_equal(r.body, "yes");
        else
            assert_non_null(strstr(r.err.message, "TLS"));
    }
    close_fixture(&f);
    close_tls(&t);
}

/* More than a record in each direction, and the kept connection again. */
static void test_tls_large_bodies(void **state)
{
    (void)state;
    static char big[300000];
    struct tls t;
    struct fixture f;
    struct reply r;
    open_tls(&t);
    open_fixture(&f, t.server);
    memset(big, 'b', sizeof big);
    for (int i = 0; i < 2; i++) {
        struct http_call_options o = options_for(&r);
        o.tls = t.trusting;
        o.method = "POST";
        o.body = big;
        o.body_bytes = sizeof big;
        start(&f, &o, &r, "https://localhost:%d/", f.port);
        UNTIL(f.loop, r.done);
        if (r.rc) fail_msg("%s", r.err.message);
        assert_int_equal(r.n, sizeof big);
    }
    close_fixture(&f);
    close_tls(&t);
}

/* Plain text at a TLS port, and TLS at a plain one. */
static void test_tls_beside_plain_text(void **state)
{
    (void)state;
    struct tls t;
    struct fixture f;
    struct reply r;
    open_tls(&t);
    open_fixture(&f, t.server);
    struct peer p = peer_connect(f.port);
    peer_send(&p, "GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    UNTIL_CLOSED(f.loop, &p);
    peer_close(&p);
    close_fixture(&f);
    open_fixture(&f, NULL);
    struct http_call_options o = options_for(&r);
    o.tls = t.careless;
    start(&f, &o, &r, "https://127.0.0.1:%d/", f.port);
    UNTIL(f.loop, r.done);
    assert_int_equal(r.rc, LLM_EIO);
    close_fixture(&f);
    close_tls(&t);
}

/* ---- the loop itself ----------------------------------------------------------------------------------- */

static void *stop_soon(void *loop)
{
    nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
    net_loop_stop(loop);
    return NULL;
}

static void test_stop(void **state)
{
    (void)state;
    struct net_loop *loop;
    pthread_t thread;
    assert_int_equal(net_loop_open(&loop, NULL), LLM_OK);
    for (int i = 0; i < 3; i++) { /* while it waits */
        pthread_create(&thread, NULL, stop_soon, loop);
        assert_int_equal(net_loop_run(loop, NULL), LLM_OK);
        pthread_join(thread, NULL);
    }
    net_loop_stop(loop); /* before it begins */
    assert_int_equal(net_loop_run(loop, NULL), LLM_OK);
    net_loop_close(loop);
}

struct ticking {
    struct net_loop *loop;
    struct net_timer *timer;
    struct net_watch *watch;
    int n, n_readable, pipe[2];
};

static void on_tick(void *ud)
{
    struct ticking *t = ud;
    if (++t->n < 3)
        net_timer_start(t->timer, 1);
    else
        net_timer_close(t->timer); /* in its own callback */
}

static void on_readable(void *ud)
{
    struct ticking *t = ud;
    t->n_readable++;
    net_watch_close(t->watch);
}

static void test_timers_and_watches(void **state)
{
    (void)state;
    struct ticking t = {0};
    assert_int_equal(net_loop_open(&t.loop, NULL), LLM_OK);
    assert_int_equal(net_timer_open(t.loop, on_tick, &t, &t.timer, NULL), LLM_OK);
    int64_t begin = net_now_ms();
    net_timer_start(t.timer, 20);
    UNTIL(t.loop, t.n == 3);
    assert_true(net_now_ms() - begin >= 20);
    assert_int_equal(pipe(t.pipe), 0);
    assert_int_equal(net_watch_open(t.loop, t.pipe[0], on_readable, &t, &t.watch, NULL), LLM_OK);
    turn(t.loop);
    assert_int_equal(t.n_readable, 0);
    assert_int_equal(write(t.pipe[1], "x", 1), 1);
    UNTIL(t.loop, t.n_readable == 1);
    turn(t.loop);
    assert_int_equal(t.n_readable, 1); /* closed, though still readable */
    close(t.pipe[0]);
    close(t.pipe[1]);
    net_loop_close(t.loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_requests),
        cmocka_unit_test(test_bad_arguments),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_responses),
        cmocka_unit_test(test_timeouts),
        cmocka_unit_test(test_cancel_and_pause),
        cmocka_unit_test(test_stale_connection),
        cmocka_unit_test(test_tls_files),
        cmocka_unit_test(test_tls_trust),
        cmocka_unit_test(test_tls_large_bodies),
        cmocka_unit_test(test_tls_beside_plain_text),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_timers_and_watches),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
