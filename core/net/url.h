#ifndef LLM_NET_URL_H
#define LLM_NET_URL_H

/* Borrowed text, URLs and percent-encoding. Pure functions, any thread. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* Borrowed bytes, not NUL-terminated unless the giver says so. */
struct net_str {
    const char *data;
    size_t size;
};

/* Compares with a NUL-terminated text; net_str_is_nocase takes ASCII letters of both cases as equal. */
int net_str_is(struct net_str s, const char *text);
int net_str_is_nocase(struct net_str s, const char *text);

/* The parts of an absolute http or https URL, borrowed from the text that was parsed. */
struct net_url {
    int tls;                  /* 1: https */
    struct net_str host;      /* without the brackets of an IPv6 address */
    uint16_t port;            /* the scheme's own if the URL names none */
    struct net_str target;    /* path and query, what a request line wants; empty: ask for "/" */
    struct net_str authority; /* host and port as written, for the Host header */
};

/* Strict: no user information, no fragment sent, no white space, no control characters. Errors: LLM_EINVAL.
 */
llm_status net_url_parse(struct net_str text, struct net_url *out, struct llm_error *err);

/* Decodes %XX (and + to a space, if plus_is_space) from `in` to `out`, which has room for in.size bytes and
 * may be the same memory. Returns the bytes written, or -1: a broken escape, or a %00. */
ptrdiff_t net_percent_decode(struct net_str in, int plus_is_space, char *out);

/* Takes the next pair off a query such as "a=1&b=2"; both parts still encoded; value empty where there is no
 * '='. Returns 0 at the end. */
int net_query_next(struct net_str *query, struct net_str *key, struct net_str *value);

#endif
