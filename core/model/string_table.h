#ifndef LLM_MODEL_STRING_TABLE_H
#define LLM_MODEL_STRING_TABLE_H

/* An append-only table of byte strings numbered from 0, with look-up by content: the texts of a vocabulary,
 * and after them the results of merges that no token has. Not safe to change while others read. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

/* The hash is kept so that a look-up touches the text of no string but the one it finds. */
struct string_slot {
    uint32_t hash;
    int32_t id; /* -1: free */
};

struct strings {
    char *blob; /* all strings, one after the other */
    size_t blob_size, blob_capacity;
    size_t *begin; /* [n + 1] offsets into blob */
    int32_t n, capacity;
    struct string_slot *slots; /* open addressing, a power of two of them */
    uint32_t slot_mask;
    int32_t n_hashed;
};

/* Room for about `expected` strings without rehashing. Errors: LLM_ENOMEM. */
llm_status strings_open(struct strings *t, int32_t expected, struct llm_error *err);
void strings_close(struct strings *t);

/* Appends; the new string's number is t->n - 1. It is found by content only if `findable` and if no equal
 * string was findable before. Errors: LLM_ENOMEM. */
llm_status strings_add(struct strings *t, const char *s, size_t size, int findable, struct llm_error *err);

/* Number of the findable string with this content, -1: none. */
int32_t strings_find(const struct strings *t, const char *s, size_t size);

static inline const char *strings_at(const struct strings *t, int32_t i, size_t *size)
{
    *size = t->begin[i + 1] - t->begin[i];
    return t->blob + t->begin[i];
}

#endif
