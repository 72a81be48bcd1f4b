#ifndef LLM_MODEL_REGEX_DIALECT_H
#define LLM_MODEL_REGEX_DIALECT_H

#include "base/status.h"

#include <stddef.h>

/* Rewrites a pattern for PCRE2 so that it means what Oniguruma (Hugging Face's engine) and llama.cpp mean:
 * \s and \S as White_Space spelt out, \d as Nd, \h as a hexadecimal digit, brackets within brackets as a
 * union. *out is owned by the caller (mem_free), NUL-terminated. Errors: LLM_ENOMEM, LLM_EUNSUP (set
 * intersection, negated nested sets). */
llm_status regex_translate(const char *pattern, size_t size, char **out, struct llm_error *err);

#endif
