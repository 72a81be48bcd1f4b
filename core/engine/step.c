/* Steps 5 to 9 of 10, of a plan: on the host one after the other, on a device that samples with the next
 * plan's launch before this one's tokens are looked at. */

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
        step->rows[step->n++] = (struct step_row){o, n, -1};
    }
}

/* ---- a step on the host ---------------------------------------------------------------------------------
 */

/* The host makes tokens that a device made so far. */
static llm_status recover_seats(struct llm_engine *e, struct llm_error *err)
{
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < e->plan->n_items && !status; i++)
        if (e->plan->items[i].last) status = seating_recover(e, output_of(e->plan->items[i].sequence), err);
    return status;
}

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
    status = recover_seats(e, err);
    if (!status) status = engine_sample(e, batch, err);
    if (!status) list_rows(e, step);
    return status;
}

/* ---- a step on a device that samples --------------------------------------------------------------------
 */

/* Nothing is in flight afterwards. */
static llm_status finish_flying(struct llm_engine *e, struct llm_error *err)
{
    struct step *step = e->flying;
    e->flying = NULL;
    llm_status status = step ? launch_collect(e, step, err) : LLM_OK;
    if (step && !status) progress_emit(e, step);
    return status;
}

/* Launches the plan, and only then looks at the step before it, which the device has made meanwhile; or
 * before, if hooks have a say in the tokens that the plan feeds on. */
static llm_status device_step(struct llm_engine *e, struct llm_error *err)
{
    struct step *before = e->flying, *step = &e->steps[before == &e->steps[0]];
    int hooks_choose = before && before->n_candidates > 0;
    note_plan(e);
    llm_status status = launch_describe(e, step, err);
    if (!status && !hooks_choose) status = launch_go(e, step, err);
    if (!status && before) status = launch_collect(e, before, err);
    if (!status && hooks_choose) status = launch_go(e, step, err);
    if (status) return status;
    e->flying = step;
    scheduler_name(&e->scheduler);
    if (before) progress_emit(e, before);
    return launch_hooks(e, step, err);
}

/* ---- a step ---------------------------------------------------------------------------------------------
 */

static void note_time(struct llm_engine *e)
{
    int64_t now = clock_ns();
    e->busy_ns += (uint64_t)(now - e->now);
    e->now = now;
}

/* What the device owes is collected first. */
static llm_status settled_step(struct llm_engine *e, struct llm_error *err)
{
    llm_status status = finish_flying(e, err);
    plan_close_holes(e->plan);
    if (status || e->plan->n_tokens == 0) return status;
    e->n_steps++;
    if (launch_way(e) != LAUNCH_NEVER) return device_step(e, err);
    status = host_step(e, &e->steps[0], err);
    note_time(e);
    if (!status) progress_emit(e, &e->steps[0]);
    return status;
}

llm_status step_run(struct llm_engine *e, struct llm_error *err)
{
    int ahead = e->plan->n_tokens > 0 && launch_way(e) == LAUNCH_AHEAD;
    e->n_steps += ahead;
    llm_status status = ahead ? device_step(e, err) : settled_step(e, err);
    note_time(e);
    return status;
}
