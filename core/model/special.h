#ifndef LLM_MODEL_SPECIAL_H
#define LLM_MODEL_SPECIAL_H

/* Finding tokens that stand apart from the model in text: control tokens, user-defined and added ones.
 * Immutable once sealed; finding needs memory of its own and may run on any thread. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

enum special_flags {
    SPECIAL_CONTROL = 1,     /* looked for only when control tokens are to be parsed */
    SPECIAL_STRIP_LEFT = 2,  /* takes the white space before it along */
    SPECIAL_STRIP_RIGHT = 4, /* … and after it */
    SPECIAL_SINGLE_WORD = 8  /* not within a word */
};

enum special_order {
    SPECIAL_LONGEST_FIRST, /* llama.cpp: the longest tokens are cut out everywhere first, then shorter ones */
    SPECIAL_LEFTMOST       /* Hugging Face: from left to right, the longest at each place */
};

struct special_set;

llm_status special_open(enum special_order order, struct special_set **out, struct llm_error *err);
void special_close(struct special_set *set);
/* Empty texts are ignored. Errors: LLM_ENOMEM. */
llm_status special_add(struct special_set *set, const char *text, size_t size, int32_t id, unsigned flags,
                       struct llm_error *err);
/* Before the first special_split. Errors: LLM_ENOMEM. */
llm_status special_seal(struct special_set *set, struct llm_error *err);

/* Receives, in order, stretches of text (id -1, size > 0) and tokens (their id). */
typedef llm_status special_fn(void *ud, const char *text, size_t size, int32_t id, struct llm_error *err);

/* parse_control: look for SPECIAL_CONTROL tokens too. Errors: LLM_ENOMEM, those of fn. */
llm_status special_split(const struct special_set *set, const char *text, size_t size, int parse_control,
                         special_fn *fn, void *ud, struct llm_error *err);

#endif
