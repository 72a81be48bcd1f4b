#include "graph/text.h"

#include "base/mem.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

void text_add(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (n < 0 || t->failed) return;
    if (t->n + (size_t)n + 1 > t->room) {
        size_t room = 2 * t->room + (size_t)n + 256;
        char *s = mem_grow(t->s, room, 1);
        if (!s) {
            t->failed = 1;
            return;
        }
        t->s = s;
        t->room = room;
    }
    va_start(args, format);
    vsnprintf(t->s + t->n, t->room - t->n, format, args);
    va_end(args);
    t->n += (size_t)n;
}

void text_number(struct text *t, double v)
{
    char digits[40];
    for (int precision = 15; precision <= 17; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, v);
        if (strtod(digits, NULL) == v) break;
    }
    text_add(t, "%s", digits);
}

llm_status text_take(struct text *t, char **out, size_t *bytes, struct llm_error *err)
{
    text_add(t, "%s", "");
    if (t->failed) {
        mem_free(t->s);
        return llm_fail(err, LLM_ENOMEM, "no memory for the text of a graph");
    }
    *out = t->s;
    if (bytes) *bytes = t->n;
    return LLM_OK;
}
