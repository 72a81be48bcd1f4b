/* Log-probabilities of a raw row: of one token, chosen or given, and of the likeliest. A block a row: a pass
 * for the sum of exp, the token's rank and a bound for the likeliest, then a look at what may reach the
 * bound. */

#include "kernels/cuda/best.cuh"

/* to[0]: the token; to[1 .. k]: the likeliest; k <= n. */
static __device__ void list_logprobs(const float *x, const int n, const int token, const int k,
                                     struct sample_logprob *to, struct best *b)
{
    const float log2_e = 1.44269504088896341f, chosen = x[token];
    int larger = 0;
    struct exp_sum e = {-INFINITY, 0};
    each_piece(x, n, [&](const struct piece &q) {
        exp_sum_add(&e, &q, -FLT_MAX, log2_e);
#pragma unroll
        for (int j = 0; j < 16; j++)
            larger += q.v[j] > chosen || (q.v[j] == chosen && piece_id(&q, j) < token);
    });
    float max = block_max(e.max, &b->sums);
    int rank = 1 + block_count(larger, &b->sums);
    double norm = (double)max + log(block_sum(exp_sum_from(max, e, log2_e), &b->sums));
    if (threadIdx.x == 0) to[0] = {token, rank, (float)((double)chosen - norm)};
    if (k == 0) return;

    uint32_t bound = best_bound(ordered(e.max), k, ordered(-INFINITY), b);
    float reached = from_ordered(bound);
    if (ordered(e.max) >= best_own_bound(bound))
        each(x, n, [&](int i, float v) {
            if (v >= reached) best_add(b, ordered(v), i);
        });
    best_narrow(
        x, n, k, [](float v) { return ordered(v); }, b);
    best_emit(b, k, [&](int place, int id, uint32_t key) {
        to[1 + place] = {id, 1 + place, (float)((double)from_ordered(key) - norm)};
    });
}

static __global__ void __launch_bounds__(ROW_THREADS, 1) logprobs_kernel(const struct sample_args a)
{
    __shared__ struct best b;
    pdl_launch();
    pdl_wait();
    const struct sample_row p = a.rows[blockIdx.x];
    if (p.slot < 0 || p.n_logprobs < 0) return;
    list_logprobs(a.logits + blockIdx.x * a.logits_stride, a.vocab_size, a.out[blockIdx.x].token,
                  min(p.n_logprobs, a.vocab_size),
                  a.logprobs + (size_t)blockIdx.x * (1 + SAMPLE_MAX_LOGPROBS), &b);
}

llm_status cuda_logprobs(struct backend *be, const struct sample_args *a)
{
    return cuda_launch(cuda_of(be), "logprobs", logprobs_kernel, dim3(a->n), dim3(ROW_THREADS), 0, *a);
}

static __global__ void __launch_bounds__(ROW_THREADS, 1) score_kernel(const struct score_args a)
{
    __shared__ struct best b;
    pdl_launch();
    pdl_wait();
    list_logprobs(a.logits + blockIdx.x * a.logits_stride, a.vocab_size, a.tokens[blockIdx.x],
                  min(a.n_logprobs, a.vocab_size), a.out + (size_t)blockIdx.x * (1 + a.n_logprobs), &b);
}

llm_status cuda_score(struct backend *be, const struct score_args *a)
{
    return cuda_launch(cuda_of(be), "scoring", score_kernel, dim3(a->n), dim3(ROW_THREADS), 0, *a);
}
