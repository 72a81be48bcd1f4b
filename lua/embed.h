#ifndef LLM_LUA_EMBED_H
#define LLM_LUA_EMBED_H

/* The files compiled into the binary: lua/llm (the standard library, the page) and scripts (what users run).
 * The table is generated at build time by scripts/dev/embed.cmake. */

#include <stddef.h>

struct embedded_file {
    const char *path; /* relative to the source root, e.g. "lua/llm/init.lua"; null ends the table */
    const char *data; /* NUL-terminated */
    size_t size;      /* bytes, the NUL not counted */
};

extern const struct embedded_file embedded_files[];

#endif
