/* Ops on independent rows: norm, embedding, rotation and cache writes. */

#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

/* Fewer elements than this are done by the calling thread: to wake the others would take longer. */
enum { PARALLEL_ELEMS = 16 * 1024 };

static void run_rows(const struct cpu_backend *cpu, int64_t elems, pool_fn *fn, void *job)
{
    if (elems < PARALLEL_ELEMS)
        fn(job, 0, 1);
    else
        pool_run(cpu->pool, fn, job);
}

struct norm_job {
    const struct cpu_backend *cpu;
    const struct norm_args *a;
};

static void norm_member(void *arg, int32_t member, int32_t n_members)
{
    const struct norm_job *job = arg;
    const struct norm_args *a = job->a;
    float *row = cpu_member_scratch(job->cpu, job->cpu->scratch.member_row, member);
    int64_t begin, end;
    pool_part(a->n_rows, 1, member, n_members, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        const float *x = (const float *)a->x + i * a->x_stride;
        float *y = (float *)a->y + i * a->y_stride;
        job->cpu->isa->norm_row(&a->norm, x, a->add ? row : y, a->n);
        if (!a->add) continue;
        for (int32_t j = 0; j < a->n; j++) y[j] += row[j];
    }
}

llm_status cpu_norm(struct backend *be, const struct norm_args *a)
{
    struct norm_job job = {cpu_of(be), a};
    run_rows(job.cpu, (int64_t)a->n_rows * a->n, norm_member, &job);
    return LLM_OK;
}

struct embed_job {
    const struct cpu_backend *cpu;
    const struct embed_args *a;
};

static void embed_member(void *arg, int32_t member, int32_t n_members)
{
    const struct embed_job *job = arg;
    const struct embed_args *a = job->a;
    float *position = cpu_member_scratch(job->cpu, job->cpu->scratch.member_row, member);
    int64_t begin, end;
    pool_part(a->n_tokens, 1, member, n_members, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        float *x = (float *)a->x + i * a->x_stride;
        dequantize_row(a->table, a->tokens[i], x);
        for (int32_t j = 0; j < a->n; j++) x[j] *= a->scale;
        if (!a->position_table) continue;
        dequantize_row(a->position_table, a->positions[i] + a->position_offset, position);
        for (int32_t j = 0; j < a->n; j++) x[j] += position[j];
    }
}

llm_status cpu_embed(struct backend *be, const struct embed_args *a)
{
    struct embed_job job = {cpu_of(be), a};
    run_rows(job.cpu, (int64_t)a->n_tokens * a->n, embed_member, &job);
    return LLM_OK;
}

struct rope_kv_job {
    const struct cpu_backend *cpu;
    const struct rope_kv_args *a;
};

static void rope_kv_member(void *arg, int32_t member, int32_t n_members)
{
    const struct rope_kv_job *job = arg;
    int64_t begin, end;
    pool_part(job->a->n_tokens, 1, member, n_members, &begin, &end);
    for (int64_t i = begin; i < end; i++) job->cpu->isa->rope_kv_row(job->a, (int32_t)i);
}

llm_status cpu_rope_kv(struct backend *be, const struct rope_kv_args *a)
{
    struct rope_kv_job job = {cpu_of(be), a};
    run_rows(job.cpu, (int64_t)a->n_tokens * (a->n_heads + 2 * a->kv->n_kv_heads) * a->kv->head_dim,
             rope_kv_member, &job);
    return LLM_OK;
}

/* A few rows of a batch: not worth waking anybody for. */
llm_status cpu_gather(struct backend *be, const struct gather_args *a)
{
    (void)be;
    for (int32_t i = 0; i < a->n_rows; i++)
        memcpy((float *)a->y + i * a->y_stride, (const float *)a->x + a->rows[i] * a->x_stride,
               sizeof(float) * (size_t)a->n);
    return LLM_OK;
}

static void logits_member(void *arg, int32_t member, int32_t n_members)
{
    const struct logits_args *a = arg;
    int64_t begin, end;
    pool_part(a->n_rows, 1, member, n_members, &begin, &end);
    for (int64_t i = begin; i < end; i++) {
        float *x = a->x + i * a->x_stride;
        for (int32_t j = 0; j < a->n; j++) {
            x[j] *= a->scale;
            if (a->softcap > 0) x[j] = a->softcap * tanhf(x[j] / a->softcap);
        }
    }
}

llm_status cpu_logits(struct backend *be, const struct logits_args *a)
{
    struct logits_args copy = *a;
    run_rows(cpu_of(be), (int64_t)a->n_rows * a->n, logits_member, &copy);
    return LLM_OK;
}
