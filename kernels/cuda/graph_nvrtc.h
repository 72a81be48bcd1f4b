#ifndef LLM_KERNELS_CUDA_GRAPH_NVRTC_H
#define LLM_KERNELS_CUDA_GRAPH_NVRTC_H

/* NVRTC, the compiler of CUDA's run time, as a library that may be there. It needs neither driver nor GPU.
 * Any thread. */

#include "base/status.h"

#include <stddef.h>

/* Its version, 1000 * major + minor. Errors: LLM_EUNSUP: it is not installed. */
llm_status nvrtc_version(int *version, struct llm_error *err);

/* Compiles the source of a graph (graph_emit.h): for an architecture, "sm_90", a cubin, for a virtual one,
 * "compute_80", PTX, which ends with a NUL. The caller's to mem_free. Errors: LLM_EUNSUP (not installed, or
 * it does not know the architecture), LLM_ENOMEM, LLM_EFAILED (the source is not accepted: the first line of
 * why). */
llm_status nvrtc_compile(const char *source, const char *arch, char **out, size_t *bytes,
                         struct llm_error *err);

#endif
