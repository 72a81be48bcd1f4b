/* Steps 5 to 9 of 10, of a plan: on the host one after the other, on a device that samples with the next
 * plan's launch before this one's tokens are looked at. */

#include "engine/step.h"

#include "engine/output.h"
#include "engine/progress.h"

/* What the plan means for the requests: who runs for the first time, who was set back. */
static void note_plan(struct llm_engine *e)
{
    histogram_add(&e->counters.step_tokens, e->plan->n_tokens);
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        const struct sequence *q = e->plan->items[i].sequence;
        struct llm_request *r = output_of(e->plan->items[i].sequence)->request;
        if (!r->scheduled) {
            progress_left_queue(e, r);
            atomic_store_explicit(&r->t_scheduled, e->now, memory_order_relaxed);
            atomic_store_explicit(&r->n_cached, q->n_cached, memory_order_relaxed);
        }
        int32_t computed = q->n_prompt - e->plan->items[i].start;
        if (q->n_output == 0 && computed > 0)
            e->n_prompt_tokens += (uint64_t)(computed < e->plan->items[i].n ? computed : e->plan->items[i].n);
    }
}

static llm_status forward(struct llm_engine *e, const struct batch *batch, struct llm_error *err)
{
    for (int32_t i = 0; i < e->plan->n_copies; i++) {
        llm_status status =
            e->model.copy_page(e->model.self, e->plan->copies[i].from, e->plan->copies[i].to, err);
        if (status) return status;
    }
    return e->model.forward(e->model.self, batch, err);
}

/* The outputs that got a token from this item: all of its request if it was the first. */
static struct output *outputs_of(const struct plan_item *item, int32_t *n)
{
    struct output *o = output_of(item->sequence);
    *n = o->sequence.index == 0 && o->sequence.n_output == 1 ? o->request->n : 1;
    return o;
}

static void list_rows(struct llm_engine *e, struct step *step)
{
    step->n = 0;
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        int32_t n;
        if (!e->plan->items[i].last) continue;
        struct output *o = outputs_of(&e->plan->items[i], &n);
        step->rows[step->n++] = (struct step_row){o, n};
    }
}

/* ---- a step on the host ---------------------------------------------------------------------------------
 */

static llm_status host_step(struct llm_engine *e, struct step *step, struct llm_error *err)
{
    note_plan(e);
    const struct batch *batch = batch_build(&e->batch, e->plan, e->config.block_size);
    int64_t launched = clock_ns();
    llm_status status = forward(e, batch, err);
    if (status) return status;
    pace_learn(&e->pace, batch->n_tokens, launched, clock_ns());
    scheduler_advance(&e->scheduler);
    scheduler_name(&e->scheduler);
    status = engine_sample(e, batch, err);
    if (!status) list_rows(e, step);
    return status;
}

/* ---- a step on a device that samples ---------------------------------------------------------------------
 */

/* 1 if the device can make every token that this plan makes. */
static int can_launch(const struct llm_engine *e)
{
    if (!e->model.launch) return 0;
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        const struct plan_item *item = &e->plan->items[i];
        const struct llm_request *r = output_of(item->sequence)->request;
        if (r->n_prompt_logprobs > 0 || (item->last && !r->sampled_by_device) ||
            r->n > e->config.max_num_seqs)
            return 0;
    }
    return 1;
}

/* The next token of an output will be in a place of its own until the step is collected. */
static void await(struct llm_engine *e, struct step *step, struct output *o, int32_t row)
{
    struct sequence *q = &o->sequence;
    const struct llm_sampling *p = &o->request->sampling;
    int32_t place = step->mark * e->config.max_num_seqs + step->n;
    e->sample_rows[step->n] = (struct sample_row){.row = row,
                                                  .slot = place,
                                                  .top_k = p->top_k,
                                                  .temperature = p->temperature,
                                                  .top_p = p->top_p,
                                                  .min_p = p->min_p,
                                                  .stream = (uint32_t)q->index,
                                                  .seed = o->request->seed,
                                                  .position = (uint64_t)sequence_length(q),
                                                  .seat = -1};
    q->output[q->n_output++] = -1 - place;
    q->n_pending++;
    step->rows[step->n++] = (struct step_row){o, 1};
}

