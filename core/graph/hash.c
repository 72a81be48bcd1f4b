#include "graph/hash.h"

#include "base/rng.h"
#include "graph/graph.h"

#include <math.h>

struct hash_key hash_fold(const double *key, int32_t n)
{
    uint64_t folded = 0;
    for (int32_t i = 0; i < n; i++) {
        int64_t v = fabs(key[i]) <= 0x1p53 ? (int64_t)floor(key[i]) : 0;
        struct rng_block b = rng_philox_at(folded, (uint32_t)i, (uint64_t)v, 0x68617368u);
        folded = b.word[0] | (uint64_t)b.word[1] << 32;
    }
    return (struct hash_key){{(uint32_t)folded, (uint32_t)(folded >> 32)}};
}

float graph_token_hash(const double *key, int32_t n, int32_t token)
{
    struct hash_key k = hash_fold(key, n);
    return hash_uniform(hash_token(k.k[0], k.k[1], (uint32_t)token));
}

float graph_hash(const double *key, int32_t n)
{
    return hash_uniform(hash_fold(key, n).k[0]);
}
