#ifndef LLM_BASE_FILE_MAP_H
#define LLM_BASE_FILE_MAP_H

/* A file mapped read-only. Bytes are read from disk when they are touched. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

struct file_map {
    const uint8_t *data; /* null if size is 0 */
    size_t size;         /* bytes */
};

/* Errors: LLM_ENOENT, LLM_EIO (the message names the path and the system's reason). */
llm_status file_map_open(const char *path, struct file_map *out, struct llm_error *err);
void file_map_close(struct file_map *map);

/* Tells the kernel that [p, p + bytes) will not be read again soon, so that it stops counting as resident.
 * The range may be read again: it then comes back from the page cache. */
void file_map_drop(const void *p, size_t bytes);

#endif
