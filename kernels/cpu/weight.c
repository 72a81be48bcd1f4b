#include "kernels/cpu/weight.h"
#include "base/mem.h"
#include "kernels/cpu/pack.h"

static llm_status check_part(const struct weight_spec *spec, int32_t i, struct llm_error *err)
{
    const struct tensor *t = &spec->part[i];
    const struct dtype_info *info = &dtype_table[t->dtype];
    if (t->dtype == DTYPE_I32)
        return llm_fail(err, LLM_EUNSUP,
                        "a weight is stored as %s; the CPU backend multiplies by F32, F16, BF16 "
                        "and the quantized types",
                        info->name);
    if (t->n_dims != 2 || t->dims[1] % info->block != 0)
        return llm_fail(err, LLM_EUNSUP,
                        "a %s weight has rows of %lld elements; they must be a multiple of %d", info->name,
                        (long long)t->dims[t->n_dims - 1], info->block);
    return LLM_OK;
}

static llm_status plan(struct weight *w, int32_t panel_rows, const struct weight_spec *spec,
                       struct llm_error *err)
{
    w->n_in = (int32_t)spec->part[0].dims[1];
    w->layout = spec->layout;
    w->n_parts = spec->n_parts;
    for (int32_t i = 0; i < spec->n_parts; i++) {
        llm_status status = check_part(spec, i, err);
        if (status != LLM_OK) return status;
        const struct tensor *t = &spec->part[i];
        struct weight_part *p = &w->part[i];
        p->dtype = t->dtype;
        p->n_out = (int32_t)t->dims[0];
        p->n_panels = (p->n_out + panel_rows - 1) / panel_rows;
        p->first_out = w->n_out;
        p->panel_bytes = pack_panel_bytes(t->dtype, w->n_in, panel_rows);
        w->n_out += p->n_out;
        w->bytes += (size_t)p->n_panels * p->panel_bytes;
        if (dtype_is_quantized(t->dtype))
            w->needs_quantized = 1;
        else
            w->needs_float = 1;
    }
    return LLM_OK;
}

struct pack_job {
    const struct weight_spec *spec;
    const struct weight *w;
    int32_t panel_rows;
};

static void pack_member(void *arg, int32_t member, int32_t n_members)
{
    const struct pack_job *job = arg;
    for (int32_t i = 0; i < job->w->n_parts; i++) {
        const struct weight_part *p = &job->w->part[i];
        int64_t begin, end;
        pool_part(p->n_panels, 1, member, n_members, &begin, &end);
        for (int64_t j = begin; j < end; j++)
            pack_panel(&job->spec->part[i], j * job->panel_rows, job->panel_rows,
                       p->panels + (size_t)j * p->panel_bytes);
    }
}

llm_status weight_pack(struct pool *pool, int32_t panel_rows, const struct weight_spec *spec,
                       struct weight **out, struct llm_error *err)
{
    struct weight *w = mem_zalloc(sizeof *w);
    if (!w) return llm_fail(err, LLM_ENOMEM, "no memory for a weight");
    llm_status status = plan(w, panel_rows, spec, err);
    if (status != LLM_OK) goto fail;
    w->memory = mem_map(w->bytes);
    if (!w->memory) {
        status = llm_fail(err, LLM_ENOMEM, "no memory for a weight of %zu bytes", w->bytes);
        goto fail;
    }
    uint8_t *at = w->memory;
    for (int32_t i = 0; i < w->n_parts; i++) {
        w->part[i].panels = at;
        at += (size_t)w->part[i].n_panels * w->part[i].panel_bytes;
    }
    struct pack_job job = {spec, w, panel_rows};
    pool_run(pool, pack_member, &job);
    *out = w;
    return LLM_OK;
fail:
    weight_free(w);
    return status;
}

void weight_free(struct weight *w)
{
    if (!w) return;
    mem_unmap(w->memory, w->bytes);
    mem_free(w);
}
