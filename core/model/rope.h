#ifndef LLM_MODEL_ROPE_H
#define LLM_MODEL_ROPE_H

/* Rotation angles of rotary position embedding, with all scalings of transformers' modeling_rope_utils.py,
 * computed in double precision. */

#include "model/config.h"

/* Fills table [n_positions, rotary_dim], f32, as rope_kv_args of kernels.h wants it: a row holds rotary_dim/2
 * cosines, then as many sines, the attention factor folded in.
 *
 * The frequencies of dynamic and longrope scaling depend on the length of the text. Angles in the KV cache
 * cannot change while a text grows, so here they depend on n_positions, the longest text: up to
 * original_max_position they are the unscaled (short) ones, beyond it those for n_positions.
 * Errors: LLM_ENOMEM. */
llm_status rope_table_fill(const struct rope_config *rope, int32_t n_positions, float *table,
                           struct llm_error *err);

/* Radians a position of each pair, [rotary_dim / 2]. */
void rope_frequencies(const struct rope_config *rope, int32_t n_positions, double *out);

/* What cosines and sines are multiplied by. */
double rope_attention_factor(const struct rope_config *rope);

#endif
