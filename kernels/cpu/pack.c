#include "kernels/cpu/pack.h"

size_t pack_panel_bytes(enum llm_dtype dtype, int32_t n_in, int32_t rows)
{
    return dtype_bytes(dtype, n_in) * (size_t)rows;
}

void pack_panel(const struct tensor *t, int64_t first_row, int32_t rows, uint8_t *dst)
{
    const size_t row_bytes = dtype_bytes(t->dtype, t->dims[1]);
    memcpy(dst, (const uint8_t *)t->data + (size_t)first_row * row_bytes, row_bytes * (size_t)rows);
}
