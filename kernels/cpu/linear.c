/* Linear layers: y = epilogue(norm(x) W^T + bias), in two phases. First the rows are normed and laid out as
 * tiles, rounded to 8 bits for quantized weights; then panels of weights, cut between the threads, are
 * multiplied by the tiles one after the other, and each tile of results is finished while it is in L1. */

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/weight.h"

enum {
    /* Rows whose rounded form stays in half of a small L2 while all panels pass over them. */
    CHUNK_BYTES = 256 * 1024,
};

struct linear_job {
    const struct cpu_backend *cpu;
    const struct linear_args *a;
    int alone; /* every member lays out all rows */
};

static int32_t tile_size(const struct cpu_isa *isa, int32_t n_rows)
{
    const int8_t *size = isa->tile_sizes;
    while (*size > n_rows) size++;
    return *size;
}

/* ---- phase 1: rows to tiles ---------------------------------------------------------------------------- */

struct tiles {
    uint8_t *q8;
    float *f32;
};

/* Where row `row`'s tile begins. A tile of T rows takes as much room as its rows do one by one, so this does
 * not depend on the tiles before. */
static uint8_t *tile_q8(const struct tiles *tiles, int32_t n_in, int32_t row)
{
    return tiles->q8 + (size_t)row * ((size_t)n_in / 32 * TILE_BLOCK_BYTES);
}

static float *tile_f32(const struct tiles *tiles, int32_t n_in, int32_t row)
{
    return tiles->f32 + (size_t)row * (size_t)n_in;
}

static void lay_out_rows(const struct linear_job *job, const struct tiles *tiles, int32_t begin, int32_t end,
                         float *normed)
{
    const struct linear_args *a = job->a;
    const struct cpu_isa *isa = job->cpu->isa;
    const int32_t n_in = a->w->n_in;
    for (int32_t row = begin, n_tile; row < end; row += n_tile) {
        n_tile = tile_size(isa, end - row);
        for (int32_t t = 0; t < n_tile; t++) {
            const float *x = (const float *)a->x + (row + t) * a->x_stride;
            if (a->norm.kind != NORM_NONE) {
                isa->norm_row(&a->norm, x, normed, n_in);
                x = normed;
            }
            if (a->w->needs_quantized) isa->quantize_row(x, n_in, tile_q8(tiles, n_in, row), n_tile, t);
            if (!a->w->needs_float) continue;
            float *out = tile_f32(tiles, n_in, row) + t;
            for (int32_t k = 0; k < n_in; k++) out[(size_t)k * (size_t)n_tile] = x[k];
        }
    }
}

/* ---- phase 2: panels ----------------------------------------------------------------------------------- */

static void multiply(const struct linear_job *job, const struct weight_part *part, int32_t i,
                     const struct tiles *tiles, int32_t row, int32_t n_tile, float *out)
{
    const int32_t n_in = job->a->w->n_in;
    const uint8_t *panel = part->panels + (size_t)i * part->panel_bytes;
    gemm_fn *gemm = job->cpu->isa->gemm[part->dtype][n_tile];
    if (dtype_is_quantized(part->dtype))
        gemm(panel, n_in, tile_q8(tiles, n_in, row), out);
    else
        gemm(panel, n_in, tile_f32(tiles, n_in, row), out);
}

/* Panel i of the part (gated: and the same panel of the part `up`) times rows begin .. end - 1. */
static void run_panel(const struct linear_job *job, const struct weight_part *part,
                      const struct weight_part *up, int32_t i, const struct tiles *tiles, int32_t begin,
                      int32_t end)
{
    const struct linear_args *a = job->a;
    const struct cpu_isa *isa = job->cpu->isa;
    const int32_t first = i * isa->panel_rows, left = part->n_out - first, column = part->first_out + first;
    float v[TILE_ROWS * PANEL_ROWS], u[TILE_ROWS * PANEL_ROWS];
    struct tile_store to = {
        .epilogue = a->epilogue,
        .act = a->act,
        .bias = a->bias ? a->bias + column : NULL,
        .up_bias = a->bias && up ? a->bias + up->first_out + first : NULL,
        .y_stride = a->y_stride,
        .n_cols = left < isa->panel_rows ? left : isa->panel_rows,
    };
    for (int32_t row = begin, n_tile; row < end; row += n_tile) {
        n_tile = tile_size(isa, end - row);
        to.y = (float *)a->y + row * a->y_stride + column;
        for (int32_t t = 0; t < n_tile; t++) __builtin_prefetch(to.y + t * a->y_stride, 1);
        multiply(job, part, i, tiles, row, n_tile, v);
        if (up) multiply(job, up, i, tiles, row, n_tile, u);
        isa->store_tile(&to, n_tile, v, u);
    }
}

