#ifndef LLM_KERNELS_CPU_CPU_H
#define LLM_KERNELS_CPU_CPU_H

/* The CPU backend's own state, shared by its ops. */

#include "base/pool.h"
#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"

/* Working memory, made by reserve. Members (threads of the pool) have one of each of the member_ fields. */
struct cpu_scratch {
    uint8_t *memory;
    size_t bytes;
    uint8_t *tiles_q8;   /* the rows of a linear layer, rounded, as tiles */
    float *tiles_f32;    /* the same as f32 */
    size_t member_bytes; /* from one member's to the next's */
    float *member_row;   /* [max_n] */
    uint8_t *member_q8;  /* one tile */
    float *member_f32;
    float *member_attention;
};

struct cpu_backend {
    struct backend base; /* first: a struct backend * of ours is a struct cpu_backend * */
    struct pool *pool;
    const char *isa_name;
    const struct cpu_isa *isa; /* null: the reference */
    struct backend_limits limits;
    struct cpu_scratch scratch;
};

static inline struct cpu_backend *cpu_of(struct backend *be)
{
    return (struct cpu_backend *)be;
}

/* A member's instance of one of the member_ fields. */
static inline void *cpu_member_scratch(const struct cpu_backend *cpu, void *field, int32_t member)
{
    return (uint8_t *)field + (size_t)member * cpu->scratch.member_bytes;
}

/* Puts `bytes` of scratch memory in place of what there is, which stays if it fails. Errors: LLM_ENOMEM. */
llm_status cpu_renew_scratch(struct cpu_backend *cpu, size_t bytes, struct llm_error *err);

/* Fills in reserve and the five ops of the reference. */
void ref_install(struct backend *be);

/* Up to so many elements of x, each thread lays out the rows of a linear layer for itself: that costs less
 * than to wait for the others at a barrier. */
enum { LINEAR_ALONE_ELEMS = 4096 };

/* Floats a member needs for attention. */
size_t attention_member_bytes(const struct backend_limits *limits);

/* The ops of all other instruction sets. */
llm_status cpu_embed(struct backend *be, const struct embed_args *a);
llm_status cpu_gather(struct backend *be, const struct gather_args *a);
llm_status cpu_logits(struct backend *be, const struct logits_args *a);
llm_status cpu_norm(struct backend *be, const struct norm_args *a);
llm_status cpu_linear(struct backend *be, const struct linear_args *a);
llm_status cpu_rope_kv(struct backend *be, const struct rope_kv_args *a);
llm_status cpu_attention(struct backend *be, const struct attention_args *a);

#endif
