#include "net/http_parse.h"

#include <string.h>
#include <strings.h>

/* Room for the method, the version and the spaces of a request line, beside its target. */
enum { LINE_EXTRA = 64, MAX_METHOD = 32, MAX_CHUNK_LINE = 256, MAX_TRAILERS = 8192 };

/* RFC 9110 §5.6.2: what names and methods are made of. */
static const unsigned char token_char[256] = {
    ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1, ['!'] = 1, ['#'] = 1, ['$'] = 1,
    ['%'] = 1,         ['&'] = 1,         ['\''] = 1,        ['*'] = 1, ['+'] = 1, ['-'] = 1,
    ['.'] = 1,         ['^'] = 1,         ['_'] = 1,         ['`'] = 1, ['|'] = 1, ['~'] = 1,
};

/* RFC 3986 host and port, as a Host value: nothing that could be taken for a path, a query or user data. */
static const unsigned char host_char[256] = {
    ['0' ... '9'] = 1, ['A' ... 'Z'] = 1, ['a' ... 'z'] = 1, ['-'] = 1, ['.'] = 1, ['_'] = 1,
    ['~'] = 1,         ['%'] = 1,         ['!'] = 1,         ['$'] = 1, ['&'] = 1, ['\''] = 1,
    ['('] = 1,         [')'] = 1,         ['*'] = 1,         ['+'] = 1, [','] = 1, [';'] = 1,
    ['='] = 1,         [':'] = 1,         ['['] = 1,         [']'] = 1,
};

static int value_char(unsigned char c)
{
    return c == '\t' || (c >= ' ' && c != 0x7f);
}

ptrdiff_t http_head_scan(const char *data, size_t n, struct http_scan *scan, const struct http_limits *limits)
{
    size_t max_line = limits->max_target + LINE_EXTRA;
    size_t bound = n < limits->max_head ? n : limits->max_head;
    if (scan->line == 0)
        for (size_t i = scan->seen; i < bound && data[i] != '\n'; i++) {
            if (i >= max_line) return -414;
            /* A TLS hello or other binary noise is answered now, not after the time-out. */
            if ((unsigned char)data[i] < ' ' && data[i] != '\r') return -400;
        }
    while (scan->seen < bound) {
        const char *lf = memchr(data + scan->seen, '\n', bound - scan->seen);
        if (!lf) {
            scan->seen = bound;
            break;
        }
        size_t at = (size_t)(lf - data);
        if (at == 0 || data[at - 1] != '\r') return -400;
        scan->seen = at + 1;
        if (at - scan->line == 1) return (ptrdiff_t)(at + 1);
        scan->line = at + 1;
    }
    return n >= limits->max_head ? -431 : 0;
}

const struct net_str *http_find(const struct http_field *fields, int32_t n, const char *name)
{
    for (int32_t i = 0; i < n; i++)
        if (net_str_is(fields[i].name, name)) return &fields[i].value;
    return NULL;
}

int http_field_valid(const struct http_field *field)
{
    if (field->name.size == 0) return 0;
    for (size_t i = 0; i < field->name.size; i++)
        if (!token_char[(unsigned char)field->name.data[i]]) return 0;
    for (size_t i = 0; i < field->value.size; i++)
        if (!value_char((unsigned char)field->value.data[i])) return 0;
    return 1;
}

static int fail(const char **why, int status, const char *text)
{
    *why = text;
    return -status;
}

/* One line "name: value" without its CRLF. */
static int parse_field(char *line, char *end, struct http_field *field, const char **why)
{
    char *p = line;
    while (p < end && token_char[(unsigned char)*p]) {
        if (*p >= 'A' && *p <= 'Z') *p = (char)(*p | 0x20);
        p++;
    }
    if (p == line || p == end || *p != ':') {
        if (*line == ' ' || *line == '\t') return fail(why, 400, "folded header lines are not accepted");
        return fail(why, 400, "malformed header name");
    }
    field->name = (struct net_str){line, (size_t)(p - line)};
    *p++ = '\0';
    while (p < end && (*p == ' ' || *p == '\t')) p++;
    while (end > p && (end[-1] == ' ' || end[-1] == '\t')) end--;
    for (char *c = p; c < end; c++)
        if (!value_char((unsigned char)*c)) return fail(why, 400, "control character in a header value");
    *end = '\0';
    field->value = (struct net_str){p, (size_t)(end - p)};
    return 0;
}

