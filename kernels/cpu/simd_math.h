#ifndef LLM_KERNELS_CPU_SIMD_MATH_H
#define LLM_KERNELS_CPU_SIMD_MATH_H

/* Elementary functions on vectors. */

#include "kernels/cpu/simd.h"

/* e^x within 2 ulp on [-87.3, 88.0]; 0 below, e^88 above. Cody and Waite's reduction, and the polynomial of
 * the Cephes library (S. Moshier) for e^r - 1 - r on |r| <= ln 2 / 2. */
INLINE vf vf_exp(vf x)
{
    const vf lowest = vf_set1(-87.3f);
    const vf c = vf_min(vf_max(x, lowest), vf_set1(88.0f));
    const vf n = vf_round(vf_mul(c, vf_set1(1.44269504f)));
    vf r = vf_fnma(n, vf_set1(0.693359375f), c);
    r = vf_fnma(n, vf_set1(-2.12194440e-4f), r);
    vf p = vf_set1(1.9875691500e-4f);
    p = vf_fma(p, r, vf_set1(1.3981999507e-3f));
    p = vf_fma(p, r, vf_set1(8.3334519073e-3f));
    p = vf_fma(p, r, vf_set1(4.1665795894e-2f));
    p = vf_fma(p, r, vf_set1(1.6666665459e-1f));
    p = vf_fma(p, r, vf_set1(5.0000001201e-1f));
    p = vf_fma(p, vf_mul(r, r), vf_add(r, vf_set1(1.0f)));
    const vi power = vi_sll(vi_add(vi_from_vf(n), vi_set1(127)), 23);
    return vf_select_lt(x, lowest, vf_zero(), vf_mul(p, vf_bits(power)));
}

INLINE vf vf_sigmoid(vf x)
{
    const vf one = vf_set1(1.0f);
    return vf_div(one, vf_add(one, vf_exp(vf_sub(vf_zero(), x))));
}

/* Absolute error below 2e-7. */
INLINE vf vf_tanh(vf x)
{
    return vf_sub(vf_mul(vf_set1(2.0f), vf_sigmoid(vf_mul(vf_set1(2.0f), x))), vf_set1(1.0f));
}

/* Absolute error below 3e-7: Abramowitz and Stegun, 7.1.26. */
INLINE vf vf_erf(vf x)
{
    const vf a = vf_abs(x), one = vf_set1(1.0f);
    const vf t = vf_div(one, vf_fma(a, vf_set1(0.3275911f), one));
    vf p = vf_set1(1.061405429f);
    p = vf_fma(p, t, vf_set1(-1.453152027f));
    p = vf_fma(p, t, vf_set1(1.421413741f));
    p = vf_fma(p, t, vf_set1(-0.284496736f));
    p = vf_fma(p, t, vf_set1(0.254829592f));
    const vf tail = vf_mul(vf_mul(p, t), vf_exp(vf_sub(vf_zero(), vf_mul(a, a))));
    return vf_copysign(vf_sub(one, tail), x);
}

#endif
