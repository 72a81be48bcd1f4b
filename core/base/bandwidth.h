#ifndef LLM_BASE_BANDWIDTH_H
#define LLM_BASE_BANDWIDTH_H

/* How fast this machine reads memory: the ceiling a decode step is measured against. */

#include "base/status.h"

#include <stdint.h>

/* Bytes a second that n_threads (0: all this process may use) read together from a buffer larger than the
 * caches, each its own part: the median of several passes after a warm-up. Takes about half a second and
 * 256 MiB. Errors: LLM_EINVAL, LLM_ENOMEM. */
llm_status bandwidth_read(int32_t n_threads, double *bytes_per_second, struct llm_error *err);

#endif
