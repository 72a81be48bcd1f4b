#include "model/regex_dialect.h"

#include "base/mem.h"

#include <string.h>

/* White_Space and its complement, as members of a bracket expression. PCRE2's own \s would add U+180E. */
static const char space_set[] = "\\x{9}-\\x{d}\\x{20}\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}"
                                "\\x{2029}\\x{202f}\\x{205f}\\x{3000}";
static const char nonspace_set[] =
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}\\x{21}-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{10ffff}";

struct writer {
    char *text;
    size_t n, capacity;
};

static llm_status put(struct writer *w, const char *s, size_t n, struct llm_error *err)
{
    if (w->n + n + 1 > w->capacity) {
        size_t capacity = (w->n + n + 1) * 2;
        char *text = mem_grow(w->text, capacity, 1);
        if (!text) return llm_fail(err, LLM_ENOMEM, "no memory for a regular expression");
        w->text = text;
        w->capacity = capacity;
    }
    memcpy(w->text + w->n, s, n);
    w->n += n;
    w->text[w->n] = '\0';
    return LLM_OK;
}

static llm_status put_set(struct writer *w, const char *set, int in_brackets, struct llm_error *err)
{
    llm_status status = in_brackets ? LLM_OK : put(w, "[", 1, err);
    if (!status) status = put(w, set, strlen(set), err);
    if (!status && !in_brackets) status = put(w, "]", 1, err);
    return status;
}

/* An escape at p[i], p[i] being the backslash; advances *i past it. */
static llm_status put_escape(struct writer *w, const char *p, size_t size, size_t *i, int in_brackets,
                             struct llm_error *err)
{
    if (*i + 1 >= size) return llm_fail(err, LLM_EUNSUP, "the pattern ends in a backslash");
    char c = p[*i + 1];
    *i += 2;
    switch (c) {
    case 's':
        return put_set(w, space_set, in_brackets, err);
    case 'S':
        return put_set(w, nonspace_set, in_brackets, err);
    case 'd':
        return put(w, "\\p{Nd}", 6, err);
    case 'D':
        return put(w, "\\P{Nd}", 6, err);
    case 'h':
        return put_set(w, "0-9a-fA-F", in_brackets, err);
    default:
        return put(w, p + *i - 2, 2, err);
    }
}

/* A bracket expression at p[*i] == '['. Nested ones are flattened: their union is the same set. */
static llm_status put_brackets(struct writer *w, const char *p, size_t size, size_t *i, struct llm_error *err)
{
    llm_status status = put(w, "[", 1, err);
    int depth = 1;
    size_t begin = (*i)++;
    if (*i < size && p[*i] == '^') {
        (*i)++;
        if (!status) status = put(w, "^", 1, err);
    }
    while (!status && depth > 0 && *i < size) {
        char c = p[*i];
        if (c == '\\') {
            status = put_escape(w, p, size, i, 1, err);
        } else if (c == '[' && *i + 1 < size && p[*i + 1] == ':') {
            const char *end = memchr(p + *i, ']', size - *i);
            size_t n = end ? (size_t)(end - (p + *i)) + 1 : size - *i;
            status = put(w, p + *i, n, err);
            *i += n;
        } else if (c == '[') {
            if (*i + 1 < size && p[*i + 1] == '^')
                return llm_fail(err, LLM_EUNSUP, "a negated set within a set at offset %zu", *i);
            depth++;
            (*i)++;
        } else if (c == ']') {
            depth--;
            (*i)++;
        } else if (c == '&' && *i + 1 < size && p[*i + 1] == '&') {
            return llm_fail(err, LLM_EUNSUP, "an intersection of sets at offset %zu", *i);
        } else {
            status = put(w, p + (*i)++, 1, err);
        }
    }
    if (!status && depth > 0) return llm_fail(err, LLM_EUNSUP, "the set at offset %zu has no end", begin);
    return status ? status : put(w, "]", 1, err);
}

llm_status regex_translate(const char *p, size_t size, char **out, struct llm_error *err)
{
    struct writer w = {0};
    llm_status status = put(&w, "", 0, err);
    for (size_t i = 0; !status && i < size;) {
        if (p[i] == '\\')
            status = put_escape(&w, p, size, &i, 0, err);
        else if (p[i] == '[')
            status = put_brackets(&w, p, size, &i, err);
        else
            status = put(&w, p + i++, 1, err);
    }
    if (status) {
        mem_free(w.text);
        return status;
    }
    *out = w.text;
    return LLM_OK;
}
