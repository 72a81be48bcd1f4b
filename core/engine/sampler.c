/* Step 7 of 10. In: logits. Out: a token, and log-probabilities. Next: stop.c. */

#include "engine/sampler.h"

#include "base/mem.h"
#include "base/rng.h"
#include "engine/rowmath.h"
#include "engine/select.h"
#include "graph/select.h"

#include <float.h>
#include <math.h>
#include <string.h>

/* Temperatures below it are greedy, as in vLLM. */
static const float smallest_temperature = 1e-5f;

llm_status sampler_init(struct sampler *s, int32_t vocab_size, struct llm_error *err)
{
    *s = (struct sampler){.vocab_size = vocab_size};
    s->work = mem_array((size_t)vocab_size, sizeof *s->work);
    s->rest = mem_array((size_t)vocab_size + SELECT_SLACK, sizeof *s->rest);
    s->sums = mem_array((size_t)row_blocks(vocab_size), sizeof *s->sums);
    if (s->work && s->rest && s->sums) return LLM_OK;
    sampler_deinit(s);
    return llm_fail(err, LLM_ENOMEM, "no memory to sample from %d tokens", vocab_size);
}

void sampler_deinit(struct sampler *s)
{
    mem_free(s->work);
    mem_free(s->rest);
    mem_free(s->sums);
    *s = (struct sampler){0};
}

int sampler_counts_needed(const struct llm_sampling *p)
{
    return p->presence_penalty != 0 || p->frequency_penalty != 0 || p->repetition_penalty != 1;
}

/* ---- changes to the logits ----------------------------------------------------------------------------- */

static int ends_with(const struct sample_input *in, const int32_t *ids, int32_t n)
{
    return n <= in->n_output && !memcmp(in->output + in->n_output - n, ids, sizeof *ids * (size_t)n);
}

static void ban(float *x, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++) x[ids[i]] = -INFINITY;
}

/* A bad word is banned by banning its last token where the output ends with the others. */
static void ban_bad_words(float *x, const struct sample_input *in)
{
    for (int32_t i = 0; i < in->n_bad_words; i++) {
        const struct token_span *w = &in->bad_words[i];
        if (ends_with(in, w->ids, w->n - 1)) x[w->ids[w->n - 1]] = -INFINITY;
    }
}

static void penalize(float *x, const struct sample_input *in)
{
    const struct llm_sampling *p = in->params;
    for (int32_t i = 0; i < in->counts->n; i++) {
        const struct token_count *c = &in->counts->list[i];
        float v = x[c->token];
        v = v > 0 ? v / p->repetition_penalty : v * p->repetition_penalty;
        v -= p->frequency_penalty * (float)c->in_output;
        if (c->in_output) v -= p->presence_penalty;
        x[c->token] = v;
    }
}

const float *sampler_adjust(struct sampler *s, const float *logits, const struct sample_input *in)
{
    const struct llm_sampling *p = in->params;
    int young = in->n_output < p->min_tokens;
    if (!p->n_allowed_token_ids && !in->n_bad_words && !young && !p->n_logit_bias && !in->counts)
        return logits;
    float *x = s->work;
    if (p->n_allowed_token_ids) {
        for (int32_t i = 0; i < s->vocab_size; i++) x[i] = -INFINITY;
        for (size_t i = 0; i < p->n_allowed_token_ids; i++)
            x[p->allowed_token_ids[i]] = logits[p->allowed_token_ids[i]];
    } else {
        memcpy(x, logits, sizeof *x * (size_t)s->vocab_size);
    }
    ban_bad_words(x, in);
    if (young) {
        ban(x, in->end_tokens, (size_t)in->n_end_tokens);
        ban(x, p->stop_token_ids, p->n_stop_token_ids);
    }
    for (size_t i = 0; i < p->n_logit_bias; i++) x[p->logit_bias[i].token] += p->logit_bias[i].bias;
    if (in->counts) penalize(x, in);
    return x;
}

/* ---- the choice ---------------------------------------------------------------------------------------- */

/* Smallest weight that min_p, top_k and top_p keep; the largest weight is 1. */
static float threshold(struct sampler *s, const struct llm_sampling *p, double total)
{
    int32_t n = s->vocab_size;
    float least = p->min_p;
    if (p->top_k > 0 && p->top_k < n) {
        float kth = select_kth(s->work, n, p->top_k, s->rest);
        if (kth > least) least = kth;
    }
    if (p->top_p < 1) {
        if (least > 0) total = row_sum_from(s->work, n, least, s->sums);
        float v = select_mass(s->work, n, least, p->top_p * total, s->rest);
        if (v > least) least = v;
    }
    return least;
}

