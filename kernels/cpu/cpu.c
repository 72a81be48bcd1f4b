#include "kernels/cpu/cpu.h"
#include "base/mem.h"
#include "kernels/cpu/kv_layout.h"
#include "kernels/cpu/weight.h"

/* ---- memory -------------------------------------------------------------------------------------------- */

static void *cpu_alloc(struct backend *be, size_t bytes)
{
    (void)be;
    return mem_map(bytes);
}

static void cpu_free(struct backend *be, void *p, size_t bytes)
{
    (void)be;
    mem_unmap(p, bytes);
}

llm_status cpu_renew_scratch(struct cpu_backend *cpu, size_t bytes, struct llm_error *err)
{
    uint8_t *memory = mem_map(bytes);
    if (!memory) return llm_fail(err, LLM_ENOMEM, "no memory for %zu bytes of scratch space", bytes);
    mem_unmap(cpu->scratch.memory, cpu->scratch.bytes);
    cpu->scratch = (struct cpu_scratch){.memory = memory, .bytes = bytes};
    return LLM_OK;
}

/* Takes `bytes` from *at on, in whole cache lines. */
static size_t carve(size_t *at, size_t bytes)
{
    const size_t begin = *at;
    *at += (bytes + 63) / 64 * 64;
    return begin;
}

static llm_status cpu_reserve(struct backend *be, const struct backend_limits *limits, struct llm_error *err)
{
    struct cpu_backend *cpu = cpu_of(be);
    const size_t rows = (size_t)limits->max_rows, n = (size_t)limits->max_n;
    size_t shared = 0, own = 0;
    const size_t q8 = carve(&shared, rows * (n / 32 * TILE_BLOCK_BYTES));
    const size_t f32 = carve(&shared, rows * n * sizeof(float));
    const size_t row = carve(&own, n * sizeof(float));
    const size_t alone_q8 = carve(&own, LINEAR_ALONE_ELEMS / 32 * TILE_BLOCK_BYTES);
    const size_t alone_f32 = carve(&own, LINEAR_ALONE_ELEMS * sizeof(float));
    const size_t attention = carve(&own, attention_member_bytes(limits));
    own = (own + 4095) / 4096 * 4096; /* members do not share pages: each touches its own first */
    shared = (shared + 4095) / 4096 * 4096;
    llm_status status = cpu_renew_scratch(cpu, shared + own * (size_t)pool_size(cpu->pool), err);
    if (status != LLM_OK) return status;
    struct cpu_scratch *s = &cpu->scratch;
    uint8_t *members = s->memory + shared;
    s->tiles_q8 = s->memory + q8;
    s->tiles_f32 = (float *)(void *)(s->memory + f32);
    s->member_bytes = own;
    s->member_row = (float *)(void *)(members + row);
    s->member_q8 = members + alone_q8;
    s->member_f32 = (float *)(void *)(members + alone_f32);
    s->member_attention = (float *)(void *)(members + attention);
    cpu->limits = *limits;
    return LLM_OK;
}

/* ---- weights ------------------------------------------------------------------------------------------- */

static llm_status cpu_weight_create(struct backend *be, const struct weight_spec *spec, struct weight **out,
                                    struct llm_error *err)
{
    return weight_pack(cpu_of(be)->pool, cpu_of(be)->isa ? cpu_of(be)->isa->panel_rows : 1, spec, out, err);
}

static void cpu_weight_destroy(struct backend *be, struct weight *w)
{
    (void)be;
    weight_free(w);
}

static size_t cpu_weight_bytes(const struct weight *w)
{
    return w->bytes;
}

/* ---- KV pages ------------------------------------------------------------------------------------------ */

/* A multiple of 64, so that pages keep the alignment of the buffer. */
static size_t cpu_kv_page_bytes(const struct backend *be, const struct kv_cache *shape)
{
    (void)be;
    return (kv_head_offset(shape, shape->n_layers, 0) + 63) / 64 * 64;
}

