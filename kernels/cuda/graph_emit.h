#ifndef LLM_KERNELS_CUDA_GRAPH_EMIT_H
#define LLM_KERNELS_CUDA_GRAPH_EMIT_H

/* The source of the kernel that runs a policy graph: CUDA C++ for NVRTC. Pure functions of the graph, which
 * need no CUDA. */

#include "graph/graph.h"

enum {
    GRAPH_SOURCE_VOCAB = 1 << 19, /* larger vocabularies: by the host */
    GRAPH_SOURCE_TABLES = 8,      /* rows made from the history */
    GRAPH_SOURCE_THREADS = 1024   /* a block, unless the source is compiled with another THREADS */
};

struct graph_source {
    char *text;
    size_t bytes;
    int32_t shared_bytes; /* a block's dynamic shared memory */
    int32_t n_tables;     /* rows of u32 [vocab_size] a cluster needs, zero before the first launch */
    uint32_t *constants;  /* graph_launch.constants */
    size_t n_constants;
};

/* Errors: LLM_EUNSUP (the vocabulary, tables or size are beyond what devices do; the interpreter runs the
 * graph), LLM_ENOMEM. */
llm_status graph_emit(const struct graph *g, int32_t vocab_size, struct graph_source *out,
                      struct llm_error *err);
void graph_source_free(struct graph_source *s);

/* The name of the kernel in the source: its parameters are struct sample_args and struct graph_launch
 * (graph_kernel.h), its grid clusters of 1, 2, 4 or 8 blocks, each of which takes rows by turns. */
#define GRAPH_KERNEL_NAME "policy_graph"

/* What the source includes, by name; the last has a null name. The first few stand for headers of the C
 * library that a compiler at run time has not. */
struct graph_header {
    const char *name, *text;
    size_t bytes;
};
extern const struct graph_header graph_headers[];

#endif
