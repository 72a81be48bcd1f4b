#ifndef LLM_KERNELS_CPU_PACK_H
#define LLM_KERNELS_CPU_PACK_H

/* Inside of a panel of R weight rows (R = 1: the stored row, unchanged). */

#include "kernels/kernels.h"

size_t pack_panel_bytes(enum llm_dtype dtype, int32_t n_in, int32_t rows);

/* Writes the panel of rows first_row .. first_row + rows - 1 of t to dst, which is zeroed memory. */
void pack_panel(const struct tensor *t, int64_t first_row, int32_t rows, uint8_t *dst);

#endif
