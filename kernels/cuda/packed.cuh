#ifndef LLM_KERNELS_CUDA_PACKED_CUH
#define LLM_KERNELS_CUDA_PACKED_CUH

/* Quantized weights as the tensor cores want them. A tile is 64 rows by 64 along k, the first operand of four
 * products of 64 x N x 16 that take it from registers. Thread t of the warpgroup, with warp w = t / 32, g = t
 * % 32 / 4 and c = t % 4, has of step s = 0..3 four registers r of two numbers b:
 *
 *     row 16 w + g + 8 (r % 2), k = 16 s + 8 (r / 2) + 2 c + b
 *
 * that is 32 numbers. A tile is planes of these, each thread's 16, 8 or 4 bytes together, and then the
 * scales:
 *
 *     4 bits   word s of 4: bits 4 r + 16 b
 *     5th bit  1 word: bit 4 s + r + 16 b
 *     5th, 6th 2 words: word s / 2, bits 8 (s % 2) + 2 r + 16 b
 *     8 bits   8 words: word 2 s + r / 2, byte r % 2 + 2 b; words 0 to 3 of all threads come before 4 to 7
 *     scales   of pair 8 w + g of rows (16 w + g, and 8 more): first row, then second; S: groups of 32; M:
 * for each group scale and minimum; 6: groups of 16 */

#include "kernels/cuda/linear.cuh"

template <int FORMAT> struct packing {
    static constexpr int BITS = FORMAT == FORMAT_8                           ? 8
                                : FORMAT == FORMAT_6                         ? 6
                                : FORMAT == FORMAT_5S || FORMAT == FORMAT_5M ? 5
                                                                             : 4;
    static constexpr int OFFSET = FORMAT == FORMAT_8    ? 128
                                  : FORMAT == FORMAT_6  ? 32
                                  : FORMAT == FORMAT_5S ? 16
                                  : FORMAT == FORMAT_4S ? 8
                                                        : 0;
    static constexpr bool MIN = FORMAT == FORMAT_4M || FORMAT == FORMAT_5M;
    static constexpr int GROUP = FORMAT == FORMAT_6 ? 16 : 32;
    static constexpr int MORE = 2048; /* where the second plane begins */
    static constexpr int SCALES = BITS == 8 ? 4096 : BITS == 6 ? 3072 : BITS == 5 ? 2560 : 2048;
    static constexpr int PAIR_BYTES = (MIN || GROUP == 16) ? 16 : 8; /* of scales of a pair of rows */
    static constexpr int TILE_BYTES = SCALES + 32 * PAIR_BYTES;
};

#ifdef __CUDACC__

/* Two numbers of 16 bits in a register, their arithmetic, and a way to make numbers of bits: BASE + q, for q
 * below 2^7 (bf16) or 2^10 (f16), has the bits of q in the low end of its mantissa. */
template <typename T> struct pair16;
template <> struct pair16<__nv_bfloat16> {
    using type = __nv_bfloat162;
    static constexpr uint32_t MAGIC = 0x43004300;
    static constexpr int BASE = 128;
};
template <> struct pair16<__half> {
    using type = __half2;
    static constexpr uint32_t MAGIC = 0x64006400;
    static constexpr int BASE = 1024;
};

template <typename T> static __device__ __forceinline__ typename pair16<T>::type as_pair(uint32_t bits)
{
    return *reinterpret_cast<typename pair16<T>::type *>(&bits);
}

template <typename P> static __device__ __forceinline__ uint32_t as_bits(P p)
{
    return *reinterpret_cast<uint32_t *>(&p);
}

/* (v & mask) | bits, in one instruction: with two constants the compiler makes two. */
template <uint32_t MASK> static __device__ __forceinline__ uint32_t mask_or(uint32_t v, uint32_t bits)
{
    uint32_t out;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(out) : "r"(v), "n"(MASK), "r"(bits));
    return out;
}

static __device__ __forceinline__ uint32_t shifted(uint32_t v, int right)
{
    return right >= 0 ? v >> right : v << -right;
}

