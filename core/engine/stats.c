/* What can be asked of an engine while it runs. Any thread. */

#include "engine/engine.h"

void llm_engine_model_info(const struct llm_engine *engine, struct llm_model_info *out)
{
    *out = engine->info;
}

void llm_engine_stats(const struct llm_engine *engine, struct llm_stats *out)
{
    const struct engine_counters *c = &engine->counters;
#define GET(field) atomic_load_explicit(&c->field, memory_order_relaxed)
    *out = (struct llm_stats){.n_running = GET(n_running),
                              .n_waiting = GET(n_waiting),
                              .n_blocks = engine->config.n_pages,
                              .n_blocks_used = GET(n_used),
                              .n_blocks_peak = GET(n_peak),
                              .n_blocks_pinned = GET(n_pinned),
                              .kv_waste_peak = GET(waste),
                              .n_steps = GET(n_steps),
                              .n_prompt_tokens = GET(n_prompt_tokens),
                              .n_output_tokens = GET(n_output_tokens),
                              .n_preemptions = GET(n_preemptions),
                              .n_prefix_queries = GET(n_prefix_queries),
                              .n_prefix_hits = GET(n_prefix_hits),
                              .n_finished = GET(n_finished),
                              .busy_seconds = (double)GET(busy_ns) * 1e-9,
                              .wait_seconds = (double)GET(wait_ns) * 1e-9};
#undef GET
}

void llm_engine_histogram(const struct llm_engine *engine, enum llm_distribution which,
                          struct llm_histogram *out)
{
    const struct histogram *const all[LLM_N_DISTRIBUTIONS] = {
        [LLM_STEP_TOKENS] = &engine->counters.step_tokens,
        [LLM_TOKEN_GAP] = &engine->counters.token_gap,
        [LLM_PAGE_LIFETIME] = &engine->kv.lifetime,
        [LLM_PAGE_IDLE] = &engine->kv.idle,
        [LLM_PAGE_REUSE] = &engine->kv.reuse,
    };
    histogram_read(all[which], out);
}

void llm_engine_reset_prefix_cache(struct llm_engine *engine)
{
    atomic_store_explicit(&engine->forget, 1, memory_order_release);
    mailbox_wake(&engine->inbox);
}
