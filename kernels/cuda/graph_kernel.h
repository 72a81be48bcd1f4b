#ifndef LLM_KERNELS_CUDA_GRAPH_KERNEL_H
#define LLM_KERNELS_CUDA_GRAPH_KERNEL_H

/* What the kernel of a compiled graph is launched with: for the host that fills it, and the kernel. */

#include <stdint.h>

/* One argument of a request. A list or pairs: bit t % 32 of bits[t / 32] says whether token t is in it, and
 * values[ranks[t / 32] + the set bits below it] is its number. */
struct graph_arg {
    double number;
    const uint32_t *bits;           /* [seat_bit_words] LIST, PAIRS */
    const uint32_t *ranks;          /* [seat_bit_words] PAIRS */
    const float *values;            /* PAIRS */
    const int32_t *class_of, *next; /* AUTOMATON; null: none was given */
    int32_t n_states, n_classes;
};

/* The second parameter of the kernel; the first is struct sample_args. */
struct graph_launch {
    uint64_t id; /* rows whose links name it are run */
    int32_t round;
    const uint32_t *constants; /* bits of the lists in the graph's text, one after the other */
    uint32_t *tables;          /* [clusters][n_tables][vocab_size], zero between rows */
};

#endif
