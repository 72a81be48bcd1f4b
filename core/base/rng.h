#ifndef LLM_BASE_RNG_H
#define LLM_BASE_RNG_H

/* Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
 * SC'11). A number is a pure function of (seed, stream, position), so a request draws the same numbers
 * whatever else is in the batch, after a preemption, and on every backend. */

#include <stdint.h>

#ifdef __CUDACC__
#define LLM_RNG_DEVICE __host__ __device__ /* kernels draw the same numbers */
#else
#define LLM_RNG_DEVICE
#endif

struct rng_block {
    uint32_t word[4];
};

/* seed: of the request. stream: the sequence within the request (index in n). position: of the token drawn.
 * site: which of the numbers for that token; 0 is the sampler's. */
LLM_RNG_DEVICE static inline struct rng_block rng_philox_at(uint64_t seed, uint32_t stream, uint64_t position,
                                                            uint32_t site)
{
    uint32_t c0 = (uint32_t)position, c1 = (uint32_t)(position >> 32), c2 = stream, c3 = site;
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    struct rng_block block = {{c0, c1, c2, c3}};
    return block;
}

LLM_RNG_DEVICE static inline struct rng_block rng_philox(uint64_t seed, uint32_t stream, uint64_t position)
{
    return rng_philox_at(seed, stream, position, 0);
}

/* Uniform in [0, 1), 24 bits. */
LLM_RNG_DEVICE static inline float rng_uniform(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

#endif