/* Both numbers of register r of step s, less the format's offset. words: the planes of this thread. */
template <typename T, int FORMAT>
static __device__ __forceinline__ typename pair16<T>::type unpack_pair(const uint32_t (&words)[8], int s,
                                                                       int r)
{
    using P = packing<FORMAT>;
    using type = pair16<T>;
    if constexpr (P::BITS == 8 &&
                  type::BASE == 128) { /* seven bits, and the eighth chooses what is taken away */
        const uint32_t q = words[2 * s + r / 2] >> r % 2 * 8;
        return __hsub2(as_pair<T>(mask_or<0x007f007f>(q, type::MAGIC)),
                       as_pair<T>((q & 0x00800080) ^ 0x43804380));
    } else if constexpr (P::BITS == 8) {
        const uint32_t q = words[2 * s + r / 2] >> r % 2 * 8;
        return __hsub2(as_pair<T>(mask_or<0x00ff00ff>(q, type::MAGIC)),
                       as_pair<T>(as_bits(__half2half2(__float2half(1152.0f)))));
    } else {
        uint32_t q = mask_or<0x000f000f>(words[s] >> 4 * r, type::MAGIC);
        if constexpr (P::BITS == 5) q = mask_or<0x00100010>(shifted(words[4], 4 * s + r - 4), q);
        if constexpr (P::BITS == 6)
            q = mask_or<0x00300030>(shifted(words[4 + s / 2], 8 * (s % 2) + 2 * r - 4), q);
        const T base = from_f32<T>((float)(type::BASE + P::OFFSET));
        typename type::type both;
        both.x = both.y = base;
        return __hsub2(as_pair<T>(q), both);
    }
}

/* The first or second half of a register, twice. */
static __device__ __forceinline__ uint32_t twice(uint32_t v, int half)
{
    return __byte_perm(v, 0, half ? 0x3232 : 0x1010);
}

/* Register r of step s, scaled. scales: the pair's. */
template <typename T, int FORMAT>
static __device__ __forceinline__ uint32_t unpack(const uint32_t (&words)[8], const uint32_t (&scales)[4],
                                                  int s, int r)
{
    using P = packing<FORMAT>;
    const auto q = unpack_pair<T, FORMAT>(words, s, r);
    const int second = r % 2; /* row */
    if constexpr (P::MIN) {
        const uint32_t both = scales[2 * second + s / 2];
        return as_bits(__hfma2(q, as_pair<T>(twice(both, 0)), as_pair<T>(twice(both, 1))));
    } else if constexpr (P::GROUP == 16) {
        return as_bits(__hmul2(q, as_pair<T>(twice(scales[2 * second + s / 2], s % 2))));
    } else {
        return as_bits(__hmul2(q, as_pair<T>(twice(scales[second], s / 2))));
    }
}

/* Thread t's planes and scales of a tile, in shared or device memory. */
template <int FORMAT>
static __device__ __forceinline__ void load_tile(const uint8_t *tile, int t, uint32_t (&words)[8],
                                                 uint32_t (&scales)[4])
{
    using P = packing<FORMAT>;
    const auto put4 = [](uint32_t *to, uint4 v) { to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w; };
    put4(words, reinterpret_cast<const uint4 *>(tile)[t]);
    if constexpr (P::BITS == 8) put4(words + 4, reinterpret_cast<const uint4 *>(tile + P::MORE)[t]);
    if constexpr (P::BITS == 5) words[4] = reinterpret_cast<const uint32_t *>(tile + P::MORE)[t];
    if constexpr (P::BITS == 6) {
        const uint2 more = reinterpret_cast<const uint2 *>(tile + P::MORE)[t];
        words[4] = more.x, words[5] = more.y;
    }
    const uint8_t *pair = tile + P::SCALES + t / 4 * P::PAIR_BYTES;
    if constexpr (P::PAIR_BYTES == 16) {
        put4(scales, *reinterpret_cast<const uint4 *>(pair));
    } else {
        const uint2 two = *reinterpret_cast<const uint2 *>(pair);
        scales[0] = two.x, scales[1] = two.y;
    }
}

#endif

#endif
