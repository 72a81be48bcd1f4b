#ifndef LLM_KERNELS_CPU_CPU_H
#define LLM_KERNELS_CPU_CPU_H

/* The CPU backend's own state, shared by its ops. */

#include "base/pool.h"
#include "kernels/kernels.h"

struct cpu_isa;

struct cpu_backend {
    struct backend base; /* first: a struct backend * of ours is a struct cpu_backend * */
    struct pool *pool;
    const char *isa_name;
    const struct cpu_isa *isa; /* null: the reference */
    int32_t panel_rows;
    struct backend_limits limits;
    uint8_t *scratch; /* made by reserve; carved by the ops */
    size_t scratch_bytes;
};

static inline struct cpu_backend *cpu_of(struct backend *be)
{
    return (struct cpu_backend *)be;
}

/* Replaces the scratch memory. Errors: LLM_ENOMEM. */
llm_status cpu_reserve_scratch(struct cpu_backend *cpu, size_t bytes, struct llm_error *err);

/* Fill in reserve and the five ops. */
void ref_install(struct backend *be);

#endif
