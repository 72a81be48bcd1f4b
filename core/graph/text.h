#ifndef LLM_GRAPH_TEXT_H
#define LLM_GRAPH_TEXT_H

/* A string that grows. A failed allocation is remembered and told at the end, so that what writes needs no
 * checks. */

#include "base/status.h"

#include <stddef.h>

struct text {
    char *s;
    size_t n, room;
    int failed;
};

void text_add(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* The fewest digits that read as the same number. */
void text_number(struct text *t, double v);

/* Gives the string away. Errors: LLM_ENOMEM. */
llm_status text_take(struct text *t, char **out, size_t *bytes, struct llm_error *err);

#endif
