#include "net/url.h"

#include <string.h>
#include <strings.h>

int net_str_is(struct net_str s, const char *text)
{
    return strlen(text) == s.size && memcmp(s.data, text, s.size) == 0;
}

int net_str_is_nocase(struct net_str s, const char *text)
{
    return strlen(text) == s.size && strncasecmp(s.data, text, s.size) == 0;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

ptrdiff_t net_percent_decode(struct net_str in, int plus_is_space, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < in.size; i++) {
        char c = in.data[i];
        if (c == '%') {
            if (in.size - i < 3) return -1;
            int high = hex_value(in.data[i + 1]), low = hex_value(in.data[i + 2]);
            if (high < 0 || low < 0 || (high | low) == 0) return -1;
            c = (char)(high << 4 | low);
            i += 2;
        } else if (c == '+' && plus_is_space) {
            c = ' ';
        }
        out[n++] = c;
    }
    return (ptrdiff_t)n;
}

int net_query_next(struct net_str *query, struct net_str *key, struct net_str *value)
{
    while (query->size > 0) {
        const char *amp = memchr(query->data, '&', query->size);
        struct net_str pair = {query->data, amp ? (size_t)(amp - query->data) : query->size};
        size_t taken = pair.size + (amp ? 1 : 0);
        query->data += taken;
        query->size -= taken;
        if (pair.size == 0) continue;
        const char *eq = memchr(pair.data, '=', pair.size);
        key->data = pair.data;
        key->size = eq ? (size_t)(eq - pair.data) : pair.size;
        value->data = eq ? eq + 1 : pair.data + pair.size;
        value->size = eq ? pair.size - key->size - 1 : 0;
        return 1;
    }
    return 0;
}

static int starts_with(struct net_str s, const char *prefix)
{
    size_t n = strlen(prefix);
    return s.size >= n && strncasecmp(s.data, prefix, n) == 0;
}

static int parse_port(struct net_str digits, uint16_t *out)
{
    uint32_t port = 0;
    if (digits.size == 0 || digits.size > 5) return -1;
    for (size_t i = 0; i < digits.size; i++) {
        if (digits.data[i] < '0' || digits.data[i] > '9') return -1;
        port = port * 10 + (uint32_t)(digits.data[i] - '0');
    }
    if (port == 0 || port > 65535) return -1;
    *out = (uint16_t)port;
    return 0;
}

/* Splits "host", "host:port", "[v6]" or "[v6]:port". */
static int parse_authority(struct net_str authority, struct net_url *url)
{
    const char *colon;
    size_t rest;
    if (authority.size > 0 && authority.data[0] == '[') {
        const char *close = memchr(authority.data, ']', authority.size);
        if (!close) return -1;
        url->host.data = authority.data + 1;
        url->host.size = (size_t)(close - authority.data) - 1;
        rest = (size_t)(authority.data + authority.size - close) - 1;
        colon = rest > 0 ? close + 1 : NULL;
        if (colon && *colon != ':') return -1;
    } else {
        colon = memchr(authority.data, ':', authority.size);
        url->host.data = authority.data;
        url->host.size = colon ? (size_t)(colon - authority.data) : authority.size;
    }
    if (url->host.size == 0 || url->host.size > 255) return -1;
    if (!colon) return 0;
    struct net_str digits = {colon + 1, (size_t)(authority.data + authority.size - colon) - 1};
    return parse_port(digits, &url->port);
}

llm_status net_url_parse(struct net_str text, struct net_url *out, struct llm_error *err)
{
    struct net_url url = {0};
    struct net_str rest = text;
    for (size_t i = 0; i < text.size; i++)
        if ((unsigned char)text.data[i] <= ' ' || (unsigned char)text.data[i] >= 0x7f)
            return llm_fail(err, LLM_EINVAL,
                            "URL has a space, control or non-ASCII byte at offset %zu; encode it", i);
    if (starts_with(text, "http://")) {
        url.port = 80;
        rest.data += 7;
    } else if (starts_with(text, "https://")) {
        url.tls = 1;
        url.port = 443;
        rest.data += 8;
    } else {
        return llm_fail(err, LLM_EINVAL, "URL must begin with http:// or https://");
    }
    rest.size = (size_t)(text.data + text.size - rest.data);
    size_t n = 0;
    while (n < rest.size && !strchr("/?#", rest.data[n])) n++;
    url.authority = (struct net_str){rest.data, n};
    if (n > 0 && memchr(rest.data, '@', n))
        return llm_fail(err, LLM_EINVAL, "URL carries a user name; send an Authorization header instead");
    if (n == 0 || parse_authority(url.authority, &url) != 0)
        return llm_fail(err, LLM_EINVAL, "URL has no valid host and port after its scheme");
    url.target = (struct net_str){rest.data + n, rest.size - n};
    const char *hash = url.target.size ? memchr(url.target.data, '#', url.target.size) : NULL;
    if (hash) url.target.size = (size_t)(hash - url.target.data);
    *out = url;
    return LLM_OK;
}
