#include "engine/output.h"

/* ---- step 7 -------------------------------------------------------------------------------------------- */

struct sample_input output_input(const struct llm_engine *e, const struct output *o)
{
    const struct sequence *q = &o->sequence;
    const struct llm_request *r = o->request;
    return (struct sample_input){.params = &r->sampling,
                                 .counts = sampler_counts_needed(&r->sampling) ? &o->counts : NULL,
                                 .bad_words = r->bad_words,
                                 .n_bad_words = r->n_bad_words,
                                 .end_tokens = e->config.end_tokens,
                                 .n_end_tokens = e->config.n_end_tokens,
                                 .output = q->output,
                                 .n_output = q->n_output,
                                 .seed = r->seed,
                                 .stream = (uint32_t)q->index,
                                 .position = (uint64_t)sequence_length(q)};
}

void output_record(struct output *o, struct sampler *sampler, const float *logits, int32_t token)
{
    struct sequence *q = &o->sequence;
    const struct llm_request *r = o->request;
    if (r->n_logprobs)
        sampler_logprobs(sampler, logits, token, r->n_logprobs - 1,
                         o->logprobs + (size_t)q->n_output * (size_t)r->n_logprobs);
    if (sampler_counts_needed(&r->sampling)) counts_add_output(&o->counts, token);
    q->output[q->n_output++] = token;
}

static void pick(struct llm_engine *e, struct sampler *sampler, struct output *o, const float *logits)
{
    struct sample_input in = output_input(e, o);
    output_record(o, sampler, logits, sampler_pick(sampler, logits, &in));
}

/* Some rows of logits and what they are for. The workers take rows in turn: each row is one worker's. */
struct slice {
    struct llm_engine *engine;
    int32_t n;                                 /* rows */
    struct output *outputs[ENGINE_LOGIT_ROWS]; /* whose next token; of `n_outputs` sequences from there on */
    int32_t n_outputs[ENGINE_LOGIT_ROWS];
    int with_policies;          /* some of them */
    struct llm_request *scored; /* instead, not null: the rows of its prompt from `position` on */
    int32_t position;
};

static void use_row(const struct slice *s, int32_t row, struct sampler *sampler)
{
    struct llm_engine *e = s->engine;
    const float *logits = e->logits + (size_t)row * (size_t)e->model.vocab_size;
    struct llm_request *r = s->scored;
    for (int32_t k = 0; !r && k < s->n_outputs[row]; k++) pick(e, sampler, s->outputs[row] + k, logits);
    if (!r) return;
    int32_t next = s->position + row + 1;
    sampler_logprobs(sampler, logits, r->prompt[next], r->n_prompt_logprobs - 1,
                     r->prompt_logprobs + (size_t)(next - r->score_start) * (size_t)r->n_prompt_logprobs);
}

static void use_rows(void *arg, int32_t worker, int32_t n_workers)
{
    const struct slice *s = arg;
    for (int32_t row = worker; row < s->n; row += n_workers) use_row(s, row, &s->engine->samplers[worker]);
}

/* A job for each output, some at a time. */
static void use_policies(const struct slice *s)
{
    struct llm_engine *e = s->engine;
    struct policy_job *jobs = e->jobs;
    int32_t n = 0;
    for (int32_t row = 0; row < s->n; row++)
        for (int32_t k = 0; k < s->n_outputs[row]; k++) {
            jobs[n++] = (struct policy_job){.output = s->outputs[row] + k,
                                            .logits = e->logits + (size_t)row * (size_t)e->model.vocab_size};
            if (n < ENGINE_LOGIT_ROWS) continue;
            policy_sample(e, jobs, n);
            n = 0;
        }
    if (n) policy_sample(e, jobs, n);
}

/* The logits of e->rows, and what is to be done with them. */
static llm_status do_slice(struct slice *s, struct llm_error *err)
{
    struct llm_engine *e = s->engine;
    llm_status status = e->model.logits(e->model.self, e->rows, s->n, e->logits, err);
    if (status) return status;
    if (s->with_policies)
        use_policies(s);
    else if (e->model.run && s->n > 1)
        e->model.run(e->model.self, use_rows, s);
    else
        use_rows(s, 0, 1);
    s->n = s->with_policies = 0;
    return LLM_OK;
}

