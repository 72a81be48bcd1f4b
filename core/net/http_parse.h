#ifndef LLM_NET_HTTP_PARSE_H
#define LLM_NET_HTTP_PARSE_H

/* HTTP/1.1 message grammar (RFC 9110, 9112): strict and bounded. It finds the end of a head in bytes that
 * arrive in any pieces, parses the head in one pass, and decodes chunked bodies incrementally. Whatever two
 * parties could read differently is refused, so that nothing can be smuggled behind a proxy: both
 * Content-Length and Transfer-Encoding, repeated lengths, bare CR or LF, folded lines, space before the
 * colon, NUL and other control bytes, anything but an exact "chunked". Pure functions; any thread.
 *
 * Errors are negative HTTP statuses, e.g. -431, which a server answers and a client takes as a broken peer.
 */

#include "net/url.h"

struct http_field {
    struct net_str name; /* lower case once parsed */
    struct net_str value;
};

struct http_limits {
    size_t max_head;    /* bytes of start line and fields with their line ends */
    size_t max_target;  /* bytes */
    int32_t max_fields; /* a head has at most so many; the caller's array has this room */
};

struct http_head {
    struct net_str method, target; /* requests */
    int status;                    /* responses */
    int minor;                     /* HTTP/1.<minor>: 0 or 1 */
    int keep_alive;                /* the peer lets the connection live on */
    int chunked;
    int expect_continue;
    int64_t content_length;    /* -1: none given */
    struct http_field *fields; /* the caller's array */
    int32_t n_fields;
};

/* Where http_head_scan stopped; zero before the first byte of a head. */
struct http_scan {
    size_t line; /* begin of the current line */
    size_t seen; /* bytes already looked at */
};

/* Looks for the end of the head that begins at data[0], of which n bytes are here; scan remembers what was
 * seen by earlier calls with fewer bytes. Returns the head's length with its empty line; 0: more is needed;
 * or -400, -414, -431. A length of 2 is a stray empty line before a request: skip it. */
ptrdiff_t http_head_scan(const char *data, size_t n, struct http_scan *scan,
                         const struct http_limits *limits);

/* Parse a whole head of n bytes, as http_head_scan measured it. head->fields is set by the caller. All
 * strings point into `data`, which is changed: names become lower case, and method, target, names and values
 * get a NUL behind them. Returns 0, or a request's -400, -414, -417, -431, -501, -505 (a response's is always
 * -502), with *why a fixed sentence for people. */
int http_request_parse(char *data, size_t n, const struct http_limits *limits, struct http_head *head,
                       const char **why);
int http_response_parse(char *data, size_t n, const struct http_limits *limits, struct http_head *head,
                        const char **why);

/* The value of the first field of that (lower-case) name, or null. */
const struct net_str *http_find(const struct http_field *fields, int32_t n, const char *name);

/* What a field to be sent must satisfy: a token for a name, no control bytes in a value. */
int http_field_valid(const struct http_field *field);

/* A chunked body. Zero-initialize. */
struct http_chunked {
    uint64_t left; /* bytes of the current chunk still to come */
    uint32_t line; /* bytes of the size line or the trailers so far */
    uint8_t state, digits;
};

enum { HTTP_CHUNKED_MORE = 0, HTTP_CHUNKED_DATA = 1, HTTP_CHUNKED_END = 2 };

/* Takes *used of the n bytes. Returns DATA: *piece is body (within `data`); call again with the rest. MORE:
 * all n bytes were taken. END: the body and its trailers (checked, dropped) are over. Or -400, -431. */
int http_chunked_next(struct http_chunked *chunked, const char *data, size_t n, size_t *used,
                      struct net_str *piece);

/* "Not Found" for 404; "Unknown" for what has no name. */
const char *http_status_text(int status);

#endif
