/* Attention: which thread does what. A task is one tile of query rows (tokens times the heads that share a KV
 * head) of one sequence; its work is the chunks of keys it sees. All tasks' chunks, laid end to end, are cut
 * between the threads at equal cost, so that one long sequence is shared as evenly as many short ones. A task
 * that was cut in the middle is merged by the thread that has its first chunk, in the order of the chunks. */

#include "kernels/cpu/attention.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/kv_layout.h"

enum {
    /* Cost of a chunk beside its rows, in rows: reading and converting K and V. */
    CHUNK_COST = 4,
    /* Tasks cheaper than this in all (rows x chunks) are not worth waking the other threads for. */
    PARALLEL_COST = 40,
};

/* ---- tasks --------------------------------------------------------------------------------------------- */

struct task {
    int32_t seq, kv_head;
    int32_t first_head, n_heads;   /* query heads, of the KV head's group */
    int32_t first_token, n_tokens; /* rows of q */
    int32_t first_position;        /* of first_token */
    int32_t begin, end;            /* keys that any row sees */
    int32_t n_chunks;
    int64_t base, chunk_cost; /* cost of all tasks before; of one chunk */
};

struct attention_job {
    const struct cpu_backend *cpu;
    const struct attention_args *a;
    int64_t total_cost;
};

/* Query heads and tokens of a task: as many heads of the group as fit, then tokens. */
static int32_t heads_a_task(const struct attention_args *a)
{
    const int32_t group = a->n_heads / a->kv->n_kv_heads;
    return group < ATTN_ROWS ? group : ATTN_ROWS;
}

static void set_keys(const struct attention_args *a, struct task *t)
{
    const int32_t first = a->window > 0 ? t->first_position - a->window + 1 : 0;
    t->begin = first > 0 ? first : 0;
    t->end = t->first_position + t->n_tokens;
    t->n_chunks = (t->end + ATTN_CHUNK - 1) / ATTN_CHUNK - t->begin / ATTN_CHUNK;
    t->chunk_cost = t->n_tokens * t->n_heads + CHUNK_COST;
}

/* The first task, or the one after *t; 0: no more. *t zeroed to begin with, and n_chunks 0. */
static int next_task(const struct attention_args *a, struct task *t)
{
    const int32_t group = a->n_heads / a->kv->n_kv_heads, n_heads = heads_a_task(a),
                  n_tokens = ATTN_ROWS / n_heads;
    t->base += t->n_chunks * t->chunk_cost;
    if (t->n_chunks == 0) { /* before the first */
        t->first_token = a->seq_start[0];
    } else if (t->first_head + t->n_heads < (t->kv_head + 1) * group) {
        t->first_head += t->n_heads;
    } else if (t->kv_head + 1 < a->kv->n_kv_heads) {
        t->first_head = ++t->kv_head * group;
    } else {
        t->first_head = t->kv_head = 0;
        t->first_token += t->n_tokens;
    }
    while (t->seq < a->n_seqs && t->first_token >= a->seq_start[t->seq + 1]) t->seq++;
    if (t->seq == a->n_seqs) return 0;
    const int32_t seq_end = a->seq_start[t->seq + 1], heads_left = (t->kv_head + 1) * group - t->first_head;
    t->n_heads = heads_left < n_heads ? heads_left : n_heads;
    t->n_tokens = seq_end - t->first_token < n_tokens ? seq_end - t->first_token : n_tokens;
    t->first_position = a->kv_len[t->seq] - (seq_end - t->first_token);
    set_keys(a, t);
    return 1;
}

/* Number of the task's chunks that begin before cost `limit`. */
static int32_t chunks_before(const struct task *t, int64_t limit)
{
    if (limit <= t->base) return 0;
    const int64_t n = (limit - t->base + t->chunk_cost - 1) / t->chunk_cost;
    return n < t->n_chunks ? (int32_t)n : t->n_chunks;
}

