#ifndef ENGINE_EVENTS_H
#define ENGINE_EVENTS_H

/* An engine over a fake model, and waiting for it, in tests. Included after cmocka. */

#include "fake_model.h"
#include "llmlua.h"

#include <unistd.h>

/* Takes the model. */
static inline struct llm_engine *start_over(const struct engine_config *config, struct fake_model *m)
{
    struct engine_model table = fake_model_table(m);
    struct llm_engine *e = NULL;
    struct llm_error err = {0};
    if (engine_start(config, &table, &e, &err)) fail_msg("%s", err.message);
    return e;
}

static inline struct llm_client *connect_to(struct llm_engine *e)
{
    struct llm_client *c = NULL;
    assert_int_equal(llm_client_open(e, &c, NULL), LLM_OK);
    return c;
}

static inline void next_event(struct llm_client *c, struct llm_event *ev)
{
    for (;;) {
        llm_status status = llm_next(c, ev);
        if (status == LLM_OK) return;
        assert_int_equal(status, LLM_EAGAIN);
        assert_int_equal(llm_wait(c, 60000), LLM_OK);
    }
}

/* The stats of an engine that has come to rest: they are at most a step old. */
static inline struct llm_stats stats_at_rest(struct llm_engine *e)
{
    struct llm_stats s;
    for (int i = 0; i < 10000; i++) {
        llm_engine_stats(e, &s);
        if (s.n_running == 0 && s.n_waiting == 0 && s.n_blocks_used == 0) break;
        usleep(1000);
    }
    return s;
}

#endif