static int parse_fields(char *p, char *end, const struct http_limits *limits, struct http_head *head,
                        const char **why)
{
    head->n_fields = 0;
    while (end - p > 2) { /* the empty line is left */
        char *lf = memchr(p, '\n', (size_t)(end - p));
        if (head->n_fields == limits->max_fields) return fail(why, 431, "too many header fields");
        int rc = parse_field(p, lf - 1, &head->fields[head->n_fields], why);
        if (rc) return rc;
        head->n_fields++;
        p = lf + 1;
    }
    return 0;
}

static int parse_length(struct net_str value, int64_t *out)
{
    int64_t length = 0;
    if (value.size == 0 || value.size > 18) return -1; /* 18 digits fit an int64_t */
    for (size_t i = 0; i < value.size; i++) {
        if (value.data[i] < '0' || value.data[i] > '9') return -1;
        length = length * 10 + (value.data[i] - '0');
    }
    *out = length;
    return 0;
}

/* Reads "close" and "keep-alive" from a comma-separated list. */
static void parse_connection(struct net_str value, int *close, int *keep)
{
    const char *p = value.data, *end = value.data + value.size;
    while (p < end) {
        while (p < end && (*p == ' ' || *p == '\t' || *p == ',')) p++;
        const char *begin = p;
        while (p < end && *p != ',') p++;
        struct net_str token = {begin, (size_t)(p - begin)};
        while (token.size > 0 && (token.data[token.size - 1] == ' ' || token.data[token.size - 1] == '\t'))
            token.size--;
        if (net_str_is_nocase(token, "close")) *close = 1;
        if (net_str_is_nocase(token, "keep-alive")) *keep = 1;
    }
}

/* The fields that decide where the message ends and whether another one follows. */
static int parse_framing(struct http_head *head, const char **why)
{
    int n_lengths = 0, n_codings = 0, close = 0, keep = 0;
    head->content_length = -1;
    head->chunked = 0;
    for (int32_t i = 0; i < head->n_fields; i++) {
        const struct http_field *field = &head->fields[i];
        if (net_str_is(field->name, "content-length")) {
            if (n_lengths++) return fail(why, 400, "repeated Content-Length");
            if (parse_length(field->value, &head->content_length))
                return fail(why, 400, "malformed Content-Length");
        } else if (net_str_is(field->name, "transfer-encoding")) {
            if (n_codings++) return fail(why, 400, "repeated Transfer-Encoding");
            if (!net_str_is_nocase(field->value, "chunked"))
                return fail(why, 501, "the only transfer coding here is chunked");
            head->chunked = 1;
        } else if (net_str_is(field->name, "connection")) {
            parse_connection(field->value, &close, &keep);
        }
    }
    if (n_lengths && n_codings) return fail(why, 400, "both Content-Length and Transfer-Encoding");
    if (n_codings && head->minor == 0) return fail(why, 400, "Transfer-Encoding in HTTP/1.0");
    head->keep_alive = !close && (head->minor >= 1 || keep);
    return 0;
}

static int parse_host_and_expect(struct http_head *head, const char **why)
{
    int n_hosts = 0;
    head->expect_continue = 0;
    for (int32_t i = 0; i < head->n_fields; i++) {
        const struct http_field *field = &head->fields[i];
        if (net_str_is(field->name, "host")) {
            if (n_hosts++) return fail(why, 400, "repeated Host");
            for (size_t k = 0; k < field->value.size; k++)
                if (!host_char[(unsigned char)field->value.data[k]]) return fail(why, 400, "malformed Host");
        } else if (net_str_is(field->name, "expect")) {
            if (!net_str_is_nocase(field->value, "100-continue"))
                return fail(why, 417, "the only expectation here is 100-continue");
            head->expect_continue = head->minor >= 1; /* HTTP/1.0 has no interim responses */
        }
    }
    if (n_hosts == 0 && head->minor >= 1) return fail(why, 400, "no Host header");
    return 0;
}

