/* Log-probabilities of the raw row: of the token that was chosen, and of the likeliest. A block a row, two
 * passes: the largest, the token's rank and a bound for the likeliest; then the sum of exp and what reaches
 * the bound. */

#include "kernels/cuda/best.cuh"

static __global__ void __launch_bounds__(ROW_THREADS, 1) logprobs_kernel(const struct sample_args a)
{
    __shared__ struct best b;
    pdl_launch();
    pdl_wait();
    const struct sample_row p = a.rows[blockIdx.x];
    if (p.slot < 0 || p.n_logprobs < 0) return;
    const float *x = a.logits + blockIdx.x * a.logits_stride;
    struct sample_logprob *to = a.logprobs + (size_t)blockIdx.x * (1 + SAMPLE_MAX_LOGPROBS);
    int n = a.vocab_size, k = min(p.n_logprobs, n), token = a.out[blockIdx.x].token, larger = 0, at = 0;
    float own = -INFINITY, chosen = x[token];
    each(x, n, [&](int i, float v) {
        own = fmaxf(own, v);
        larger += v > chosen || (v == chosen && i < token);
    });
    float max = own;
    block_argmax(&max, &at, &b.sums);
    int rank = 1 + block_count(larger, &b.sums);

    uint32_t bound = k > 0 ? best_bound(ordered(own), k, ordered(-INFINITY), &b) : 0;
    bool looks = k > 0 && ordered(own) >= best_own_bound(bound);
    float reached = looks ? from_ordered(bound) : INFINITY, sum = 0;
    each(x, n, [&](int i, float v) {
        sum += v > -INFINITY ? __expf(v - max) : 0; /* the product in it is exact enough: max is near */
        if (v >= reached && looks) best_add(&b, ordered(v), i);
    });
    double norm = (double)max + log(block_sum((double)sum, &b.sums));
    if (threadIdx.x == 0) to[0] = {token, rank, (float)((double)chosen - norm)};
    if (k == 0) return;
    best_narrow(
        x, n, k, [](float v) { return ordered(v); }, &b);
    best_emit(&b, k, [&](int place, int id, uint32_t key) {
        to[1 + place] = {id, 1 + place, (float)((double)from_ordered(key) - norm)};
    });
}

llm_status cuda_logprobs(struct backend *be, const struct sample_args *a)
{
    return cuda_launch(cuda_of(be), "logprobs", logprobs_kernel, dim3(a->n), dim3(ROW_THREADS), 0, *a);
}
