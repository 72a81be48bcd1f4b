/* Kernels of packed weights and many rows with f16 activations: a file of their own, for they take long to
 * compile. */

#include "kernels/cuda/linear_packed.cuh"

void packed_tiles_f16(enum weight_format format, struct packed_variant out[PACKED_WIDTHS])
{
    switch (format) {
    case FORMAT_4S:
        return packed_tiles_of<__half, FORMAT_4S>(out);
    case FORMAT_4M:
        return packed_tiles_of<__half, FORMAT_4M>(out);
    case FORMAT_5S:
        return packed_tiles_of<__half, FORMAT_5S>(out);
    case FORMAT_5M:
        return packed_tiles_of<__half, FORMAT_5M>(out);
    case FORMAT_6:
        return packed_tiles_of<__half, FORMAT_6>(out);
    default:
        return packed_tiles_of<__half, FORMAT_8>(out);
    }
}
