/* The HTTP grammar, URLs and percent-encoding: tables of what must pass, and of what must not. Every message
 * is also fed in two pieces, cut at each byte, and one byte at a time: the outcome may not depend on it. */

#include "net/http_parse.h"
#include "net/url.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct http_limits limits = {.max_head = 512, .max_target = 64, .max_fields = 8};

struct outcome {
    int status; /* 0: parsed; 1: more is needed; else what it is refused with */
    struct http_head head;
    struct http_field fields[8];
    char copy[2048];
    size_t head_bytes;
};

/* Feeds the bytes as pieces of `step` after a first one of `cut`. */
static void feed(const char *data, size_t n, size_t cut, size_t step, struct outcome *out)
{
    struct http_scan scan = {0};
    size_t here = cut;
    const char *why = NULL;
    memset(out, 0, sizeof *out);
    memcpy(out->copy, data, n);
    for (;;) {
        ptrdiff_t size = http_head_scan(out->copy, here, &scan, &limits);
        if (size < 0) {
            out->status = (int)-size;
            return;
        }
        if (size > 0) {
            out->head.fields = out->fields;
            out->head_bytes = (size_t)size;
            out->status = -http_request_parse(out->copy, (size_t)size, &limits, &out->head, &why);
            if (out->status) assert_non_null(why);
            return;
        }
        if (here == n) {
            out->status = 1;
            return;
        }
        here = here + step < n ? here + step : n;
    }
}

static int status_of(const char *data, size_t n)
{
    struct outcome whole, split;
    feed(data, n, n, 1, &whole);
    for (size_t cut = 0; cut < n; cut++) {
        feed(data, n, cut, n, &split);
        if (split.status != whole.status)
            fail_msg("cut at %zu: %d, whole: %d", cut, split.status, whole.status);
        assert_int_equal(split.head_bytes, whole.head_bytes);
        assert_int_equal(split.head.n_fields, whole.head.n_fields);
        assert_int_equal(split.head.content_length, whole.head.content_length);
    }
    feed(data, n, 1, 1, &split);
    assert_int_equal(split.status, whole.status);
    return whole.status;
}

#define GET "GET / HTTP/1.1\r\nHost: a\r\n"

