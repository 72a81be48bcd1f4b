#ifndef LLM_MODEL_JSON_TEXT_H
#define LLM_MODEL_JSON_TEXT_H

/* Strict JSON into a jansson tree: UTF-8, no duplicate keys, no NUL in strings, at most 2048 levels deep
 * (jansson's own limit), integers within 64 bits. The caller drops the tree with json_decref. */

#include "base/status.h"

#include <jansson.h>
#include <stddef.h>

/* Errors: LLM_EFORMAT (line, column and reason), LLM_ENOMEM. */
llm_status json_text_parse(const char *text, size_t bytes, json_t **out, struct llm_error *err);

/* The JSON object in a file of at most max_bytes. Errors, naming the path: also LLM_ENOENT, LLM_EIO. */
llm_status json_text_read(const char *path, size_t max_bytes, json_t **out, struct llm_error *err);

#endif
