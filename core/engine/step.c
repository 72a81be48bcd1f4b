/* Steps 5 to 8 of 10, of a plan: on the host one after the other, on a device with the next plan's launch
 * before this one's tokens are looked at. */

#include "engine/step.h"

#include "engine/launch.h"
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

/* ---- a step on the host -------------------------------------------------------------------------------- */

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
    status = engine_sample(e, batch, step, err);
    if (!status) progress_emit(e, step);
    return status;
}

/* ---- a step on a device -------------------------------------------------------------------------------- */

/* Nothing is in flight afterwards. */
static llm_status finish_flying(struct llm_engine *e, struct llm_error *err)
{
    struct step *step = e->flying;
    e->flying = NULL;
    llm_status status = launch_collect(e, step, err);
    if (!status) progress_emit(e, step);
    return status;
}

/* Launches the plan, and only then looks at the step before it, which the device has made meanwhile; or
 * before, if the host has a say in the tokens that the plan feeds on. */
static llm_status device_step(struct llm_engine *e, struct llm_error *err)
{
    struct step *before = e->flying, *step = &e->steps[before == &e->steps[0]];
    int waits = before && before->waits;
    note_plan(e);
    llm_status status = launch_describe(e, step, err);
    if (!status && !waits) status = launch_go(e, step, err);
    if (!status && before) status = launch_collect(e, before, err);
    if (!status && waits) status = launch_go(e, step, err);
    if (status) return status;
    e->flying = step;
    scheduler_name(&e->scheduler);
    if (before) progress_emit(e, before);
    return launch_hooks(e, step, err);
}

/* ---- a step -------------------------------------------------------------------------------------------- */

llm_status step_run(struct llm_engine *e, struct llm_error *err)
{
    llm_status status = LLM_OK;
    int settle = e->plan->n_tokens == 0 || (e->model.launch && launch_prepare(e));
    if (settle && e->flying) {
        status = finish_flying(e, err);
        plan_close_holes(e->plan);
    }
    if (!status && e->plan->n_tokens > 0) {
        e->n_steps++;
        status = e->model.launch ? device_step(e, err) : host_step(e, &e->steps[0], err);
    }
    int64_t now = clock_ns();
    e->busy_ns += (uint64_t)(now - e->now);
    e->now = now;
    return status;
}
