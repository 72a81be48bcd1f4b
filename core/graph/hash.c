#include "graph/hash.h"

#include "graph/graph.h"

float graph_token_hash(const double *key, int32_t n, int32_t token)
{
    struct hash_key k = hash_fold(key, n);
    return hash_uniform(hash_token(k.k[0], k.k[1], (uint32_t)token));
}

float graph_hash(const double *key, int32_t n)
{
    return hash_uniform(hash_fold(key, n).k[0]);
}
