#ifndef LLM_GRAPH_HASH_H
#define LLM_GRAPH_HASH_H

/* Keyed hashes of tokens, cheap enough for every token of a vocabulary at every step; not cryptographic.
 * A key is folded through Philox, a number after the other; a token is then mixed with the two halves of the
 * folded key by the finalizer of MurmurHash3 (A. Appleby), twice. Compiled for devices too. */

#include "base/rng.h"

#include <math.h>
#include <stdint.h>

struct hash_key {
    uint32_t k[2];
};

static inline struct hash_key hash_fold(const double *key, int32_t n)
{
    uint64_t folded = 0;
    for (int32_t i = 0; i < n; i++) {
        int64_t v = fabs(key[i]) <= 0x1p53 ? (int64_t)floor(key[i]) : 0;
        struct rng_block b = rng_philox_at(folded, (uint32_t)i, (uint64_t)v, 0x68617368u);
        folded = b.word[0] | (uint64_t)b.word[1] << 32;
    }
    struct hash_key whole = {{(uint32_t)folded, (uint32_t)(folded >> 32)}};
    return whole;
}

static inline uint32_t hash_mix(uint32_t h)
{
    h ^= h >> 16;
    h *= 0x85ebca6bu;
    h ^= h >> 13;
    h *= 0xc2b2ae35u;
    return h ^ h >> 16;
}

static inline uint32_t hash_token(uint32_t k0, uint32_t k1, uint32_t token)
{
    return hash_mix(hash_mix(token * 0x9E3779B1u + k0) ^ k1);
}

/* Uniform in (0, 1): the middles of 2^23 intervals. */
static inline float hash_uniform(uint32_t h)
{
    return ((float)(int32_t)(h >> 9) + 0.5f) * 0x1p-23f;
}

#endif
