#include "model/json_pull.h"

#include "base/mem.h"
#include "model/utf8.h"

#include <string.h>

void json_pull_open(struct json_pull *p, const char *json, size_t bytes)
{
    memset(p, 0, sizeof *p);
    p->start = p->at = json;
    p->end = json + bytes;
}

void json_pull_close(struct json_pull *p)
{
    mem_free(p->text);
}

llm_status json_pull_status(const struct json_pull *p, struct llm_error *err)
{
    if (p->out_of_memory) return llm_fail(err, LLM_ENOMEM, "no memory to read JSON");
    if (p->error)
        return llm_fail(err, LLM_EFORMAT, "JSON: %s at byte %zu", p->error, (size_t)(p->at - p->start));
    return LLM_OK;
}

static int fail(struct json_pull *p, const char *error)
{
    if (!p->error) p->error = error;
    return 0;
}

int json_pull_peek(struct json_pull *p)
{
    if (p->error) return 0;
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\n' || *p->at == '\t' || *p->at == '\r')) p->at++;
    return p->at < p->end ? (uint8_t)*p->at : 0;
}

static int expect(struct json_pull *p, char c, const char *error)
{
    if (json_pull_peek(p) != (uint8_t)c || p->error) return fail(p, error);
    p->at++;
    return 1;
}

void json_pull_enter(struct json_pull *p, char bracket)
{
    expect(p, bracket, bracket == '{' ? "an object expected" : "an array expected");
}

int json_pull_next(struct json_pull *p, char bracket, int *first)
{
    int c = json_pull_peek(p);
    if (p->error) return 0;
    if (c == (bracket == '{' ? '}' : ']')) {
        p->at++;
        return 0;
    }
    if (!*first && !expect(p, ',', "a comma expected")) return 0;
    *first = 0;
    if (bracket == '[') return json_pull_peek(p) ? 1 : fail(p, "the text ends in an array");
    return json_pull_string(p) && expect(p, ':', "a colon expected");
}

static int append(struct json_pull *p, const char *s, size_t n)
{
    if (p->text_size + n + 1 > p->text_capacity) {
        size_t capacity = (p->text_size + n + 1) * 2 + 64;
        char *text = mem_grow(p->text, capacity, 1);
        if (!text) {
            p->out_of_memory = 1;
            return fail(p, "out of memory");
        }
        p->text = text;
        p->text_capacity = capacity;
    }
    if (n) memcpy(p->text + p->text_size, s, n);
    p->text_size += n;
    p->text[p->text_size] = '\0';
    return 1;
}

static int hex4(struct json_pull *p, uint32_t *out)
{
    *out = 0;
    if (p->end - p->at < 4) return fail(p, "an unfinished \\u escape");
    for (int i = 0; i < 4; i++) {
        char c = *p->at++;
        uint32_t digit;
        if (c >= '0' && c <= '9')
            digit = (uint32_t)(c - '0');
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            digit = (uint32_t)((c | 32) - 'a' + 10);
        else
            return fail(p, "a malformed \\u escape");
        *out = *out << 4 | digit;
    }
    return 1;
}

static int unescape(struct json_pull *p)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    if (p->at == p->end) return fail(p, "the text ends in a string");
    char c = *p->at++;
    if (c != 'u') {
        const char *found = c ? strchr(from, c) : NULL;
        return found ? append(p, &to[found - from], 1) : fail(p, "an unknown escape");
    }
    uint32_t cp, low;
    if (!hex4(p, &cp)) return 0;
    if (cp >= 0xd800 && cp <= 0xdbff) {
        if (p->end - p->at < 6 || p->at[0] != '\\' || p->at[1] != 'u')
            return fail(p, "half a surrogate pair");
        p->at += 2;
        if (!hex4(p, &low)) return 0;
        if (low < 0xdc00 || low > 0xdfff) return fail(p, "half a surrogate pair");
        cp = 0x10000 + ((cp - 0xd800) << 10) + (low - 0xdc00);
    } else if (cp >= 0xdc00 && cp <= 0xdfff) {
        return fail(p, "half a surrogate pair");
    }
    char utf8[4];
    return append(p, utf8, utf8_put(cp, utf8));
}

int json_pull_string(struct json_pull *p)
{
    if (!expect(p, '"', "a string expected")) return 0;
    p->text_size = 0;
    if (!append(p, "", 0)) return 0;
    for (;;) {
        const char *begin = p->at;
        while (p->at < p->end && *p->at != '"' && *p->at != '\\' && (uint8_t)*p->at >= 0x20) p->at++;
        if (!append(p, begin, (size_t)(p->at - begin))) return 0;
        if (p->at == p->end) return fail(p, "the text ends in a string");
        if ((uint8_t)*p->at < 0x20) return fail(p, "a control character in a string");
        if (*p->at++ == '"') break;
        if (!unescape(p)) return 0;
    }
    return utf8_valid(p->text, p->text_size) ? 1 : fail(p, "a string that is no UTF-8");
}

int64_t json_pull_int(struct json_pull *p)
{
    int c = json_pull_peek(p), negative = c == '-';
    if (p->error) return 0;
    if (negative) p->at++;
    const char *begin = p->at;
    int64_t value = 0;
    while (p->at < p->end && *p->at >= '0' && *p->at <= '9') {
        if (p->at - begin >= 18) return fail(p, "a number too large");
        value = value * 10 + (*p->at++ - '0');
    }
    if (p->at == begin) return fail(p, "an integer expected");
    return negative ? -value : value;
}

/* Past the string at p, p->at being its opening quote. */
static int skip_string(struct json_pull *p)
{
    const char *at = p->at + 1;
    while (at < p->end && *at != '"') at += *at == '\\' ? 2 : 1;
    if (at >= p->end) return fail(p, "the text ends in a string");
    p->at = at + 1;
    return 1;
}

/* What is passed over is only measured: whoever takes the part reads it strictly. */
const char *json_pull_skip(struct json_pull *p, size_t *size)
{
    int c = json_pull_peek(p);
    const char *begin = p->at;
    int64_t depth = 0;
    *size = 0;
    if (p->error) return begin;
    if (!c || strchr(",:]}", c)) {
        fail(p, "a value expected");
        return begin;
    }
    if (c == '"') {
        skip_string(p);
    } else if (c == '{' || c == '[') {
        do {
            if (p->at >= p->end) {
                fail(p, "the text ends in a value");
                break;
            }
            c = *p->at;
            if (c == '"') {
                if (!skip_string(p)) break;
                continue;
            }
            depth += (c == '{' || c == '[') - (c == '}' || c == ']');
            p->at++;
        } while (depth > 0);
    } else {
        while (p->at < p->end && *p->at && !strchr(",]} \n\r\t", *p->at)) p->at++;
    }
    *size = (size_t)(p->at - begin);
    return begin;
}