static void await_all(struct llm_engine *e, const struct batch *batch, struct step *step)
{
    step->n = 0;
    for (int32_t i = 0; i < e->plan->n_items; i++) {
        if (!e->plan->items[i].last) continue;
        struct output *o = output_of(e->plan->items[i].sequence);
        int32_t n = o->sequence.index == 0 && o->sequence.n_output == 0 ? o->request->n : 1;
        for (int32_t k = 1; k < n; k++) scheduler_fork(&e->scheduler, &o->sequence, &o[k].sequence);
        for (int32_t k = 0; k < n; k++) await(e, step, o + k, batch->seq_start[i + 1] - 1);
    }
}

static llm_status launch(struct llm_engine *e, struct step *step, struct llm_error *err)
{
    note_plan(e);
    const struct batch *batch = batch_build(&e->batch, e->plan, e->config.block_size);
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < e->plan->n_copies && !status; i++)
        status = e->model.copy_page(e->model.self, e->plan->copies[i].from, e->plan->copies[i].to, err);
    if (status) return status;
    scheduler_advance(&e->scheduler);
    step->mark = e->mark ^= 1;
    step->n_tokens = batch->n_tokens;
    step->launched = clock_ns();
    await_all(e, batch, step);
    struct device_step d = {.batch = batch, .rows = e->sample_rows, .n_rows = step->n, .mark = step->mark};
    return e->model.launch(e->model.self, &d, err);
}

/* Puts the tokens of a step where places were. */
static llm_status collect(struct llm_engine *e, struct step *step, struct llm_error *err)
{
    const struct sampled *rows;
    int64_t began = clock_ns();
    llm_status status = e->model.collect(e->model.self, step->mark, &rows, err);
    int64_t now = clock_ns();
    e->wait_ns += (uint64_t)(now - began);
    pace_learn(&e->pace, step->n_tokens, step->launched, now);
    for (int32_t i = 0; i < step->n && !status; i++) {
        if (!step->rows[i].first) continue;
        struct sequence *q = &step->rows[i].first->sequence;
        q->output[q->n_output - q->n_pending--] = rows[i].token;
    }
    return status;
}

/* The tokens of the step before this one, which the device has made meanwhile. */
static llm_status finish_flying(struct llm_engine *e, struct step *next, struct llm_error *err)
{
    struct step *step = e->flying;
    e->flying = NULL;
    llm_status status = step ? collect(e, step, err) : LLM_OK;
    if (status) return status;
    e->flying = next;
    if (next) scheduler_name(&e->scheduler);
    if (step) progress_emit(e, step);
    return LLM_OK;
}

static llm_status device_step(struct llm_engine *e, struct llm_error *err)
{
    struct step *step = &e->steps[e->flying == &e->steps[0]];
    llm_status status = launch(e, step, err);
    if (status) return status;
    e->n_steps++;
    return finish_flying(e, step, err);
}

/* ---- a step ---------------------------------------------------------------------------------------------
 */

static void note_time(struct llm_engine *e)
{
    int64_t now = clock_ns();
    e->busy_ns += (uint64_t)(now - e->now);
    e->now = now;
}

/* What the device owes is collected first: rows that the host samples need to know all tokens. */
static llm_status settled_step(struct llm_engine *e, struct llm_error *err)
{
    llm_status status = finish_flying(e, NULL, err);
    plan_close_holes(e->plan);
    if (status || e->plan->n_tokens == 0) return status;
    status = host_step(e, &e->steps[0], err);
    e->n_steps++;
    note_time(e);
    if (!status) progress_emit(e, &e->steps[0]);
    return status;
}

llm_status step_run(struct llm_engine *e, struct llm_error *err)
{
    llm_status status = e->plan->n_tokens > 0 && can_launch(e) ? device_step(e, err) : settled_step(e, err);
    note_time(e);
    return status;
}