static llm_status cpu_kv_copy(struct backend *be, const struct kv_cache *kv, int32_t from_page,
                              int32_t to_page)
{
    (void)be;
    uint8_t *base = kv->base;
    memcpy(base + (size_t)to_page * kv->page_bytes, base + (size_t)from_page * kv->page_bytes,
           kv->page_bytes);
    return LLM_OK;
}

/* ---- open ---------------------------------------------------------------------------------------------- */

static void cpu_close(struct backend *be)
{
    struct cpu_backend *cpu = cpu_of(be);
    if (!cpu) return;
    pool_close(cpu->pool);
    mem_unmap(cpu->scratch.memory, cpu->scratch.bytes);
    mem_free(cpu);
}

static int have_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

static int have_avx512(void)
{
    return have_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
}

static int have_any(void)
{
    return 1;
}

/* Best first. */
static const struct isa_choice {
    const char *name;
    int (*is_here)(void);
    const struct cpu_isa *isa; /* null: the reference */
} isa_choices[] = {
    {"avx512", have_avx512, &cpu_isa_avx512},
    {"avx2", have_avx2, &cpu_isa_avx2},
    {"ref", have_any, NULL},
};

static const struct isa_choice *choose_isa(const char *name, struct llm_error *err)
{
    const int n = (int)(sizeof isa_choices / sizeof isa_choices[0]);
    for (int i = 0; i < n; i++) {
        const struct isa_choice *c = &isa_choices[i];
        if (name && strcmp(name, c->name) != 0) continue;
        if (c->is_here()) return c;
        if (!name) continue;
        llm_fail(err, LLM_EINVAL, "this processor does not have the instruction set \"%s\"", name);
        return NULL;
    }
    llm_fail(err, LLM_EINVAL, "instruction set \"%s\" is unknown; use \"avx512\", \"avx2\" or \"ref\"", name);
    return NULL;
}

llm_status cpu_backend_open(const struct cpu_options *options, struct backend **out, struct llm_error *err)
{
    const struct isa_choice *choice = choose_isa(options->isa, err);
    if (!choice) return LLM_EINVAL;
    struct cpu_backend *cpu = mem_zalloc(sizeof *cpu);
    if (!cpu) return llm_fail(err, LLM_ENOMEM, "no memory for the CPU backend");
    const int32_t n_threads = options->n_threads ? options->n_threads : pool_cpu_count();
    llm_status status = pool_open(n_threads, &cpu->pool, err);
    if (status != LLM_OK) {
        mem_free(cpu);
        return status;
    }
    cpu->isa_name = choice->name;
    cpu->isa = choice->isa;
    struct backend *be = &cpu->base;
    *be = (struct backend){
        .name = "cpu",
        .act_dtype = DTYPE_F32,
        .close = cpu_close,
        .alloc = cpu_alloc,
        .free = cpu_free,
        .weight_create = cpu_weight_create,
        .weight_destroy = cpu_weight_destroy,
        .weight_bytes = cpu_weight_bytes,
        .kv_page_bytes = cpu_kv_page_bytes,
        .kv_copy = cpu_kv_copy,
        .reserve = cpu_reserve,
        .embed = cpu_embed,
        .norm = cpu_norm,
        .linear = cpu_linear,
        .gather = cpu_gather,
        .logits = cpu_logits,
        .rope_kv = cpu_rope_kv,
        .attention = cpu_attention,
    };
    if (!cpu->isa) ref_install(be);
    *out = be;
    return LLM_OK;
}

const char *cpu_backend_isa(const struct backend *be)
{
    return ((const struct cpu_backend *)be)->isa_name;
}

int32_t cpu_backend_threads(const struct backend *be)
{
    return pool_size(((const struct cpu_backend *)be)->pool);
}

struct pool *cpu_backend_pool(const struct backend *be)
{
    return ((const struct cpu_backend *)be)->pool;
}
