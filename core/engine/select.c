#include "engine/select.h"

#include "graph/select.h"

float select_kth(const float *w, int32_t n, int32_t k, float *rest)
{
    float guess = 0x1p-8f;
    int32_t m;
    while ((m = select_from(w, n, guess, rest)) < k) guess *= guess; /* 0 in the end */
    return select_largest(rest, m, k);
}

float select_mass(const float *w, int32_t n, float least, double mass, float *rest)
{
    for (float guess = 0x1p-6f;; guess *= guess) {
        if (guess < least) guess = least;
        int32_t m = select_from(w, n, guess, rest);
        if (select_sum(rest, m) >= mass || guess <= least) return select_at_mass(rest, rest, m, mass);
    }
}