static int64_t member_limit(const struct attention_job *job, int32_t member, int32_t n_members)
{
    return job->total_cost * member / n_members;
}

/* ---- scratch of a member ------------------------------------------------------------------------------- */

struct room {
    float *q, *scores;
    struct attn_rows sum; /* of the task at hand */
    struct attn_rows chunk;
    float *parts; /* chunks of the one cut task that another member began */
};

static size_t rows_floats(int32_t head_dim)
{
    return (size_t)ATTN_ROWS * ((size_t)head_dim + 2);
}

size_t attention_member_bytes(const struct backend_limits *limits)
{
    const size_t dim = (size_t)limits->head_dim;
    const size_t chunks = (size_t)limits->max_model_len / ATTN_CHUNK + 2;
    const size_t floats = dim * ATTN_ROWS + (size_t)ATTN_ROWS * ATTN_SCORE_STRIDE +
                          (2 + chunks) * rows_floats(limits->head_dim);
    return floats * sizeof(float);
}

static struct attn_rows rows_at(float *p, int32_t n_rows)
{
    return (struct attn_rows){n_rows, p, p + ATTN_ROWS, p + 2 * ATTN_ROWS};
}

static struct room room_of(const struct attention_job *job, int32_t member)
{
    const struct cpu_backend *cpu = job->cpu;
    const int32_t dim = job->a->kv->head_dim;
    const size_t rows = rows_floats(dim);
    struct room room;
    room.q = cpu_member_scratch(cpu, cpu->scratch.member_attention, member);
    room.scores = room.q + (size_t)dim * ATTN_ROWS;
    float *p = room.scores + (size_t)ATTN_ROWS * ATTN_SCORE_STRIDE;
    room.sum = rows_at(p, 0);
    room.chunk = rows_at(p + rows, 0);
    room.parts = p + 2 * rows;
    return room;
}

/* ---- work ---------------------------------------------------------------------------------------------- */

/* Row r of a task is token r / n_heads, head r % n_heads. */
static void gather_queries(const struct attention_args *a, const struct task *t, float *q, int32_t *position)
{
    const int32_t dim = a->kv->head_dim;
    for (int32_t i = 0, r = 0; i < t->n_tokens; i++) {
        const float *token = (const float *)a->q + (t->first_token + i) * a->q_stride;
        for (int32_t h = 0; h < t->n_heads; h++, r++) {
            const float *head = token + (size_t)(t->first_head + h) * (size_t)dim;
            position[r] = t->first_position + i;
            for (int32_t d = 0; d < dim; d++) q[(size_t)d * ATTN_ROWS + r] = head[d] * a->scale;
        }
    }
}

static void put_out(const struct attention_args *a, const struct task *t, const struct attn_rows *sum)
{
    const int32_t dim = a->kv->head_dim;
    for (int32_t i = 0, r = 0; i < t->n_tokens; i++) {
        float *token = (float *)a->out + (t->first_token + i) * a->out_stride;
        for (int32_t h = 0; h < t->n_heads; h++, r++) {
            float *out = token + (size_t)(t->first_head + h) * (size_t)dim;
            const float *o = sum->o + (size_t)r * (size_t)dim, inverse = 1 / sum->l[r];
            for (int32_t d = 0; d < dim; d++) out[d] = o[d] * inverse;
        }
    }
}

static void clear_rows(const struct attn_rows *rows, int32_t dim)
{
    for (int32_t r = 0; r < rows->n_rows; r++) {
        rows->m[r] = ATTN_NOTHING;
        rows->l[r] = 0;
    }
    memset(rows->o, 0, (size_t)rows->n_rows * (size_t)dim * sizeof(float));
}