/* "HTTP/1.x" exactly; any 1.x above 1.1 speaks 1.1 with us. */
static int parse_version(const char *p, size_t n, int *minor, const char **why)
{
    if (n != 8 || memcmp(p, "HTTP/", 5) != 0 || p[6] != '.' || p[5] < '0' || p[5] > '9' || p[7] < '0' ||
        p[7] > '9')
        return fail(why, 400, "malformed HTTP version");
    if (p[5] != '1') return fail(why, 505, "this server speaks HTTP/1.1 and HTTP/1.0");
    *minor = p[7] == '0' ? 0 : 1;
    return 0;
}

static int parse_request_line(char *line, char *end, const struct http_limits *limits, struct http_head *head,
                              const char **why)
{
    char *p = line;
    while (p < end && token_char[(unsigned char)*p]) p++;
    if (p == line || p == end || *p != ' ' || p - line > MAX_METHOD)
        return fail(why, 400, "malformed request line");
    head->method = (struct net_str){line, (size_t)(p - line)};
    *p++ = '\0';
    char *target = p;
    while (p<end && * p> ' ' && *p < 0x7f && *p != '#') p++;
    if (p == target || p == end || *p != ' ') return fail(why, 400, "malformed request target");
    head->target = (struct net_str){target, (size_t)(p - target)};
    *p++ = '\0';
    int rc = parse_version(p, (size_t)(end - p), &head->minor, why);
    if (rc) return rc;
    if (head->target.size > limits->max_target) return fail(why, 414, "request target too long");
    return 0;
}

int http_request_parse(char *data, size_t n, const struct http_limits *limits, struct http_head *head,
                       const char **why)
{
    char *lf = memchr(data, '\n', n);
    int rc = parse_request_line(data, lf - 1, limits, head, why);
    if (!rc) rc = parse_fields(lf + 1, data + n, limits, head, why);
    if (!rc) rc = parse_framing(head, why);
    if (!rc) rc = parse_host_and_expect(head, why);
    return rc;
}

static int parse_status_line(const char *line, const char *end, struct http_head *head, const char **why)
{
    if (end - line < 12 || line[8] != ' ') return fail(why, 502, "malformed status line");
    if (parse_version(line, 8, &head->minor, why)) return -502;
    int status = 0;
    for (int i = 9; i < 12; i++) {
        if (line[i] < '0' || line[i] > '9') return fail(why, 502, "malformed status code");
        status = status * 10 + (line[i] - '0');
    }
    if (status < 100 || status > 599) return fail(why, 502, "status code out of range");
    /* RFC 9112 §4 wants a space even before an empty reason; many servers leave it out. */
    if (end - line > 12 && line[12] != ' ') return fail(why, 502, "malformed status line");
    for (const char *p = line + 12; p < end; p++)
        if (!value_char((unsigned char)*p)) return fail(why, 502, "control character in the status line");
    head->status = status;
    return 0;
}

int http_response_parse(char *data, size_t n, const struct http_limits *limits, struct http_head *head,
                        const char **why)
{
    char *lf = memchr(data, '\n', n);
    int rc = parse_status_line(data, lf - 1, head, why);
    if (!rc) rc = parse_fields(lf + 1, data + n, limits, head, why);
    if (!rc) rc = parse_framing(head, why);
    return rc ? -502 : 0;
}

/* ---- chunked bodies ------------------------------------------------------------------------------------ */

enum chunked_state {
    CHUNK_SIZE,
    CHUNK_EXTENSION,
    CHUNK_SIZE_LF,
    CHUNK_DATA,
    CHUNK_DATA_CR,
    CHUNK_DATA_LF,
    TRAILER_BEGIN,
    TRAILER_NAME,
    TRAILER_VALUE,
    TRAILER_LF,
    LAST_LF,
    CHUNK_DONE
};

