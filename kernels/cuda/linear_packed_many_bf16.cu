/* Kernels of packed weights and many rows with bf16 activations: a file of their own, for they take long to
 * compile. */

#include "kernels/cuda/linear_packed.cuh"

void packed_tiles_bf16(enum weight_format format, struct packed_variant out[PACKED_WIDTHS])
{
    switch (format) {
    case FORMAT_4S:
        return packed_tiles_of<__nv_bfloat16, FORMAT_4S>(out);
    case FORMAT_4M:
        return packed_tiles_of<__nv_bfloat16, FORMAT_4M>(out);
    case FORMAT_5S:
        return packed_tiles_of<__nv_bfloat16, FORMAT_5S>(out);
    case FORMAT_5M:
        return packed_tiles_of<__nv_bfloat16, FORMAT_5M>(out);
    case FORMAT_6:
        return packed_tiles_of<__nv_bfloat16, FORMAT_6>(out);
    default:
        return packed_tiles_of<__nv_bfloat16, FORMAT_8>(out);
    }
}