/* Panels of the part whose first byte, counting from the weight's, lies in [from, to): a cut of all panels
 * by bytes, for parts may be stored in different types. */
static void cut_by_bytes(const struct weight_part *part, size_t base, size_t from, size_t to, int32_t *begin,
                         int32_t *end)
{
    const size_t size = part->panel_bytes, n = (size_t)part->n_panels;
    size_t b = from <= base ? 0 : (from - base + size - 1) / size,
           e = to <= base ? 0 : (to - base + size - 1) / size;
    *begin = (int32_t)(b < n ? b : n);
    *end = (int32_t)(e < n ? e : n);
}

static void run_panels(const struct linear_job *job, const struct tiles *tiles, int32_t member,
                       int32_t n_members)
{
    const struct linear_args *a = job->a;
    const struct weight *w = a->w;
    const int gated = a->epilogue == LINEAR_GATED;
    const int32_t largest = job->cpu->isa->tile_sizes[0];
    const int32_t row_bytes = w->needs_float ? 4 * w->n_in : w->n_in / 32 * TILE_BLOCK_BYTES;
    int32_t chunk = CHUNK_BYTES / row_bytes / largest * largest;
    if (chunk < largest) chunk = largest;
    /* Gated parts are of one shape, not of one type: a panel of each is a unit, and units are alike. */
    const int32_t n_parts = gated ? 1 : w->n_parts;
    const size_t total = gated ? (size_t)w->part[0].n_panels * w->part[0].panel_bytes : w->bytes;
    const size_t from = total * (size_t)member / (size_t)n_members;
    const size_t to = total * ((size_t)member + 1) / (size_t)n_members;
    for (int32_t row = 0; row < a->n_rows; row += chunk) {
        const int32_t end_row = a->n_rows - row < chunk ? a->n_rows : row + chunk;
        size_t base = 0;
        for (int32_t i = 0; i < n_parts; i++) {
            const struct weight_part *part = &w->part[i];
            int32_t begin, end;
            cut_by_bytes(part, base, from, to, &begin, &end);
            for (int32_t j = begin; j < end; j++)
                run_panel(job, part, gated ? &w->part[1] : NULL, j, tiles, row, end_row);
            base += (size_t)part->n_panels * part->panel_bytes;
        }
    }
}

static void linear_member(void *arg, int32_t member, int32_t n_members)
{
    const struct linear_job *job = arg;
    const struct cpu_backend *cpu = job->cpu;
    const struct cpu_scratch *s = &cpu->scratch;
    float *normed = cpu_member_scratch(cpu, s->member_row, member);
    if (job->alone) {
        const struct tiles tiles = {cpu_member_scratch(cpu, s->member_q8, member),
                                    cpu_member_scratch(cpu, s->member_f32, member)};
        lay_out_rows(job, &tiles, 0, job->a->n_rows, normed);
        run_panels(job, &tiles, member, n_members);
        return;
    }
    const struct tiles tiles = {s->tiles_q8, s->tiles_f32};
    int64_t begin, end; /* in whole tiles, so that all threads agree where tiles begin */
    pool_part(job->a->n_rows, cpu->isa->tile_sizes[0], member, n_members, &begin, &end);
    lay_out_rows(job, &tiles, (int32_t)begin, (int32_t)end, normed);
    pool_barrier(cpu->pool);
    run_panels(job, &tiles, member, n_members);
}

llm_status cpu_linear(struct backend *be, const struct linear_args *a)
{
    struct linear_job job = {cpu_of(be), a, 0};
    job.alone = a->n_rows <= TILE_ROWS && (int64_t)a->n_rows * a->w->n_in <= LINEAR_ALONE_ELEMS;
    pool_run(job.cpu->pool, linear_member, &job);
    return LLM_OK;
}