/* The token at which the running sum of kept weights passes u of their total, u in [0, 1). */
static int32_t draw(const struct sampler *s, float least, double total, double u)
{
    double left = u * total;
    int32_t n = s->vocab_size, b = 0, last = -1;
    for (; b + 1 < row_blocks(n) && left >= s->sums[b]; b++) left -= s->sums[b];
    /* Rounding may carry the walk past a block's end: then it goes on to the next kept token, or, at the end
     * of the row, back to the last. */
    for (int32_t i = b * ROW_BLOCK; i < n; i++) {
        if (s->work[i] < least || s->work[i] <= 0) continue;
        left -= s->work[i];
        if (left < 0) return i;
        last = i;
    }
    for (int32_t i = b * ROW_BLOCK - 1; last < 0 && i >= 0; i--)
        if (s->work[i] >= least && s->work[i] > 0) last = i;
    return last < 0 ? 0 : last;
}

/* Merges the sorted halves of each run of 2 * width. */
static void merge_runs(const struct llm_candidate *from, struct llm_candidate *to, int32_t n, int32_t width)
{
    for (int32_t begin = 0; begin < n; begin += 2 * width) {
        int32_t middle = begin + width < n ? begin + width : n, end = middle + width < n ? middle + width : n;
        int32_t i = begin, j = middle;
        for (int32_t k = begin; k < end; k++)
            to[k] = j >= end || (i < middle && from[i].prob >= from[j].prob) ? from[i++] : from[j++];
    }
}

/* Likeliest first; those in order of their ids stay so among equals. */
static void sort_candidates(struct llm_candidate *list, int32_t n)
{
    struct llm_candidate other[LLM_MAX_CANDIDATES], *from = list, *to = other;
    for (int32_t width = 1; width < n; width *= 2) {
        merge_runs(from, to, n, width);
        struct llm_candidate *t = from;
        from = to;
        to = t;
    }
    if (from != list) memcpy(list, from, sizeof *list * (size_t)n);
}

/* The best of the weights from `least` on, whose sum is `total`. Of those that equal the last one in, the
 * first by id. */
static void list_best(struct sampler *s, float least, double total, struct sample_best *best)
{
    int32_t n = s->vocab_size, room = best->n < n ? best->n : n, *ids = (int32_t *)(void *)s->rest;
    float cut = least > 0 ? least : FLT_MIN;
    if (row_count_from(s->work, n, cut) > room) cut = select_kth(s->work, n, room, s->rest);
    int32_t found = row_indices_from(s->work, n, cut, ids, n);
    int32_t equal = room;
    for (int32_t i = 0; i < found; i++) equal -= s->work[ids[i]] > cut;
    best->n = 0;
    for (int32_t i = 0; i < found; i++) {
        float w = s->work[ids[i]];
        if (w > cut || equal-- > 0)
            best->list[best->n++] = (struct llm_candidate){.token = ids[i], .prob = w};
    }
    sort_candidates(best->list, best->n);
    for (int32_t i = 0; i < best->n; i++) {
        struct llm_candidate *c = &best->list[i];
        c->prob = (float)(c->prob / total);
        c->logprob = logf(c->prob);
    }
}

int32_t sampler_choose(struct sampler *s, const float *x, const struct sample_input *in,
                       struct sample_best *best)
{
    const struct llm_sampling *p = in->params;
    int greedy = p->temperature < smallest_temperature;
    float max = row_max(x, s->vocab_size);
    if (!isfinite(max)) return -1;
    int32_t likeliest = greedy ? row_argmax(x, s->vocab_size) : 0;
    if (greedy && !best) return likeliest;

    double total = row_weights(x, s->vocab_size, max, greedy ? 1 : 1 / p->temperature, s->work, s->sums);
    float least = greedy ? 0 : threshold(s, p, total);
    if (least > 0) total = row_sum_from(s->work, s->vocab_size, least, s->sums);
    if (best) list_best(s, least, total, best);
    if (greedy) return likeliest;
    struct rng_block r = rng_philox(in->seed, in->stream, in->position);
    uint64_t u53 = ((uint64_t)r.word[0] << 21) ^ (r.word[1] >> 11);
    return draw(s, least, total, (double)u53 * 0x1p-53);
}

int32_t sampler_pick(struct sampler *s, const float *logits, const struct sample_input *in)
{
    int32_t token = sampler_choose(s, sampler_adjust(s, logits, in), in, NULL);
    return token >= 0 ? token : row_argmax(logits, s->vocab_size); /* everything was banned */
}

