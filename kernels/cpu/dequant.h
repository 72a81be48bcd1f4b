#ifndef LLM_KERNELS_CPU_DEQUANT_H
#define LLM_KERNELS_CPU_DEQUANT_H

/* Pieces of the stored formats that both dequantize_row and the repacking at load read. */

#include "kernels/kernels.h"

/* Values that IQ4_NL and IQ4_XS nibbles stand for. */
extern const int8_t iq4_values[16];

/* The 16 scales of a Q3_K superblock from its 12 bytes: 8 low nibbles, 8 more, then high pairs. */
void q3_k_scales(const uint8_t *p, int8_t scales[16]);
/* Scale and minimum j (0..7) of a Q4_K or Q5_K superblock from its 12 bytes. */
void q4_k_scale(const uint8_t *p, int j, uint8_t *scale, uint8_t *min);
/* Scale j (0..7) of the IQ4_XS superblock at p. */
int iq4_xs_scale(const uint8_t *p, int j);

#endif