/* Chunks first .. last - 1 of task t: into room->sum if it begins with the first, else into room->parts. */
static void run_chunks(const struct attention_job *job, const struct task *t, int32_t first, int32_t last,
                       struct room *room)
{
    const struct attention_args *a = job->a;
    const struct kv_cache *kv = a->kv;
    const struct cpu_isa *isa = job->cpu->isa;
    attn_chunk_fn *attend = kv->dtype == DTYPE_F32   ? isa->attend_f32
                            : kv->dtype == DTYPE_F16 ? isa->attend_f16
                                                     : isa->attend_bf16;
    int32_t position[ATTN_ROWS];
    gather_queries(a, t, room->q, position);
    struct attn_chunk c = {
        .kv = kv,
        .head_offset = kv_head_offset(kv, a->layer, t->kv_head),
        .table = a->block_table + (size_t)t->seq * (size_t)a->block_table_stride,
        .kv_len = a->kv_len[t->seq],
        .n_rows = t->n_tokens * t->n_heads,
        .q = room->q,
        .position = position,
        .window = a->window,
        .softcap = a->softcap,
        .scores = room->scores,
    };
    room->sum.n_rows = room->chunk.n_rows = c.n_rows;
    if (first == 0) clear_rows(&room->sum, kv->head_dim);
    for (int32_t i = first; i < last; i++) {
        const int32_t begin = (t->begin / ATTN_CHUNK + i) * ATTN_CHUNK, end = begin + ATTN_CHUNK;
        c.begin = begin > t->begin ? begin : t->begin;
        c.end = end < t->end ? end : t->end;
        if (first > 0) {
            const struct attn_rows part =
                rows_at(room->parts + (size_t)(i - first) * rows_floats(kv->head_dim), c.n_rows);
            attend(&c, &part);
        } else {
            attend(&c, &room->chunk);
            isa->attend_merge(&room->sum, &room->chunk, kv->head_dim);
        }
    }
}

/* The rest of a cut task: the parts that the members after `member` have made of it. */
static void merge_parts(const struct attention_job *job, const struct task *t, int32_t member,
                        int32_t n_members, const struct attn_rows *sum)
{
    const int32_t dim = job->a->kv->head_dim;
    for (int32_t m = member + 1; m < n_members; m++) {
        const int32_t first = chunks_before(t, member_limit(job, m, n_members));
        const int32_t last = chunks_before(t, member_limit(job, m + 1, n_members));
        const struct room room = room_of(job, m);
        for (int32_t i = first; i < last; i++) {
            const struct attn_rows part =
                rows_at(room.parts + (size_t)(i - first) * rows_floats(dim), sum->n_rows);
            job->cpu->isa->attend_merge(sum, &part, dim);
        }
    }
    put_out(job->a, t, sum);
}

static void attention_member(void *arg, int32_t member, int32_t n_members)
{
    const struct attention_job *job = arg;
    const int64_t from = member_limit(job, member, n_members), to = member_limit(job, member + 1, n_members);
    struct room room = room_of(job, member);
    struct task t = {0}, owned = {0};
    while (next_task(job->a, &t) && t.base < to) {
        const int32_t first = chunks_before(&t, from), last = chunks_before(&t, to);
        if (first >= last) continue;
        run_chunks(job, &t, first, last, &room);
        if (first > 0) continue;
        if (last == t.n_chunks) {
            put_out(job->a, &t, &room.sum);
        } else { /* no task of this member comes after: the sum is kept until the others are done */
            owned = t;
        }
    }
    if (n_members == 1) return;
    pool_barrier(job->cpu->pool);
    if (owned.n_chunks > 0) merge_parts(job, &owned, member, n_members, &room.sum);
}

llm_status cpu_attention(struct backend *be, const struct attention_args *a)
{
    struct attention_job job = {cpu_of(be), a, 0};
    struct task t = {0};
    while (next_task(a, &t)) continue;
    job.total_cost = t.base;
    if (job.total_cost < PARALLEL_COST)
        attention_member(&job, 0, 1);
    else
        pool_run(job.cpu->pool, attention_member, &job);
    return LLM_OK;
}
