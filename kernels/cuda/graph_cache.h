#ifndef LLM_KERNELS_CUDA_GRAPH_CACHE_H
#define LLM_KERNELS_CUDA_GRAPH_CACHE_H

/* Compiled graphs, kept on disk: a file a kernel, named by the hash of all that its code depends on: the
 * source, what it includes, the architecture, the compiler's version. A file that is damaged counts as none,
 * and processes may write the same one at the same time. Any thread. */

#include "base/status.h"

#include <stddef.h>

struct graph_code {
    char *cubin; /* or PTX; mem_free */
    size_t bytes;
    int was_cached;
};

/* The code of a source for an architecture (as nvrtc_compile's), from the cache or the compiler. dir: null:
 * no cache. It goes on without the cache if that cannot be written. With LLMLUA_GRAPH_SOURCE set to a
 * directory, the source is written there too, for people. Errors: of graph_nvrtc.h. */
llm_status graph_code_get(const char *source, size_t bytes, const char *arch, const char *dir,
                          struct graph_code *out, struct llm_error *err);

#endif
