#include "engine/select.h"

/* Those with w >= least, packed. */
static int32_t gather(const float *w, int32_t n, float least, float *rest)
{
    int32_t m = 0;
    for (int32_t i = 0; i < n; i++) {
        rest[m] = w[i];
        m += w[i] >= least; /* no branch: what is written and not counted is written over */
    }
    return m;
}

static float median3(float a, float b, float c)
{
    if (a > b) {
        float t = a;
        a = b;
        b = t;
    }
    return c <= a ? a : c >= b ? b : c;
}

/* Splits rest into those above the pivot, equal, below (Dijkstra's flag); sums what is above. */
struct split {
    int32_t above, equal;
    double above_sum;
};

static struct split split_at(float *rest, int32_t n, float pivot)
{
    struct split s = {0, 0, 0};
    int32_t i = 0, end = n;
    while (i < end) {
        float v = rest[i];
        if (v > pivot) {
            rest[i++] = rest[s.above];
            rest[s.above++] = v;
            s.above_sum += v;
        } else if (v == pivot) {
            i++;
            s.equal++;
        } else {
            rest[i] = rest[--end];
            rest[end] = v;
        }
    }
    return s;
}

float select_kth(const float *w, int32_t n, int32_t k, float *rest)
{
    float guess = 0x1p-8f;
    int32_t m = gather(w, n, guess, rest);
    while (m < k && guess > 0) {
        guess = guess > 0x1p-100f ? guess * 0x1p-10f : 0;
        m = gather(w, n, guess, rest);
    }
    while (m > 1) {
        float pivot = median3(rest[0], rest[m / 2], rest[m - 1]);
        struct split s = split_at(rest, m, pivot);
        if (k <= s.above) {
            m = s.above;
        } else if (k <= s.above + s.equal) {
            return pivot;
        } else {
            k -= s.above + s.equal;
            rest += s.above + s.equal;
            m -= s.above + s.equal;
        }
    }
    return rest[0];
}

float select_mass(const float *w, int32_t n, float least, double mass, float *rest)
{
    float guess = 0x1p-8f;
    int32_t m;
    for (;;) {
        if (guess < least) guess = least;
        m = gather(w, n, guess, rest);
        double sum = 0;
        for (int32_t i = 0; i < m; i++) sum += rest[i];
        if (sum >= mass || guess <= least) break;
        guess = guess > 0x1p-100f ? guess * 0x1p-6f : 0;
    }
    float smallest = 1; /* rounding may leave the sum a little short of the mass: then all are kept */
    while (m > 0) {
        float pivot = median3(rest[0], rest[m / 2], rest[m - 1]);
        struct split s = split_at(rest, m, pivot);
        smallest = pivot;
        if (s.above_sum >= mass) {
            m = s.above;
        } else {
            mass -= s.above_sum + (double)pivot * s.equal;
            if (mass <= 0) return pivot;
            rest += s.above + s.equal;
            m -= s.above + s.equal;
        }
    }
    return smallest;
}
