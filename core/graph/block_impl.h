/* The loops over a block, for the instruction set this is compiled for: included by block_ref.c, block_avx2.c
 * and block_avx512.c, which define ISA(name). Plain C that the compiler vectorizes; by hand only what it
 * cannot: packing the elements that pass a test. */

#include "graph/block.h"
#include "graph/elementary.h"
#include "graph/hash.h"

#include <string.h>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

/* An output may be an operand's very memory, never a part of it shifted. */
#define EACH _Pragma("GCC ivdep") for (int32_t i = 0; i < n; i++)

#define FN(name)     static void name##_block(const struct block_op *op, int32_t begin, int32_t n)
#define OUT(type)    type *o = (type *)op->out + (begin & op->out_moves)
#define IN(type, x)  const type *x = (const type *)op->x + (begin & op->x##_moves)
#define NUM(x)       const float x = *(const float *)op->x
#define UNUSED_BEGIN (void)begin

/* ---- element by element -------------------------------------------------------------------------------- */

#define UNARY(name, expression)                                                                              \
    FN(name)                                                                                                 \
    {                                                                                                        \
        OUT(float);                                                                                          \
        IN(float, a);                                                                                        \
        EACH o[i] = expression(a[i]);                                                                        \
    }

#define BINARY_RR(name, type, expression)                                                                    \
    FN(name##_rr)                                                                                            \
    {                                                                                                        \
        OUT(type);                                                                                           \
        IN(float, a);                                                                                        \
        IN(float, b);                                                                                        \
        EACH o[i] = expression(a[i], b[i]);                                                                  \
    }
#define BINARY_RS(name, type, expression)                                                                    \
    FN(name##_rs)                                                                                            \
    {                                                                                                        \
        OUT(type);                                                                                           \
        IN(float, a);                                                                                        \
        NUM(b);                                                                                              \
        EACH o[i] = expression(a[i], b);                                                                     \
    }
#define BINARY_SR(name, type, expression)                                                                    \
    FN(name##_sr)                                                                                            \
    {                                                                                                        \
        OUT(type);                                                                                           \
        NUM(a);                                                                                              \
        IN(float, b);                                                                                        \
        EACH o[i] = expression(a, b[i]);                                                                     \
    }
#define SYMMETRIC(name, type, expression)                                                                    \
    BINARY_RR(name, type, expression)                                                                        \
    BINARY_RS(name, type, expression)
#define ORDERED(name, type, expression)                                                                      \
    SYMMETRIC(name, type, expression)                                                                        \
    BINARY_SR(name, type, expression)

#define NEG(x)    (-(x))
#define ADD(x, y) ((x) + (y))
#define SUB(x, y) ((x) - (y))
#define MUL(x, y) ((x) * (y))
#define DIV(x, y) ((x) / (y))
#define LT(x, y)  (-((x) < (y)))
#define LE(x, y)  (-((x) <= (y)))
#define EQ(x, y)  (-((x) == (y)))

UNARY(neg, NEG)
UNARY(abs, fabsf)
UNARY(log, log_core)
UNARY(tanh, tanh_core)
UNARY(sqrt, sqrtf)
UNARY(floor, floorf)
SYMMETRIC(add, float, ADD)
ORDERED(sub, float, SUB)
SYMMETRIC(mul, float, MUL)
ORDERED(div, float, DIV)
ORDERED(pow, float, pow_core)
SYMMETRIC(min, float, min_core)
SYMMETRIC(max, float, max_core)
ORDERED(lt, int32_t, LT)
ORDERED(le, int32_t, LE)
SYMMETRIC(eq, int32_t, EQ)

/* Elements from 87 up, and NaN, are rare enough to be done over. */
FN(exp)
{
    OUT(float);
    IN(float, a);
    float kept[BLOCK];
    if (a == o) a = memcpy(kept, a, sizeof *a * (size_t)n);
    int32_t large = 0;
    EACH
    {
        large |= -!(a[i] < 87.0f);
        o[i] = exp_core(a[i]);
    }
    for (int32_t i = 0; large && i < n; i++)
        if (!(a[i] < 87.0f)) o[i] = exp_large(a[i]);
}

/* exp((a - b) * c), as the three operations one after the other. */
FN(exp_affine)
{
    OUT(float);
    IN(float, a);
    NUM(b);
    NUM(c);
    float kept[BLOCK];
    if (a == o) a = memcpy(kept, a, sizeof *a * (size_t)n);
    int32_t large = 0;
    EACH
    {
        float t = (a[i] - b) * c;
        large |= -!(t < 87.0f);
        o[i] = exp_core(t);
    }
    for (int32_t i = 0; large && i < n; i++) {
        float t = (a[i] - b) * c;
        if (!(t < 87.0f)) o[i] = exp_large(t);
    }
}

FN(and)
{
    OUT(int32_t);
    IN(int32_t, a);
    IN(int32_t, b);
    EACH o[i] = a[i] & b[i];
}

FN(or)
{
    OUT(int32_t);
    IN(int32_t, a);
    IN(int32_t, b);
    EACH o[i] = a[i] | b[i];
}

FN(not )
{
    OUT(int32_t);
    IN(int32_t, a);
    EACH o[i] = ~a[i];
}

#define WHERE(name, GET_B, GET_C, B, C)                                                                      \
    FN(name)                                                                                                 \
    {                                                                                                        \
        OUT(float);                                                                                          \
        IN(int32_t, a);                                                                                      \
        GET_B;                                                                                               \
        GET_C;                                                                                               \
        EACH o[i] = a[i] ? B : C;                                                                            \
    }
WHERE(where_rr, IN(float, b), IN(float, c), b[i], c[i])
WHERE(where_rs, IN(float, b), NUM(c), b[i], c)
WHERE(where_sr, NUM(b), IN(float, c), b, c[i])
WHERE(where_ss, NUM(b), NUM(c), b, c)

/* where b <= a, or b < a: a, else c: what a threshold leaves of a row. */
FN(from)
{
    OUT(float);
    IN(float, a);
    NUM(b);
    NUM(c);
    EACH o[i] = b <= a[i] ? a[i] : c;
}

FN(above)
{
    OUT(float);
    IN(float, a);
    NUM(b);
    NUM(c);
    EACH o[i] = b < a[i] ? a[i] : c;
}

FN(copy)
{
    OUT(float);
    IN(float, a);
    memmove(o, a, sizeof *o * (size_t)n);
}

FN(splat_num)
{
    OUT(float);
    NUM(a);
    EACH o[i] = a;
}

FN(splat_bool)
{
    OUT(int32_t);
    NUM(a);
    EACH o[i] = -(a != 0);
}

FN(index)
{
    OUT(float);
    EACH o[i] = (float)(begin + i);
}

FN(hash)
{
    OUT(float);
    const uint32_t k0 = op->key[0], k1 = op->key[1];
    EACH o[i] = hash_uniform(hash_token(k0, k1, (uint32_t)(begin + i)));
}

FN(accepts)
{
    OUT(int32_t);
    const int32_t *next = op->next;
    if (!next) {
        memset(o, 0, sizeof *o * (size_t)n);
        return;
    }
    const int32_t *class_of = op->class_of + begin;
    EACH o[i] = ~(next[class_of[i]] >> 31);
}

/* ---- reductions ---------------------------------------------------------------------------------------- */

/* Of up to BLOCK_SUM elements. */
static inline double sum_lanes(const float *x, int32_t n)
{
    float lane[BLOCK_LANES] = {0};
    int32_t i = 0;
    for (; i + BLOCK_LANES <= n; i += BLOCK_LANES)
        for (int32_t j = 0; j < BLOCK_LANES; j++) lane[j] += x[i + j];
    for (int32_t j = 0; i < n; i++, j++) lane[j] += x[i];
    double sum = 0;
    for (int32_t j = 0; j < BLOCK_LANES; j++) sum += lane[j];
    return sum;
}

static inline void add_sums(struct block_acc *acc, const float *x, int32_t begin, int32_t n)
{
    for (int32_t at = 0; at < n; at += BLOCK_SUM) {
        double sum = sum_lanes(x + at, n - at < BLOCK_SUM ? n - at : BLOCK_SUM);
        if (acc->sums) acc->sums[(begin + at) / BLOCK_SUM] = sum;
        acc->sum += sum;
    }
}

enum { WIDE = 64 }; /* lanes of a maximum: enough to hide the latency */

FN(reduce_max)
{
    IN(float, a);
    float lane[WIDE];
    for (int32_t j = 0; j < WIDE; j++) lane[j] = -INFINITY;
    int32_t i = 0;
    for (; i + WIDE <= n; i += WIDE)
        for (int32_t j = 0; j < WIDE; j++) lane[j] = a[i + j] > lane[j] ? a[i + j] : lane[j];
    for (int32_t j = 0; i < n; i++, j++) lane[j] = a[i] > lane[j] ? a[i] : lane[j];
    for (int32_t half = WIDE / 2; half > 0; half /= 2)
        for (int32_t j = 0; j < half; j++) lane[j] = lane[j + half] > lane[j] ? lane[j + half] : lane[j];
    if (lane[0] > op->acc->best) {
        op->acc->best = lane[0];
        op->acc->best_block = begin;
    }
}

FN(reduce_min)
{
    IN(float, a);
    float lane[WIDE];
    for (int32_t j = 0; j < WIDE; j++) lane[j] = INFINITY;
    int32_t i = 0;
    for (; i + WIDE <= n; i += WIDE)
        for (int32_t j = 0; j < WIDE; j++) lane[j] = a[i + j] < lane[j] ? a[i + j] : lane[j];
    for (int32_t j = 0; i < n; i++, j++) lane[j] = a[i] < lane[j] ? a[i] : lane[j];
    for (int32_t half = WIDE / 2; half > 0; half /= 2)
        for (int32_t j = 0; j < half; j++) lane[j] = lane[j + half] < lane[j] ? lane[j + half] : lane[j];
    if (lane[0] < op->acc->best) op->acc->best = lane[0];
}

FN(reduce_sum)
{
    IN(float, a);
    add_sums(op->acc, a, begin, n);
}

FN(reduce_count)
{
    IN(int32_t, a);
    int32_t count = 0;
    for (int32_t i = 0; i < n; i++) count -= a[i];
    op->acc->count += count;
}

FN(weigh)
{
    IN(float, a);
    int32_t bad = 0;
    for (int32_t i = 0; i < n; i++) bad |= !(a[i] >= 0);
    op->acc->bad |= bad;
    add_sums(op->acc, a, begin, n);
}

FN(check)
{
    IN(float, a);
    int32_t bad = 0, any = 0;
    for (int32_t i = 0; i < n; i++) {
        bad |= !(a[i] < INFINITY);
        any |= a[i] > -INFINITY;
    }
    op->acc->bad |= bad;
    op->acc->any |= any;
}

/* ---- packing ------------------------------------------------------------------------------------------- */

/* Appends those of x[0 .. n) that are >= least to `kept`, which has room for a vector more. */
static int32_t pack(const float *x, int32_t n, float least, float *kept)
{
    int32_t m = 0, i = 0;
#if defined(__AVX512F__)
    const __m512 least_v = _mm512_set1_ps(least);
    for (; i + 16 <= n; i += 16) {
        const __m512 v = _mm512_loadu_ps(x + i);
        const __mmask16 k = _mm512_cmp_ps_mask(v, least_v, _CMP_GE_OQ);
        if (!k) continue;
        _mm512_storeu_ps(kept + m, _mm512_maskz_compress_ps(k, v));
        m += __builtin_popcount(k);
    }
#elif defined(__AVX2__)
    const __m256 least_v = _mm256_set1_ps(least);
    for (; i + 8 <= n; i += 8) {
        uint32_t k = (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(_mm256_loadu_ps(x + i), least_v, _CMP_GE_OQ));
        for (; k; k &= k - 1) kept[m++] = x[i + __builtin_ctz(k)];
    }
#endif
    for (; i < n; i++) {
        kept[m] = x[i];
        m += x[i] >= least;
    }
    return m;
}

/* The same for pairs: key >= least, weight >= cut, which is above 0. */
static int32_t pack_pairs(const float *key, const float *weight, int32_t n, float least, float cut,
                          float *kept, float *kept_weights)
{
    int32_t m = 0, i = 0;
#if defined(__AVX512F__)
    const __m512 least_v = _mm512_set1_ps(least), cut_v = _mm512_set1_ps(cut);
    for (; i + 16 <= n; i += 16) {
        const __m512 v = _mm512_loadu_ps(key + i), w = _mm512_loadu_ps(weight + i);
        const __mmask16 k =
            _mm512_mask_cmp_ps_mask(_mm512_cmp_ps_mask(v, least_v, _CMP_GE_OQ), w, cut_v, _CMP_GE_OQ);
        if (!k) continue;
        _mm512_storeu_ps(kept + m, _mm512_maskz_compress_ps(k, v));
        _mm512_storeu_ps(kept_weights + m, _mm512_maskz_compress_ps(k, w));
        m += __builtin_popcount(k);
    }
#elif defined(__AVX2__)
    const __m256 least_v = _mm256_set1_ps(least), cut_v = _mm256_set1_ps(cut);
    for (; i + 8 <= n; i += 8) {
        const __m256 v = _mm256_cmp_ps(_mm256_loadu_ps(key + i), least_v, _CMP_GE_OQ);
        const __m256 w = _mm256_cmp_ps(_mm256_loadu_ps(weight + i), cut_v, _CMP_GE_OQ);
        uint32_t k = (uint32_t)_mm256_movemask_ps(_mm256_and_ps(v, w));
        for (; k; k &= k - 1, m++) {
            kept[m] = key[i + __builtin_ctz(k)];
            kept_weights[m] = weight[i + __builtin_ctz(k)];
        }
    }
#endif
    for (; i < n; i++) {
        kept[m] = key[i];
        kept_weights[m] = weight[i];
        m += (key[i] >= least) & (weight[i] >= cut);
    }
    return m;
}

FN(keep)
{
    UNUSED_BEGIN;
    IN(float, a);
    op->acc->n_kept += pack(a, n, op->acc->least, op->acc->kept + op->acc->n_kept);
}

FN(keep_weights)
{
    IN(float, a);
    add_sums(op->acc, a, begin, n);
    op->acc->n_kept += pack(a, n, op->acc->least, op->acc->kept + op->acc->n_kept);
}

FN(keep_pairs)
{
    IN(float, a);
    IN(float, b);
    struct block_acc *acc = op->acc;
    add_sums(acc, b, begin, n);
    acc->n_kept +=
        pack_pairs(a, b, n, acc->least, acc->cut, acc->kept + acc->n_kept, acc->kept_weights + acc->n_kept);
}

const struct block_isa ISA(block_isa) = {
    .name = ISA_NAME,
    .fns =
        {
#define X(name) [BLOCK_FN_##name] = name##_block,
            BLOCK_FNS(X)
#undef X
        },
};
