/* HTTP input: requests, responses and chunked bodies. The first two bytes choose how the rest is cut into
 * pieces; whatever the cut, the outcome must be the same as for the whole. */

#include "net/http_parse.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FIELDS = 16 };
static const struct http_limits limits = {.max_head = 2048, .max_target = 256, .max_fields = MAX_FIELDS};

struct outcome {
    ptrdiff_t head; /* of http_head_scan */
    int parsed, chunked_rc;
    size_t body_used;
    uint64_t body_hash;
};

static uint64_t hash_bytes(uint64_t hash, const char *data, size_t n)
{
    for (size_t i = 0; i < n; i++) hash = (hash ^ (unsigned char)data[i]) * 1099511628211u;
    return hash;
}

static void decode_body(const char *data, size_t n, size_t cut, size_t step, struct outcome *out)
{
    struct http_chunked d = {0};
    size_t at = 0, end = cut;
    while (at < n) {
        struct net_str piece;
        size_t used = 0;
        if (end <= at) end = at + step;
        if (end > n) end = n;
        out->chunked_rc = http_chunked_next(&d, data + at, end - at, &used, &piece);
        if (used > end - at) abort();
        if (out->chunked_rc == HTTP_CHUNKED_DATA) {
            if (piece.data < data + at || piece.data + piece.size > data + end) abort();
            out->body_hash = hash_bytes(out->body_hash, piece.data, piece.size);
        }
        at += used;
        out->body_used = at;
        if (out->chunked_rc < 0 || out->chunked_rc == HTTP_CHUNKED_END) return;
    }
    out->chunked_rc = HTTP_CHUNKED_MORE;
}

static void check_head(const char *data, size_t n, const struct http_head *head)
{
    for (int32_t i = 0; i < head->n_fields; i++) {
        const struct http_field *f = &head->fields[i];
        if (f->name.data < data || f->value.data + f->value.size >= data + n) abort();
        if (f->name.data[f->name.size] != '\0' || f->value.data[f->value.size] != '\0') abort();
        if (!http_field_valid(f)) abort();
    }
    if (head->chunked && head->content_length >= 0) abort();
}

static void feed(const char *data, size_t n, size_t cut, size_t step, struct outcome *out)
{
    struct http_scan scan = {0};
    struct http_field fields[MAX_FIELDS];
    struct http_head head = {.fields = fields};
    const char *why;
    memset(out, 0, sizeof *out);
    size_t here = cut < n ? cut : n;
    while ((out->head = http_head_scan(data, here, &scan, &limits)) == 0 && here < n)
        here = here + step < n ? here + step : n;
    if (out->head <= 2) return;
    size_t size = (size_t)out->head;
    if (size > n) abort();
    char *copy = malloc(size); /* of exact size, for the address sanitizer */
    memcpy(copy, data, size);
    out->parsed = http_request_parse(copy, size, &limits, &head, &why);
    if (out->parsed == 0) check_head(copy, size, &head);
    memcpy(copy, data, size);
    head.n_fields = 0;
    if (http_response_parse(copy, size, &limits, &head, &why) == 0) check_head(copy, size, &head);
    free(copy);
    decode_body(data + size, n - size, cut, step, out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct outcome whole, split;
    if (size < 2) return 0;
    size_t cut = data[0], step = (size_t)data[1] + 1;
    const char *text = (const char *)data + 2;
    size -= 2;
    feed(text, size, size, size + 1, &whole);
    feed(text, size, cut, step, &split);
    if (memcmp(&whole, &split, sizeof whole) != 0) abort();

    char *out = malloc(size + 1);
    net_percent_decode((struct net_str){text, size}, 1, out);
    free(out);
    struct net_url url;
    net_url_parse((struct net_str){text, size}, &url, NULL);
    return 0;
}
