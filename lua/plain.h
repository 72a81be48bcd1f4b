#ifndef LLM_LUA_PLAIN_H
#define LLM_LUA_PLAIN_H

/* Plain data (nil, booleans, numbers, strings, tables of these) from one Lua state to another, through bytes.
 * Tables are read raw: no metamethod of the sender runs. Nothing here can raise in the sender; the reader may
 * run out of memory. */

#include "base/status.h"

#include <lua.h>
#include <stddef.h>

enum { PLAIN_MAX_DEPTH = 16, PLAIN_MAX_VALUES = 100000 };

struct plain {
    char *data; /* mem_grow's */
    size_t used, room;
    size_t max_bytes; /* set by the owner */
    int n_values;
};

/* Appends the value at `index`; needs 3 free stack slots a level (lua_checkstack is called). Errors:
 * LLM_EINVAL (what is not plain, too deep, too many, too large), LLM_ENOMEM. [-0, +0, -] */
llm_status plain_write(struct plain *out, lua_State *L, int index, struct llm_error *err);

/* Pushes the next value from *at on, which moves past it. Raises when there is no memory. [-0, +1, m] */
void plain_read(lua_State *L, const char **at);

/* Forgets the contents, keeps the memory. */
void plain_clear(struct plain *plain);
void plain_free(struct plain *plain);

#endif