/* ---- log-probabilities --------------------------------------------------------------------------------- */

/* 1 if (a, token i) comes before (b, token j) in a list of the likeliest. */
static int likelier(float a, int32_t i, float b, int32_t j)
{
    return a > b || (a == b && i < j);
}

static int32_t rank_of(const float *x, int32_t n, int32_t token)
{
    float v = x[token];
    int32_t rank = 1;
    for (int32_t i = 0; i < n; i++) rank += x[i] > v;
    for (int32_t i = 0; i < token; i++) rank += x[i] == v;
    return rank;
}

/* Restores the heap order (least likely on top) below entry i. */
static void sift_down(struct llm_logprob *heap, int32_t n, int32_t i)
{
    struct llm_logprob e = heap[i];
    for (;;) {
        int32_t c = 2 * i + 1;
        if (c >= n) break;
        if (c + 1 < n && likelier(heap[c].logprob, heap[c].token, heap[c + 1].logprob, heap[c + 1].token))
            c++;
        if (!likelier(e.logprob, e.token, heap[c].logprob, heap[c].token)) break;
        heap[i] = heap[c];
        i = c;
    }
    heap[i] = e;
}

/* The k likeliest in order: a heap of k whose top is beaten by later ones, then heap sort. */
static void likeliest(const float *x, int32_t n, int32_t k, struct llm_logprob *top)
{
    for (int32_t i = 0; i < k; i++) top[i] = (struct llm_logprob){.token = i, .logprob = x[i]};
    for (int32_t i = k / 2 - 1; i >= 0; i--) sift_down(top, k, i);
    for (int32_t i = k; i < n; i++) {
        if (!(x[i] > top[0].logprob)) continue;
        top[0] = (struct llm_logprob){.token = i, .logprob = x[i]};
        sift_down(top, k, 0);
    }
    for (int32_t m = k - 1; m > 0; m--) {
        struct llm_logprob e = top[0];
        top[0] = top[m];
        top[m] = e;
        sift_down(top, m, 0);
    }
}

enum { DIGIT_BITS = 11, N_DIGITS = 3 };

/* A digit of a number that is the smaller the larger v is; NaN has the largest. */
static uint32_t digit_of(float v, int digit)
{
    uint32_t bits;
    v += 0.0f; /* both zeros are equal */
    memcpy(&bits, &v, sizeof bits);
    bits = isnan(v) ? UINT32_MAX : bits >> 31 ? bits : ~bits & INT32_MAX;
    return bits >> DIGIT_BITS * digit & ((1u << DIGIT_BITS) - 1);
}

/* All ids, likeliest first, in ids [n]: a radix sort, which keeps equals in their order. other: [n]. A heap
 * of the whole vocabulary takes ten times as long. */
static void sort_ids(const float *x, int32_t n, int32_t *ids, int32_t *other)
{
    for (int digit = 0; digit < N_DIGITS; digit++) {
        int32_t end[(1 << DIGIT_BITS) + 1] = {0};
        int32_t *from = digit % 2 ? ids : other, *to = digit % 2 ? other : ids;
        for (int32_t i = 0; i < n; i++) end[digit_of(x[i], digit) + 1]++;
        for (int32_t d = 0; d < 1 << DIGIT_BITS; d++) end[d + 1] += end[d];
        for (int32_t i = 0; i < n; i++) {
            int32_t id = digit ? from[i] : i;
            to[end[digit_of(x[id], digit)]++] = id;
        }
    }
}

void sampler_logprobs(struct sampler *s, const float *logits, int32_t token, int32_t k,
                      struct llm_logprob *row)
{
    int32_t n = s->vocab_size;
    double norm = row_logsumexp(logits, n, row_max(logits, n));
    row[0] = (struct llm_logprob){token, rank_of(logits, n, token), (float)(logits[token] - norm)};
    if (k <= 0) return;
    if (k < n / 32) {
        likeliest(logits, n, k, row + 1);
    } else {
        int32_t *ids = (int32_t *)(void *)s->work;
        sort_ids(logits, n, ids, (int32_t *)(void *)s->rest);
        for (int32_t i = 0; i < k; i++) row[1 + i] = (struct llm_logprob){ids[i], 0, logits[ids[i]]};
    }
    for (int32_t i = 1; i <= k; i++) {
        row[i].rank = i;
        row[i].logprob = (float)(row[i].logprob - norm);
    }
}
