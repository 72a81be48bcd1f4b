#include "model/rope.h"
#include "base/mem.h"

#include <math.h>

static const double two_pi = 6.283185307179586476925286766559;

/* Su et al., RoFormer, 2021: theta^(-2i/d). */
static double plain_frequency(double theta, int32_t pair, int32_t rotary_dim)
{
    return pow(theta, -2.0 * pair / rotary_dim);
}

/* NTK-aware scaling by a larger base, for texts of n_positions (bloc97 and emozilla, 2023;
 * _compute_dynamic_ntk_parameters). */
static double dynamic_theta(const struct rope_config *rope, int32_t n_positions)
{
    double trained = rope->original_max_position, d = rope->rotary_dim;
    if (n_positions <= trained || d <= 2) return rope->theta;
    return rope->theta * pow(rope->factor * n_positions / trained - (rope->factor - 1), d / (d - 2));
}

/* Llama 3.1: long waves are slowed by the factor, short ones kept, those between interpolated
 * (_compute_llama3_parameters). */
static double llama3_frequency(const struct rope_config *rope, double frequency)
{
    double waves = rope->original_max_position * frequency / two_pi; /* in the trained context */
    if (waves > rope->high_freq_factor) return frequency;
    if (waves < rope->low_freq_factor) return frequency / rope->factor;
    double smooth = (waves - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (1 - smooth) * frequency / rope->factor + smooth * frequency;
}

/* The pair that turns `rotations` times in the trained context; Peng et al., YaRN, 2023, §3.2. */
static double yarn_pair(const struct rope_config *rope, double rotations)
{
    return rope->rotary_dim * log(rope->original_max_position / (rotations * two_pi)) /
           (2 * log(rope->theta));
}

/* Pairs below `low` keep their frequency, those above `high` are slowed by the factor, a ramp between
 * (_compute_yarn_parameters). */
static double yarn_frequency(const struct rope_config *rope, double frequency, int32_t pair)
{
    double low = yarn_pair(rope, rope->beta_fast), high = yarn_pair(rope, rope->beta_slow);
    if (rope->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, rope->rotary_dim - 1);
    if (low == high) high += 0.001; /* as the original does */
    double slowed = fmin(fmax((pair - low) / (high - low), 0), 1);
    return frequency / rope->factor * slowed + frequency * (1 - slowed);
}

void rope_frequencies(const struct rope_config *rope, int32_t n_positions, double *out)
{
    double theta = rope->scaling == ROPE_SCALE_DYNAMIC ? dynamic_theta(rope, n_positions) : rope->theta;
    /* LongRoPE (Ding et al., 2024) has two sets of divisors; GGUF's rope_freqs.weight are some for any
     * scaling. */
    int is_long = rope->scaling == ROPE_SCALE_LONGROPE && n_positions > rope->original_max_position;
    const float *divisors = is_long ? rope->long_factor : rope->short_factor;
    for (int32_t i = 0; i < rope->rotary_dim / 2; i++) {
        double f = plain_frequency(theta, i, rope->rotary_dim);
        if (divisors) f /= (double)divisors[i];
        if (rope->scaling == ROPE_SCALE_LINEAR) f /= rope->factor;
        if (rope->scaling == ROPE_SCALE_LLAMA3) f = llama3_frequency(rope, f);
        if (rope->scaling == ROPE_SCALE_YARN) f = yarn_frequency(rope, f, i);
        out[i] = f;
    }
}

/* YaRN §3.4, with the multiplier that DeepSeek added. */
static double yarn_mscale(double factor, double multiplier)
{
    return factor <= 1 ? 1 : 0.1 * multiplier * log(factor) + 1;
}

double rope_attention_factor(const struct rope_config *rope)
{
    if (rope->scaling != ROPE_SCALE_YARN && rope->scaling != ROPE_SCALE_LONGROPE) return 1;
    if (rope->attention_factor > 0) return rope->attention_factor;
    if (rope->scaling == ROPE_SCALE_LONGROPE)
        return rope->factor <= 1 ? 1 : sqrt(1 + log(rope->factor) / log(rope->original_max_position));
    if (rope->mscale > 0 && rope->mscale_all_dim > 0)
        return yarn_mscale(rope->factor, rope->mscale) / yarn_mscale(rope->factor, rope->mscale_all_dim);
    return yarn_mscale(rope->factor, 1);
}

llm_status rope_table_fill(const struct rope_config *rope, int32_t n_positions, float *table,
                           struct llm_error *err)
{
    size_t half = (size_t)rope->rotary_dim / 2;
    double *frequencies = mem_array(half, sizeof *frequencies);
    if (!frequencies) return llm_fail(err, LLM_ENOMEM, "no memory for rotation frequencies");
    rope_frequencies(rope, n_positions, frequencies);
    double factor = rope_attention_factor(rope);
    for (int32_t p = 0; p < n_positions; p++) {
        float *row = table + (size_t)p * 2 * half;
        for (size_t i = 0; i < half; i++) {
            double angle = p * frequencies[i];
            row[i] = (float)(cos(angle) * factor);
            row[half + i] = (float)(sin(angle) * factor);
        }
    }
    mem_free(frequencies);
    return LLM_OK;
}