static int chunk_size_char(struct http_chunked *d, unsigned char c)
{
    int value = c >= '0' && c <= '9'                     ? c - '0'
                : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                         : -1;
    if (value >= 0) {
        if (d->digits == 15) return -400; /* 60 bits: far beyond any limit, and no overflow */
        d->left = d->left << 4 | (uint64_t)value;
        d->digits++;
        return 0;
    }
    if (d->digits == 0 || (c != ';' && c != '\r')) return -400;
    d->state = c == ';' ? CHUNK_EXTENSION : CHUNK_SIZE_LF;
    return 0;
}

/* One byte outside of chunk data. */
static int chunked_char(struct http_chunked *d, unsigned char c)
{
    switch ((enum chunked_state)d->state) {
    case CHUNK_SIZE:
        return chunk_size_char(d, c);
    case CHUNK_EXTENSION:
        if (++d->line > MAX_CHUNK_LINE) return -400;
        if (c == '\r')
            d->state = CHUNK_SIZE_LF;
        else if (!value_char(c))
            return -400;
        return 0;
    case CHUNK_SIZE_LF:
        if (c != '\n') return -400;
        d->line = d->digits = 0;
        d->state = d->left ? CHUNK_DATA : TRAILER_BEGIN;
        return 0;
    case CHUNK_DATA_CR:
        d->state = CHUNK_DATA_LF;
        return c == '\r' ? 0 : -400;
    case CHUNK_DATA_LF:
        d->state = CHUNK_SIZE;
        return c == '\n' ? 0 : -400;
    case TRAILER_BEGIN:
        if (c == '\r') {
            d->state = LAST_LF;
            return 0;
        }
        d->state = TRAILER_NAME;
        d->line++;
        return token_char[c] ? 0 : -400;
    case TRAILER_NAME:
        if (++d->line > MAX_TRAILERS) return -431;
        if (c == ':')
            d->state = TRAILER_VALUE;
        else if (!token_char[c])
            return -400;
        return 0;
    case TRAILER_VALUE:
        if (++d->line > MAX_TRAILERS) return -431;
        if (c == '\r')
            d->state = TRAILER_LF;
        else if (!value_char(c))
            return -400;
        return 0;
    case TRAILER_LF:
        d->state = TRAILER_BEGIN;
        return c == '\n' ? 0 : -400;
    case LAST_LF:
        d->state = CHUNK_DONE;
        return c == '\n' ? 0 : -400;
    case CHUNK_DATA:
    case CHUNK_DONE:
        break;
    }
    return -400;
}

int http_chunked_next(struct http_chunked *d, const char *data, size_t n, size_t *used, struct net_str *piece)
{
    size_t i = 0;
    while (i < n && d->state != CHUNK_DONE) {
        if (d->state == CHUNK_DATA) {
            size_t part = n - i < d->left ? n - i : (size_t)d->left;
            *piece = (struct net_str){data + i, part};
            *used = i + part;
            d->left -= part;
            if (d->left == 0) d->state = CHUNK_DATA_CR;
            return HTTP_CHUNKED_DATA;
        }
        int rc = chunked_char(d, (unsigned char)data[i++]);
        if (rc < 0) {
            *used = i;
            return rc;
        }
    }
    *used = i;
    return d->state == CHUNK_DONE ? HTTP_CHUNKED_END : HTTP_CHUNKED_MORE;
}

const char *http_status_text(int status)
{
    static const struct {
        int status;
        const char *text;
    } names[] = {
        {100, "Continue"},
        {101, "Switching Protocols"},
        {200, "OK"},
        {201, "Created"},
        {202, "Accepted"},
        {204, "No Content"},
        {206, "Partial Content"},
        {301, "Moved Permanently"},
        {302, "Found"},
        {303, "See Other"},
        {304, "Not Modified"},
        {307, "Temporary Redirect"},
        {308, "Permanent Redirect"},
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {410, "Gone"},
        {411, "Length Required"},
        {412, "Precondition Failed"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {417, "Expectation Failed"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {502, "Bad Gateway"},
        {503, "Service Unavailable"},
        {504, "Gateway Timeout"},
        {505, "HTTP Version Not Supported"},
    };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (names[i].status == status) return names[i].text;
    return "Unknown";
}
