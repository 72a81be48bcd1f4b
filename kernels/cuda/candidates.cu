/* The likeliest of what a row is drawn from, in order. A block a row; sample has left the weights' scale,
 * their sum, and the smallest logit that it keeps. Weights are the host's to the bit, so that equal ones are
 * equal here, too. */

#include "kernels/cuda/best.cuh"

static __global__ void __launch_bounds__(ROW_THREADS, 1) candidates_kernel(const struct sample_args a)
{
    __shared__ struct best b;
    pdl_launch();
    pdl_wait();
    const struct sample_row p = a.rows[blockIdx.x];
    if (p.slot < 0 || p.seat < 0 || p.n_candidates <= 0) return;
    struct sampled *out = &a.out[blockIdx.x];
    if (out->flags & (SAMPLED_BARREN | SAMPLED_CHOSEN | SAMPLED_FAILED)) return;
    const struct sample_state state = a.state[blockIdx.x];
    struct sample_candidate *to = a.candidates + (size_t)blockIdx.x * SAMPLE_MAX_CANDIDATES;
    int n = a.vocab_size, k = min(p.n_candidates, min((int)SAMPLE_MAX_CANDIDATES, n));
    auto weight = [&](float v) {
        float d = __fmul_rn(__fsub_rn(v, state.max), state.inverse);
        return d <= 0 ? __float_as_uint(host_exp(d)) : 0u; /* NaN: out */
    };

    const float own = own_max(state.at, n).max;
    /* Bits of floats that are not negative order as they do. */
    uint32_t least = max(weight(state.least), 1u);
    uint32_t bound = best_bound(weight(own), k, least, &b);
    /* Weights are computed of few elements: of those that reach the bound, or nearly. */
    float depth = logf(__uint_as_float(bound)) / state.inverse;
    float reached = state.max + depth - 1e-4f * (fabsf(state.max) - depth);
    if (weight(own) >= best_own_bound(bound))
        each(state.at, n, [&](int i, float v) {
            if (!(v >= reached)) return;
            uint32_t key = weight(v);
            if (key >= bound) best_add(&b, key, i);
        });
    best_narrow(
        state.at, n, k,
        [&](float v) {
            uint32_t key = weight(v);
            return key >= least ? key : 0u;
        },
        &b);
    int found = best_emit(&b, k, [&](int place, int id, uint32_t key) {
        float prob = (float)((double)__uint_as_float(key) / state.total);
        to[place] = {id, prob, logf(prob)};
    });
    if (threadIdx.x == 0) out->n_candidates = found;
}

llm_status cuda_candidates(struct backend *be, const struct sample_args *a)
{
    return cuda_launch(cuda_of(be), "candidates", candidates_kernel, dim3(a->n), dim3(ROW_THREADS), 0, *a);
}