/* Adds the row of an output's last token: for all sequences of its request, if it is their first. */
static void add_row(struct slice *s, struct output *o, int32_t row)
{
    int32_t n = o->sequence.index == 0 && o->sequence.n_output == 0 ? o->request->n : 1;
    for (int32_t k = 1; k < n; k++) scheduler_fork(&s->engine->scheduler, &o->sequence, &o[k].sequence);
    s->outputs[s->n] = o;
    s->n_outputs[s->n] = n;
    if (o->request->chain) s->with_policies = 1;
    s->engine->rows[s->n++] = row;
}

static llm_status sample_last(struct llm_engine *e, const struct batch *batch, struct llm_error *err)
{
    struct slice s = {.engine = e};
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < e->plan->n_items && !status; i++) {
        if (!e->plan->items[i].last) continue;
        if (((struct output *)e->plan->items[i].sequence)->request->max_output == 0) continue;
        add_row(&s, (struct output *)e->plan->items[i].sequence, batch->seq_start[i + 1] - 1);
        if (s.n == ENGINE_LOGIT_ROWS) status = do_slice(&s, err);
    }
    return status || s.n == 0 ? status : do_slice(&s, err);
}

/* prompt_logprobs: the row of position p scores the token at p + 1, if that is one of those asked for. */
static llm_status score_prompt(struct llm_engine *e, const struct plan_item *item, int32_t first_row,
                               struct llm_error *err)
{
    struct llm_request *r = ((struct output *)item->sequence)->request;
    int32_t start = item->start, end = item->start + item->n;
    if (end > r->n_prompt - 1) end = r->n_prompt - 1;
    if (start < r->score_start - 1) start = r->score_start - 1;
    if (r->score_start == 0) r->prompt_logprobs[0].token = -1;
    llm_status status = LLM_OK;
    for (int32_t p = start; p < end && !status; p += ENGINE_LOGIT_ROWS) {
        struct slice s = {.engine = e, .scored = r, .position = p};
        s.n = end - p < ENGINE_LOGIT_ROWS ? end - p : ENGINE_LOGIT_ROWS;
        for (int32_t k = 0; k < s.n; k++) e->rows[k] = first_row + p - item->start + k;
        status = do_slice(&s, err);
    }
    return status;
}

llm_status engine_sample(struct llm_engine *e, const struct batch *batch, struct llm_error *err)
{
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        const struct plan_item *item = &e->plan->items[i];
        const struct output *o = (const struct output *)item->sequence;
        if (!o->request->n_prompt_logprobs || o->sequence.index > 0 || o->sequence.n_output > 0) continue;
        llm_status status = score_prompt(e, item, batch->seq_start[i], err);
        if (status) return status;
    }
    return sample_last(e, batch, err);
}

/* ---- step 8 -------------------------------------------------------------------------------------------- */

static int contains(const int32_t *ids, size_t n, int32_t id)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] == id) return 1;
    return 0;
}

/* The output's text so far, for its stop strings. 1: one of them ends it. */
static int stops_by_string(struct output *o, int32_t token)
{
    const struct llm_sampling *p = &o->request->sampling;
    size_t room = tokenizer_max_token_bytes(o->stop_text.tok) + 12;
    size_t bytes = detokenizer_put(&o->stop_text, token, stop_room(&o->stop), room);
    int32_t n = o->sequence.n_output - o->sequence.n_pending;
    int32_t i = stop_feed(&o->stop, bytes, n > p->min_tokens, &o->text_end);
    if (i < 0) {
        o->text_end = stop_safe(&o->stop);
        return 0;
    }
    o->stopped_by_string = 1;
    o->stop_string = p->stop[i];
    return 1;
}

enum llm_finish_reason output_judge(struct output *o, const struct engine_config *config)
{
    const struct llm_sampling *p = &o->request->sampling;
    if (o->request->chain && o->request->chain->error.status) return LLM_FINISH_ERROR;
    if (o->request->max_output == 0) return LLM_FINISH_LENGTH; /* its prompt is computed: that was all */
    int32_t n = o->sequence.n_output - o->sequence.n_pending, token = o->sequence.output[n - 1];
    if (n >= p->min_tokens) {
        int end = !p->ignore_eos && contains(config->end_tokens, (size_t)config->n_end_tokens, token);
        o->stopped_by_token = !end && contains(p->stop_token_ids, p->n_stop_token_ids, token);
        if (end || o->stopped_by_token) {
            o->stop_token = token;
            o->mute_last = !p->include_stop_str_in_output;
            return LLM_FINISH_STOP;
        }
    }
    if (o->stop.n && stops_by_string(o, token)) return LLM_FINISH_STOP;
    return n < o->request->max_output ? LLM_FINISH_NONE : LLM_FINISH_LENGTH;
}
