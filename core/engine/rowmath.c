#include "engine/rowmath.h"

#include "graph/elementary.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Compiled for several instruction sets, chosen when the program is loaded. Results are the same to the bit,
 * as the arithmetic is element by element and lanes are counted, not given by the vector's width. The thread
 * sanitizer does not survive such choices. */
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define ROW_PASS __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define ROW_PASS
#endif

static inline int32_t block_length(int32_t n, int32_t begin)
{
    return n - begin < ROW_BLOCK ? n - begin : ROW_BLOCK;
}

/* The maximum of each place in a block over all blocks, then the halves of that against each other: loops
 * that are vectorized, where a running maximum would be unrolled into scalars. */
ROW_PASS float row_max(const float *x, int32_t n)
{
    float best[ROW_BLOCK];
    for (int32_t i = 0; i < ROW_BLOCK; i++) best[i] = -INFINITY;
    for (int32_t begin = 0; begin < n; begin += ROW_BLOCK) {
        int32_t m = block_length(n, begin);
        for (int32_t i = 0; i < m; i++) best[i] = x[begin + i] > best[i] ? x[begin + i] : best[i];
    }
    for (int32_t half = ROW_BLOCK / 2; half > 0; half /= 2)
        for (int32_t i = 0; i < half; i++) best[i] = best[i + half] > best[i] ? best[i + half] : best[i];
    return best[0];
}

int32_t row_argmax(const float *x, int32_t n)
{
    float max = row_max(x, n);
    for (int32_t i = 0; i < n; i++)
        if (x[i] == max) return i;
    return 0;
}

ROW_PASS int row_is_usable(const float *x, int32_t n)
{
    int32_t bad = 0, good = 0;
    for (int32_t i = 0; i < n; i++) {
        bad |= !(x[i] <= FLT_MAX);
        good |= x[i] >= -FLT_MAX;
    }
    return good && !bad;
}

/* Of n <= ROW_BLOCK elements, in lanes. */
static inline double block_sum(const float *e, int32_t n)
{
    float lane[ROW_LANES] = {0};
    int32_t i = 0;
    for (; i + ROW_LANES <= n; i += ROW_LANES)
        for (int32_t j = 0; j < ROW_LANES; j++) lane[j] += e[i + j];
    for (int32_t j = 0; i < n; i++, j++) lane[j] += e[i];
    double sum = 0;
    for (int32_t j = 0; j < ROW_LANES; j++) sum += lane[j];
    return sum;
}

ROW_PASS double row_weights(const float *x, int32_t n, float max, float scale, float *w, double *sums)
{
    double total = 0;
    float e[ROW_BLOCK]; /* not w itself, which may be x */
    for (int32_t b = 0, begin = 0; begin < n; b++, begin += ROW_BLOCK) {
        int32_t m = block_length(n, begin);
        for (int32_t i = 0; i < m; i++) e[i] = exp_core((x[begin + i] - max) * scale);
        total += sums[b] = block_sum(e, m);
        memcpy(w + begin, e, sizeof *e * (size_t)m);
    }
    return total;
}

ROW_PASS double row_sum_from(const float *w, int32_t n, float least, double *sums)
{
    double total = 0;
    float e[ROW_BLOCK];
    for (int32_t b = 0, begin = 0; begin < n; b++, begin += ROW_BLOCK) {
        int32_t m = block_length(n, begin);
        for (int32_t i = 0; i < m; i++) e[i] = w[begin + i] >= least ? w[begin + i] : 0.0f;
        total += sums[b] = block_sum(e, m);
    }
    return total;
}

ROW_PASS int32_t row_count_from(const float *w, int32_t n, float least)
{
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) count += w[i] >= least;
    return count;
}

/* Groups of 16 are looked at whole: most of a vocabulary is below any threshold. */
ROW_PASS int32_t row_indices_from(const float *w, int32_t n, float least, int32_t *out, int32_t room)
{
    enum { GROUP = 16 };
    int32_t count = 0, i = 0;
    for (; i < n; i += GROUP) {
        int32_t m = n - i < GROUP ? n - i : GROUP;
        if (m == GROUP) {
            int32_t any = 0;
            for (int32_t j = 0; j < GROUP; j++) any |= w[i + j] >= least;
            if (!any) continue;
        }
        for (int32_t j = 0; j < m; j++) {
            if (!(w[i + j] >= least)) continue;
            if (count < room) out[count] = i + j;
            count++;
        }
    }
    return count;
}

ROW_PASS double row_logsumexp(const float *x, int32_t n, float max)
{
    double total = 0;
    float e[ROW_BLOCK];
    for (int32_t begin = 0; begin < n; begin += ROW_BLOCK) {
        int32_t m = block_length(n, begin);
        for (int32_t i = 0; i < m; i++) e[i] = exp_core(x[begin + i] - max);
        total += block_sum(e, m);
    }
    return (double)max + log(total);
}
