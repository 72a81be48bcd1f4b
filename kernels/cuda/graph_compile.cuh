#ifndef LLM_KERNELS_CUDA_GRAPH_COMPILE_CUH
#define LLM_KERNELS_CUDA_GRAPH_COMPILE_CUH

/* Policy graphs on the device: what graph_compile.cu and graph_args.cu share. */

#include "kernels/cuda/cuda.cuh"

extern "C" {
#include "graph/args.h"
#include "kernels/cuda/graph_emit.h"
#include "kernels/cuda/graph_kernel.h"
#include "kernels/sampling.h"
}

#include <pthread.h>

struct device_graph {
    uint64_t id;
    const struct graph *graph;
    int32_t vocab_size, shared_bytes, most_clusters;
    cudaLibrary_t library;
    cudaKernel_t kernel;
    uint32_t *constants, *tables;
    /* Of one that is closed: */
    struct device_graph *next;
    cudaEvent_t passed; /* when the device has, no step can run it; null: not set yet */
};

/* An automaton on the device, shared by all arguments that name it. */
struct device_automaton {
    struct device_automaton *next;
    struct graph_automaton *host; /* a reference of our own: nobody else's has its address */
    int32_t refs;                 /* arguments */
    int32_t *class_of, *table;
};

struct device_graph_args {
    struct device_graph_args *next; /* of those that are closed */
    int32_t n_params;
    void *block; /* struct graph_arg [n_params], then their tables */
    struct device_automaton *automata[GRAPH_MAX_PARAMS];
};

/* Of a backend. The lists of what was closed are filled by any thread, under the lock, and worked off by the
 * engine's. */
struct cuda_graphs {
    pthread_mutex_t lock;
    struct device_graph *closed_graphs;
    struct device_graph_args *closed_args;
    int32_t n_closed;                  /* read without the lock: 0: nothing to do */
    struct device_automaton *automata; /* the engine's thread */
    int pool_is_set;
};

/* graph_args.cu: frees what was closed and what nobody refers to any more. */
void graph_args_reap(struct cuda_backend *cu, struct device_graph_args *closed);
void graph_args_forget(struct cuda_backend *cu); /* all automata, when the device is idle */

#endif
