#ifndef LLM_KERNELS_CPU_WEIGHT_H
#define LLM_KERNELS_CPU_WEIGHT_H

/* A linear layer's matrix on the CPU: its parts cut into panels of consecutive output rows. What is inside a
 * panel depends on the stored type: see pack.h. Panels are the unit of work of a linear layer; a panel is
 * read from its first byte to its last. The reference backend has panels of one row, as stored. */

#include "base/pool.h"
#include "kernels/kernels.h"

struct weight_part {
    enum llm_dtype dtype;
    int32_t n_out, n_panels; /* the last panel is padded with rows of zeros */
    int32_t first_out;       /* column of y where this part begins */
    size_t panel_bytes;      /* multiple of 64 but in the reference */
    uint8_t *panels;
};

struct weight {
    int32_t n_in, n_out;
    enum weight_layout layout;
    int32_t n_parts;
    struct weight_part part[3];
    int needs_quantized; /* any part reads rows rounded to 8 bits */
    int needs_float;     /* any part reads rows as f32 */
    uint8_t *memory;
    size_t bytes;
};

/* The pool lays out panels in parallel. panel_rows: 1, 8 or 16. Errors as backend.weight_create. */
llm_status weight_pack(struct pool *pool, int32_t panel_rows, const struct weight_spec *spec,
                       struct weight **out, struct llm_error *err);
void weight_free(struct weight *w);

#endif
