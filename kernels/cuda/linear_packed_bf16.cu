/* Kernels of packed weights with bf16 activations: a file of their own, for they take long to compile. */

#include "kernels/cuda/linear_stream.cuh"

void packed_variants_bf16(enum weight_format format, struct stream_variant out[PACKED_VARIANTS])
{
    switch (format) {
    case FORMAT_4S:
        return packed_variants_of<__nv_bfloat16, FORMAT_4S>(out);
    case FORMAT_4M:
        return packed_variants_of<__nv_bfloat16, FORMAT_4M>(out);
    case FORMAT_5S:
        return packed_variants_of<__nv_bfloat16, FORMAT_5S>(out);
    case FORMAT_5M:
        return packed_variants_of<__nv_bfloat16, FORMAT_5M>(out);
    case FORMAT_6:
        return packed_variants_of<__nv_bfloat16, FORMAT_6>(out);
    default:
        return packed_variants_of<__nv_bfloat16, FORMAT_8>(out);
    }
}
