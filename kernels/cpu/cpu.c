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

llm_status cpu_reserve_scratch(struct cpu_backend *cpu, size_t bytes, struct llm_error *err)
{
    uint8_t *scratch = mem_map(bytes);
    if (!scratch) return llm_fail(err, LLM_ENOMEM, "no memory for %zu bytes of scratch space", bytes);
    mem_unmap(cpu->scratch, cpu->scratch_bytes);
    cpu->scratch = scratch;
    cpu->scratch_bytes = bytes;
    return LLM_OK;
}

/* ---- weights ------------------------------------------------------------------------------------------- */

static llm_status cpu_weight_create(struct backend *be, const struct weight_spec *spec, struct weight **out,
                                    struct llm_error *err)
{
    return weight_pack(cpu_of(be)->pool, cpu_of(be)->panel_rows, spec, out, err);
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
    mem_unmap(cpu->scratch, cpu->scratch_bytes);
    mem_free(cpu);
}

/* The instruction sets, best first. */
struct isa_choice {
    const char *name;
    int32_t panel_rows;
    int (*is_here)(void);
    void (*install)(struct backend *be);
};

static int always(void)
{
    return 1;
}

static const struct isa_choice isa_choices[] = {
    {"ref", 1, always, ref_install},
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
    cpu->panel_rows = choice->panel_rows;
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
    };
    choice->install(be);
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
