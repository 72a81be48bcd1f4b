/* Packed weights: from stored blocks into tiles, at load. */

#include "kernels/cuda/packed.cuh"
#include "kernels/cuda/quant.cuh"

enum weight_format packed_format(enum llm_dtype dtype)
{
    switch (dtype) {
    case DTYPE_Q4_0:
        return FORMAT_4S;
    case DTYPE_Q4_1:
    case DTYPE_Q4_K:
        return FORMAT_4M;
    case DTYPE_Q5_0:
        return FORMAT_5S;
    case DTYPE_Q5_1:
    case DTYPE_Q5_K:
        return FORMAT_5M;
    case DTYPE_Q6_K:
        return FORMAT_6;
    case DTYPE_Q8_0:
        return FORMAT_8;
    default: /* rarer types are kept as dense numbers */
        return FORMAT_DENSE;
    }
}

size_t packed_bytes(enum weight_format format, int32_t n_rows, int32_t k_tiles)
{
    static const int32_t tile_bytes[N_FORMATS] = {
        0,
        packing<FORMAT_4S>::TILE_BYTES,
        packing<FORMAT_4M>::TILE_BYTES,
        packing<FORMAT_5S>::TILE_BYTES,
        packing<FORMAT_5M>::TILE_BYTES,
        packing<FORMAT_6>::TILE_BYTES,
        packing<FORMAT_8>::TILE_BYTES,
    };
    return (size_t)((n_rows + 255) / 256 * 4) * (size_t)k_tiles * (size_t)tile_bytes[format];
}

/* ---- packing ----------------------------------------------------------------------------------------------
 */

/* Four numbers of a row, registers r = high and r = high + 2 of a thread's step, into words that other rows'
 * numbers go to as well: these begin as zeros. */
template <typename T, int FORMAT>
static __global__ void pack_kernel(struct place p, uint8_t *tiles, int32_t k_tiles)
{
    using P = packing<FORMAT>;
    const uint8_t *from = p.from + blockIdx.x * p.row_bytes;
    const int32_t row = place_row(&p, (int32_t)blockIdx.x), high = row % 16 / 8;
    for (int32_t i = (int32_t)threadIdx.x; i < (p.n_in + 15) / 16 * 4; i += (int32_t)blockDim.x) {
        const int32_t c = i % 4, s = i / 4 % 4, t = row % 64 / 16 * 32 + row % 8 * 4 + c;
        uint8_t *tile = tiles + ((int64_t)(row / 64) * k_tiles + i / 16) * P::TILE_BYTES;
        uint32_t *words = reinterpret_cast<uint32_t *>(tile),
                 *more = reinterpret_cast<uint32_t *>(tile + P::MORE);
        uint32_t low = 0, extra = 0, bytes[2] = {0, 0};
        struct quant v = {};
        for (int half = 0; half < 2; half++)
            for (int b = 0; b < 2; b++) {
                v = quant_at(p.dtype, p.block_bytes, from, i / 4 * 16 + 8 * half + 2 * c + b);
                const uint32_t q = (uint32_t)(v.q + P::OFFSET);
                const int r = high + 2 * half;
                low |= (q & 15) << (4 * r + 16 * b);
                if (P::BITS == 5) extra |= q >> 4 << (4 * s + r + 16 * b);
                if (P::BITS == 6) extra |= q >> 4 << (8 * (s % 2) + 2 * r + 16 * b);
                bytes[half] |= q << (8 * high + 16 * b);
            }
        if (P::BITS == 8) {
            uint32_t *to = s < 2 ? words : more;
            atomicOr(to + 4 * t + 2 * (s % 2), bytes[0]);
            atomicOr(to + 4 * t + 2 * (s % 2) + 1, bytes[1]);
        } else {
            atomicOr(words + 4 * t + s, low);
            if (P::BITS == 5) atomicOr(more + t, extra);
            if (P::BITS == 6) atomicOr(more + 2 * t + s / 2, extra);
        }
        if (c != 0 || (P::GROUP == 32 && s % 2)) continue;
        T *scales =
            reinterpret_cast<T *>(tile + P::SCALES + t / 4 * P::PAIR_BYTES) + high * (P::PAIR_BYTES / 4);
        if (P::GROUP == 16) {
            scales[s] = from_f32<T>(v.scale);
        } else if (P::MIN) {
            scales[s] = from_f32<T>(v.scale);
            scales[s + 1] = from_f32<T>(v.min);
        } else {
            scales[s / 2] = from_f32<T>(v.scale);
        }
    }
}

/* ---- dispatch ---------------------------------------------------------------------------------------------
 */

template <typename T, int FORMAT>
static void pack_of(struct cuda_backend *cu, const struct place *p, int32_t n_rows,
                    const struct weight_block *b)
{
    pack_kernel<T, FORMAT><<<n_rows, 256, 0, cu->stream>>>(*p, static_cast<uint8_t *>(b->data), b->k_tiles);
}

/* f for the activation type and the format b is of. */
#define BY_FORMAT(f, ...)                                                                                    \
    do {                                                                                                     \
        const int half = cu->base.act_dtype == DTYPE_F16;                                                    \
        switch (b->format) {                                                                                 \
            BY_TYPE(f, FORMAT_4S, __VA_ARGS__);                                                              \
            BY_TYPE(f, FORMAT_4M, __VA_ARGS__);                                                              \
            BY_TYPE(f, FORMAT_5S, __VA_ARGS__);                                                              \
            BY_TYPE(f, FORMAT_5M, __VA_ARGS__);                                                              \
            BY_TYPE(f, FORMAT_6, __VA_ARGS__);                                                               \
        default:                                                                                             \
            BY_TYPE(f, FORMAT_8, __VA_ARGS__);                                                               \
        }                                                                                                    \
    } while (0)
#define BY_TYPE(f, format, ...)                                                                              \
    case format:                                                                                             \
        if (half) return f<__half, format>(__VA_ARGS__);                                                     \
        return f<__nv_bfloat16, format>(__VA_ARGS__)

static void pack_any(struct cuda_backend *cu, const struct place *p, int32_t n_rows,
                     const struct weight_block *b)
{
    BY_FORMAT(pack_of, cu, p, n_rows, b);
}

llm_status pack_rows(struct cuda_backend *cu, const struct place *p, int32_t n_rows,
                     const struct weight_block *b)
{
    pack_any(cu, p, n_rows, b);
    return cuda_check(cu, cudaGetLastError(), "packing a weight");
}