static void test_accepts(void **state)
{
    (void)state;
    static const char *const good[] = {
        GET "\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost:\r\n\r\n",
        "POST /v1/completions?x=1 HTTP/1.1\r\nhOsT: [::1]:80\r\ncontent-LENGTH: 0012\r\n\r\n",
        GET "Transfer-Encoding: Chunked\r\n\r\n",
        GET "X: \t spaced out\t \r\nEmpty:\r\nBytes: \xc3\xa9\r\n\r\n",
        GET "Expect: 100-Continue\r\n\r\n",
        "GET / HTTP/1.9\r\nHost: a\r\n\r\n",
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        if (status_of(good[i], strlen(good[i])) != 0) fail_msg("refused: %s", good[i]);
}

static void test_refuses(void **state)
{
    (void)state;
    static const struct {
        int status;
        const char *text;
    } bad[] = {
        {400, "GET / HTTP/1.1\r\n\r\n"},              /* no Host */
        {400, GET "Host: b\r\n\r\n"},                 /* two */
        {400, "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"}, /* CVE-2026-48746's shape */
        {400, "GET / HTTP/1.1\r\nHost: a b\r\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n"},
        {400, "GET / HTTP/1.1\nHost: a\n\n"}, /* bare LF */
        {400, "GET / HTTP/1.1\r\nHost: a\n\r\n"},
        {400, "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n"}, /* bare CR */
        {400, GET "X: a\r\n folded\r\n\r\n"},
        {400, GET "\tX: a\r\n\r\n"},
        {400, GET "X : a\r\n\r\n"},
        {400, GET ": a\r\n\r\n"},
        {400, GET "X\r\n\r\n"},
        {400, GET "X\x01: a\r\n\r\n"},
        {400, GET "X: a\x01"
                  "b\r\n\r\n"},
        {400, GET "X: a\x7f\r\n\r\n"},
        {400, "GET  / HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET / HTTP/1.1 \r\nHost: a\r\n\r\n"},
        {400, " GET / HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /#x HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /\xc3\xa9 HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET /\r\n\r\n"}, /* HTTP/0.9 */
        {400, "G@T / HTTP/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET / http/1.1\r\nHost: a\r\n\r\n"},
        {400, "GET / HTTP/1.11\r\nHost: a\r\n\r\n"},
        {400, "\x16\x03\x01\x02"}, /* a TLS hello */
        {505, "PRI * HTTP/2.0\r\n\r\n"},
        {505, "GET / HTTP/0.9\r\nHost: a\r\n\r\n"},
        {400, GET "Content-Length: 1\r\nContent-Length: 1\r\n\r\n"},
        {400, GET "Content-Length: 1, 1\r\n\r\n"},
        {400, GET "Content-Length: +1\r\n\r\n"},
        {400, GET "Content-Length: -1\r\n\r\n"},
        {400, GET "Content-Length: 1 2\r\n\r\n"},
        {400, GET "Content-Length: 0x10\r\n\r\n"},
        {400, GET "Content-Length:\r\n\r\n"},
        {400, GET "Content-Length: 9999999999999999999\r\n\r\n"},
        {400, GET "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {400, GET "Transfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n"},
        {400, GET "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {400, "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {501, GET "Transfer-Encoding: gzip, chunked\r\n\r\n"},
        {501, GET "Transfer-Encoding: chunked, identity\r\n\r\n"},
        {501, GET "Transfer-Encoding: xchunked\r\n\r\n"},
        {417, GET "Expect: tea\r\n\r\n"},
        {431, GET "A:1\r\nA:1\r\nA:1\r\nA:1\r\nA:1\r\nA:1\r\nA:1\r\nA:1\r\n\r\n"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {

        int status = status_of(bad[i].text, strlen(bad[i].text));
        if (status != bad[i].status) fail_msg("%d, not %d: %s", status, bad[i].status, bad[i].text);
    }
    static const char nul[] = "GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n";
    assert_int_equal(status_of(nul, sizeof nul - 1), 400);
}

static void test_limits(void **state)
{
    (void)state;
    char text[1024];
    int n = sprintf(text, "GET /%0*d HTTP/1.1\r\nHost: a\r\n\r\n", 63, 0);
    assert_int_equal(status_of(text, (size_t)n), 0);
    n = sprintf(text, "GET /%0*d HTTP/1.1\r\nHost: a\r\n\r\n", 64, 0);
    assert_int_equal(status_of(text, (size_t)n), 414);
    n = sprintf(text, "GET /%0*d", 400, 0); /* no end in sight */
    assert_int_equal(status_of(text, (size_t)n), 414);
    n = sprintf(text, GET "X: %0*d\r\n\r\n", 512 - 25 - 3 - 4, 0);
    assert_int_equal(n, 512);
    assert_int_equal(status_of(text, (size_t)n), 0);
    n = sprintf(text, GET "X: %0*d\r\n\r\n", 512 - 25 - 3 - 3, 0);
    assert_int_equal(status_of(text, (size_t)n), 431);
    n = sprintf(text, GET "X: %0*d", 512, 0);
    assert_int_equal(status_of(text, (size_t)n), 431);
    assert_int_equal(status_of(GET, strlen(GET)), 1);
}

static void test_fields(void **state)
{
    (void)state;
    static const char text[] =
        "POST /a?b HTTP/1.1\r\nHost: h:1\r\nX-Thing:  two words \r\nContent-Length: 7\r\n"
        "Connection: foo, Close\r\n\r\nbody";
    struct outcome o;
    feed(text, sizeof text - 1, sizeof text - 1, 1, &o);
    assert_int_equal(o.status, 0);
    assert_int_equal(o.head_bytes, sizeof text - 1 - 4);
    assert_string_equal(o.head.method.data, "POST");
    assert_string_equal(o.head.target.data, "/a?b");
    assert_int_equal(o.head.content_length, 7);
    assert_int_equal(o.head.keep_alive, 0);
    const struct net_str *value = http_find(o.fields, o.head.n_fields, "x-thing");
    assert_non_null(value);
    assert_string_equal(value->data, "two words");
    assert_int_equal(value->size, 9);
    assert_null(http_find(o.fields, o.head.n_fields, "x-other"));
}

static void test_keep_alive(void **state)
{
    (void)state;
    static const struct {
        int keep;
        const char *text;
    } rows[] = {
        {1, GET "\r\n"},
        {0, GET "Connection: close\r\n\r\n"},
        {0, GET "Connection: keep-alive\r\nConnection: close\r\n\r\n"},
        {0, "GET / HTTP/1.0\r\n\r\n"},
        {1, "GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"},
    };
    struct outcome o;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        feed(rows[i].text, strlen(rows[i].text), strlen(rows[i].text), 1, &o);
        assert_int_equal(o.head.keep_alive, rows[i].keep);
    }
}

static void test_response(void **state)
{
    (void)state;
    static const struct {
        int status; /* 0: refused */
        const char *text;
    } rows[] = {
        {200, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"},
        {404, "HTTP/1.0 404\r\n\r\n"},
        {500, "HTTP/1.1 500 \r\n\r\n"},
        {0, "HTTP/1.1 99 No\r\n\r\n"},
        {0, "HTTP/1.1 2000 No\r\n\r\n"},
        {0, "HTTP/2.0 200 OK\r\n\r\n"},
        {0, "ICY 200 OK\r\n\r\n"},
        {0, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"},
        {0, "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"},
        {0, "\r\n\r\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char copy[256];
        struct http_field fields[8];
        struct http_head head = {.fields = fields};
        const char *why;
        strcpy(copy, rows[i].text);
        int rc = http_response_parse(copy, strlen(rows[i].text), &limits, &head, &why);
        assert_int_equal(rc, rows[i].status ? 0 : -502);
        if (rows[i].status) assert_int_equal(head.status, rows[i].status);
    }
}

/* Decodes in pieces of `step`; returns the last code; the body goes to `body`. */
static int decode(const char *data, size_t n, size_t step, char *body, size_t *used_total)
{
    struct http_chunked d = {0};
    size_t at = 0;
    *body = '\0';
    while (at < n) {
        size_t part = n - at < step ? n - at : step, used;
        struct net_str piece;
        int rc = http_chunked_next(&d, data + at, part, &used, &piece);
        if (rc == HTTP_CHUNKED_DATA) strncat(body, piece.data, piece.size);
        at += used;
        *used_total = at;
        if (rc < 0 || rc == HTTP_CHUNKED_END) return rc;
    }
    return HTTP_CHUNKED_MORE;
}

static void test_chunked(void **state)
{
    (void)state;
    static const struct {
        int rc;
        const char *body, *text;
    } rows[] = {
        {HTTP_CHUNKED_END, "", "0\r\n\r\n"},
        {HTTP_CHUNKED_END, "hello world", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"},
        {HTTP_CHUNKED_END, "0123456789abcdef",
         "00010;name=\"v\"\r\n0123456789abcdef\r\n000\r\nA: b\r\nC:\r\n\r\n"},
        {HTTP_CHUNKED_END, "0123456789", "A\r\n0123456789\r\n0\r\n\r\n"},
        {HTTP_CHUNKED_MORE, "hel", "5\r\nhel"},
        {-400, "", "\r\n"},
        {-400, "", "g\r\n"},
        {-400, "", " 5\r\nhello\r\n"},
        {-400, "", "5 \r\nhello\r\n"},
        {-400, "", "5\nhello\r\n"},
        {-400, "", "5\rhello"},
        {-400, "", "-1\r\n"},
        {-400, "", "0x5\r\nhello\r\n"},
        {-400, "", "5;a\nb\r\nhello"},
        {-400, "hello", "5\r\nhello0\r\n\r\n"},
        {-400, "hello", "5\r\nhello\n0\r\n\r\n"},
        {-400, "", "1234567890abcdef\r\n"}, /* 64 bits */
        {-400, "", "0\r\nbad trailer\r\n\r\n"},
        {-400, "", "0\r\n: x\r\n\r\n"},
        {-400, "", "0\r\nA: b\r\n folded\r\n\r\n"},
        {-400, "", "0\r\n\rX"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        for (size_t step = 1; step <= strlen(rows[i].text); step++) {
            char body[64];
            size_t used;
            int rc = decode(rows[i].text, strlen(rows[i].text), step, body, &used);
            if (rc != rows[i].rc) fail_msg("%d, not %d (step %zu): %s", rc, rows[i].rc, step, rows[i].text);
            assert_string_equal(body, rows[i].body);
            if (rc == HTTP_CHUNKED_END) assert_int_equal(used, strlen(rows[i].text));
        }
}

static void test_chunked_bounds(void **state)
{
    (void)state;
    static char flood[20000];
    char body[64];
    size_t used;
    memset(flood, 'a', sizeof flood);
    memcpy(flood, "5;", 2);
    assert_int_equal(decode(flood, sizeof flood, 100, body, &used), -400);
    memcpy(flood, "0\r\nname: ", 9);
    assert_int_equal(decode(flood, sizeof flood, 100, body, &used), -431);
    assert_true(used < 8500);
}

static void test_field_valid(void **state)
{
    (void)state;
    static const struct {
        int valid;
        const char *name, *value;
    } rows[] = {
        {1, "X-Y", "a b\tc"}, {0, "", "a"},          {0, "X Y", "a"},
        {0, "X:", "a"},       {0, "X", "a\r\nB: c"}, {0, "X", "\n"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct http_field f = {{rows[i].name, strlen(rows[i].name)}, {rows[i].value, strlen(rows[i].value)}};
        assert_int_equal(http_field_valid(&f), rows[i].valid);
    }
    assert_int_equal(http_field_valid(&(struct http_field){{"X", 1}, {"a\0b", 3}}), 0);
}

static void test_url(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host, *target;
        int port, tls;
    } good[] = {
        {"http://a", "a", "", 80, 0},
        {"HTTPS://Host.example:8443/x?y=z#frag", "Host.example", "/x?y=z", 8443, 1},
        {"http://[::1]:9/", "::1", "/", 9, 0},
        {"http://[fe80::1]?q", "fe80::1", "?q", 80, 0},
    };
    static const char *const bad[] = {
        "",           "a",           "ftp://a",     "http://",        "http:///x",
        "http://:1",  "http://a:",   "http://a:0",  "http://a:65536", "http://a:1x",
        "http://u@a", "http://a b/", "http://[::1", "http://[::1]x",  "http://\xc3\xa9/"};
    struct net_url url;
    struct llm_error err;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        assert_int_equal(net_url_parse((struct net_str){good[i].text, strlen(good[i].text)}, &url, &err),
                         LLM_OK);
        assert_true(net_str_is(url.host, good[i].host));
        assert_true(net_str_is(url.target, good[i].target));
        assert_int_equal(url.port, good[i].port);
        assert_int_equal(url.tls, good[i].tls);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        if (net_url_parse((struct net_str){bad[i], strlen(bad[i])}, &url, &err) != LLM_EINVAL)
            fail_msg("accepted: %s", bad[i]);
}

static void test_percent_and_query(void **state)
{
    (void)state;
    char out[64];
    struct net_str in = {"a%2Fb%20c+d%C3%A9", 17};
    ptrdiff_t n = net_percent_decode(in, 1, out);
    assert_int_equal(n, 9);
    assert_memory_equal(out, "a/b c d\xc3\xa9", 9);
    static const char *const bad[] = {"%", "%2", "%zz", "%00", "%-1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(net_percent_decode((struct net_str){bad[i], strlen(bad[i])}, 0, out), -1);

    struct net_str query = {"&a=1&&b=&c&=d&e=f=g", 19}, key, value;
    static const char *const pairs[][2] = {{"a", "1"}, {"b", ""}, {"c", ""}, {"", "d"}, {"e", "f=g"}};
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(net_query_next(&query, &key, &value), 1);
        assert_true(net_str_is(key, pairs[i][0]));
        assert_true(net_str_is(value, pairs[i][1]));
    }
    assert_int_equal(net_query_next(&query, &key, &value), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accepts),
        cmocka_unit_test(test_refuses),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_fields),
        cmocka_unit_test(test_keep_alive),
        cmocka_unit_test(test_response),
        cmocka_unit_test(test_chunked),
        cmocka_unit_test(test_chunked_bounds),
        cmocka_unit_test(test_field_valid),
        cmocka_unit_test(test_url),
        cmocka_unit_test(test_percent_and_query),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
