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
                                 .n_output = q->n_output - q->n_pending,
                                 .seed = r->seed,
                                 .stream = (uint32_t)q->index,
                                 .position = (uint64_t)sequence_known(q)};
}

void output_record(struct output *o, struct sampler *sampler, const float *logits, int32_t token)
{
    const struct llm_request *r = o->request;
    size_t at = (size_t)sequence_learn(&o->sequence, token);
    if (r->n_logprobs)
        sampler_logprobs(sampler, logits, token, r->n_logprobs - 1, o->logprobs + at * (size_t)r->n_logprobs);
    if (sampler_counts_needed(&r->sampling)) counts_add_output(&o->counts, token);
}

/* ---- tokens -------------------------------------------------------------------------------------------- */

/* The logits of e->rows, and the tokens of e->jobs. */
llm_status choices_end(struct choices *c, struct llm_error *err)
{
    struct llm_engine *e = c->engine;
    if (c->n_jobs == 0) return LLM_OK;
    llm_status status = c->logits(e->model.self, e->rows, c->n_rows, e->logits, err);
    if (!status) policy_sample(e, e->jobs, c->n_jobs);
    c->n_rows = c->n_jobs = 0;
    return status;
}

llm_status choices_add(struct choices *c, struct output *o, int32_t row, struct llm_error *err)
{
    struct llm_engine *e = c->engine;
    if (c->n_jobs == 0 || e->rows[c->n_rows - 1] != row) e->rows[c->n_rows++] = row;
    const float *logits = e->logits + (size_t)(c->n_rows - 1) * (size_t)e->model.vocab_size;
    e->jobs[c->n_jobs++] = (struct policy_job){.output = o, .logits = logits};
    return c->n_jobs < ENGINE_LOGIT_ROWS ? LLM_OK : choices_end(c, err);
}

int32_t output_fork(struct llm_engine *e, struct output *o)
{
    int32_t n = o->sequence.seats;
    if (o->sequence.index > 0 || o->sequence.n_output > 0) return 1;
    for (int32_t k = 1; k < o->request->n; k++) scheduler_fork(&e->scheduler, &o->sequence, &o[k].sequence);
    return n;
}

/* ---- prompts ------------------------------------------------------------------------------------------- */

/* The row of position p scores the token at p + 1, if that is one of those asked for. */
int32_t output_span(const struct plan_item *item, int32_t first_row, struct score_span *out)
{
    struct output *o = output_of(item->sequence);
    const struct llm_request *r = o->request;
    int32_t start = item->start, end = item->start + item->n;
    if (!r->n_prompt_logprobs || o->sequence.index > 0 || o->sequence.n_output > 0) return 0;
    if (end > r->n_prompt - 1) end = r->n_prompt - 1;
    if (start < r->score_start - 1) start = r->score_start - 1;
    *out = (struct score_span){
        .output = o, .row = first_row + start - item->start, .position = start, .n = end - start};
    return out->n > 0 ? out->n : 0;
}

/* Some rows of logits, which the workers take in turns: each row is one worker's. */
struct slice {
    struct llm_engine *engine;
    struct llm_request *request;
    int32_t n, position;
};

static void score_rows(void *arg, int32_t worker, int32_t n_workers)
{
    const struct slice *s = arg;
    struct llm_engine *e = s->engine;
    struct llm_request *r = s->request;
    size_t width = (size_t)r->n_prompt_logprobs;
    for (int32_t i = worker; i < s->n; i += n_workers) {
        int32_t next = s->position + i + 1;
        sampler_logprobs(&e->samplers[worker], e->logits + (size_t)i * (size_t)e->model.vocab_size,
                         r->prompt[next], r->n_prompt_logprobs - 1,
                         r->prompt_logprobs + (size_t)(next - r->score_start) * width);
    }
}

llm_status output_score(struct llm_engine *e, const struct score_span *span, struct llm_error *err)
{
    struct slice s = {.engine = e, .request = span->output->request};
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < span->n && !status; i += s.n) {
        s.n = span->n - i < ENGINE_LOGIT_ROWS ? span->n - i : ENGINE_LOGIT_ROWS;
        s.position = span->position + i;
        for (int32_t k = 0; k < s.n; k++) e->rows[k] = span->row + i + k;
        status = e->model.logits(e->model.self, e->rows, s.n, e->logits, err);
        if (status) break;
        if (e->model.run && s.n > 1)
            e->model.run(e->model.self, score_rows, &s);
        else
            score_rows(&s, 0, 1);
    }
    return status;
}

/* ---- both ---------------------------------------------------------------------------------------------- */

llm_status engine_sample(struct llm_engine *e, const struct batch *batch, struct step *step,
                         struct llm_error *err)
{
    struct choices c = {.engine = e, .logits = e->model.logits};
    struct score_span span;
    llm_status status = LLM_OK;
    step->n = 0;
    for (int32_t i = 0; i < e->plan->n_items && !status; i++)
        if (output_span(&e->plan->items[i], batch->seq_start[i], &span)) status = output_score(e, &span, err);
    for (int32_t i = 0; i < e->plan->n_items && !status; i++) {
        struct output *o = output_of(e->plan->items[i].sequence);
        if (!e->plan->items[i].last) continue;
        int32_t wanted = o->request->max_output > 0, n = wanted ? output_fork(e, o) : 1;
        for (int32_t k = 0; k < n && !status; k++) {
            step->rows[step->n++] = (struct step_row){.output = o + k};
            if (wanted) status = choices_add(&c, o + k, batch->seq_start[i + 1] - 1, err);
        }
    }
    return status ? status : choices_end(&c, err);
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
