#ifndef LLM_ENGINE_OUTPUT_H
#define LLM_ENGINE_OUTPUT_H

/* What happens to an output when its logits are there: a token, and perhaps its end. Engine thread only. */

#include "engine/engine.h"

/* Step 7 on the host: picks a token for every sequence whose last token was computed; forks those whose
 * prompt is now complete; scores prompts that asked for it. Lists in `step` who got one. Errors: the model's.
 */
llm_status engine_sample(struct llm_engine *e, const struct batch *batch, struct step *step,
                         struct llm_error *err);

/* ---- its pieces, for steps on a device (launch.c) ------------------------------------------------------ */

/* Outputs from `o` on that get a token from the row of its last token: those of its request that run beside
 * it, which are forked, if it is their first. */
int32_t output_fork(struct llm_engine *e, struct output *o);

/* The rows of an item, which begin at first_row, that score its prompt. Returns how many. */
int32_t output_span(const struct plan_item *item, int32_t first_row, struct score_span *out);
/* Scores them. Errors: the model's. */
llm_status output_score(struct llm_engine *e, const struct score_span *span, struct llm_error *err);

/* Outputs whose next token is chosen from a row of logits here, some at a time: e->jobs and e->rows. */
struct choices {
    struct llm_engine *engine;
    llm_status (*logits)(void *self, const int32_t *rows, int32_t n, float *out, struct llm_error *err);
    int32_t n_rows, n_jobs;
};
/* One more, of this row. */
llm_status choices_add(struct choices *c, struct output *o, int32_t row, struct llm_error *err);
/* Afterwards. An output has its token, or its request's chain an error. */
llm_status choices_end(struct choices *c, struct llm_error *err);

/* What the choice of an output's next token depends on besides the row. */
struct sample_input output_input(const struct llm_engine *e, const struct output *o);
/* Adds the token chosen from these raw logits to an output, and its log-probabilities. */
void output_record(struct output *o, struct sampler *sampler, const float *logits, int32_t token);

/* Step 8: whether the token just picked (or, if it wants none, its whole prompt computed) ends the output,
 * and why; sets what the event will say of it and how much text may be shown. */
enum llm_finish_reason output_judge(struct output *o, const struct engine_config *config);

#endif
