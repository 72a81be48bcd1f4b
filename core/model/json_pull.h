#ifndef LLM_MODEL_JSON_PULL_H
#define LLM_MODEL_JSON_PULL_H

/* JSON read from front to back without building a tree, for vocabularies: a tree of half a million merges
 * takes longer to build than all else about a tokenizer. Parts with structure are cut out with json_skip and
 * given to jansson.
 *
 * Errors are sticky: after one, every call answers "no more", and json_pull_status tells. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct json_pull {
    const char *start, *at, *end;
    char *text; /* the last string, unescaped; owned */
    size_t text_size, text_capacity;
    const char *error; /* null: none so far */
    int out_of_memory;
};

void json_pull_open(struct json_pull *p, const char *json, size_t bytes);
void json_pull_close(struct json_pull *p);
/* LLM_OK, or LLM_EFORMAT with the byte offset, or LLM_ENOMEM. */
llm_status json_pull_status(const struct json_pull *p, struct llm_error *err);

/* The first byte of the next value ('{', '[', '"', a digit …), 0 at the end. */
int json_pull_peek(struct json_pull *p);
/* To enter a value and to step through it: open once, then next until it returns 0. In an object, next leaves
 * the key in p->text and p before the value. */
void json_pull_enter(struct json_pull *p, char bracket);
int json_pull_next(struct json_pull *p, char bracket, int *first);
int json_pull_string(struct json_pull *p); /* into p->text (NUL-terminated too); 0: it is no string */
int64_t json_pull_int(struct json_pull *p);
/* Passes over a value of any kind; returns its extent. */
const char *json_pull_skip(struct json_pull *p, size_t *size);

#endif
