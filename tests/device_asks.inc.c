/* Engines on the fake device and on the host, for requests (asks.inc.c) whose answers are compared. Included
 * by the tests that use it, after cmocka.h. */

#include "asks.inc.c"

#include "fake_device.inc.c"

/* ---- engines ------------------------------------------------------------------------------------------- */

struct regime {
    const char *name;
    int32_t n_pages, budget, seqs;
    int caching, chunked, priority;
    int32_t eagerness;
    int32_t n_seats; /* 0: one for each sequence */
    int refuses_graphs;
};

static struct engine_config config_of(const struct regime *g)
{
    struct engine_config c = {.max_model_len = 256,
                              .max_num_seqs = g->seqs,
                              .max_num_batched_tokens = g->budget,
                              .block_size = PAGE,
                              .n_pages = g->n_pages,
                              .prefix_caching = g->caching,
                              .chunked_prefill = g->chunked,
                              .priority = g->priority,
                              .max_logprobs = -1,
                              .tokenizer = tokenizer};
    c.end_tokens[c.n_end_tokens++] = 13;
    return c;
}

static struct llm_engine *open_on(const struct engine_config *c, const struct engine_model *table)
{
    struct llm_engine *e = NULL;
    struct llm_error err = {0};
    if (engine_start(c, table, &e, &err)) fail_msg("%s", err.message);
    return e;
}

static struct llm_engine *open_device(const struct regime *g, struct fake_device **device)
{
    struct engine_config c = config_of(g);
    struct fake_model *m = fake_model_new(VOCAB, PAGE, c.n_pages, c.max_num_batched_tokens);
    struct fake_device *d = fake_device_new(m, c.max_num_seqs, g->eagerness, 11);
    if (g->n_seats) fake_device_seats(d, g->n_seats);
    d->refuses_graphs = g->refuses_graphs;
    struct engine_model table = fake_device_table(d);
    if (device) {
        *device = d;
        m->gated = 1; /* until the test lets it go */
    }
    return open_on(&c, &table);
}

/* Plenty of memory, no sharing of prefixes: what all others must agree with. */
static struct llm_engine *open_host(void)
{
    const struct regime plenty = {"host", 2000, 512, 64, 0, 1, 0, 0, 0, 0};
    struct engine_config c = config_of(&plenty);
    struct engine_model table = fake_model_table(fake_model_new(VOCAB, PAGE, c.n_pages, 512));
    return open_on(&c, &table);
}

static void open_gate(struct fake_device *d)
{
    d->model->gated = 0;
    sem_post(&d->model->gate);
}
