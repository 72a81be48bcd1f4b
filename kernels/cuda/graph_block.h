#ifndef LLM_KERNELS_CUDA_GRAPH_BLOCK_H
#define LLM_KERNELS_CUDA_GRAPH_BLOCK_H

/* The arguments of a request as a kernel reads them: struct graph_arg [n_params], then their tables. */

#include "graph/args.h"
#include "kernels/cuda/graph_kernel.h"

/* Where an automaton lies on the device. */
struct graph_block_automaton {
    const int32_t *class_of, *next; /* null: none */
};

/* Writes the block to `host`, zeroed memory, to be copied to `device`; automata [n_params]. Returns its
 * bytes; host null: only these. */
size_t graph_block_write(const struct graph *g, const struct graph_args *args,
                         const struct graph_block_automaton *automata, char *host, const char *device);

#endif
