#include "policy_host.h"

#include "api_graph.h"
#include "base/mem.h"
#include "base/rng.h"
#include "policy_args.h"
#include "state.h"
#include "watchdog.h"

#include <lauxlib.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

/* The stack of a loaded state, for good. */
enum { TRACEBACK = 1, ROW_VIEW, BEST_VIEW, REQUESTS, LOGITS, CANDIDATES, BEGIN, FINISH, N_SLOTS = FINISH };

struct policy_host {
    lua_State *L;
    struct script_account *account; /* of the thread whose the state is; null: not looked up yet */
    struct policy_limits limits;
    struct state_memory memory;
    struct policy_row row;
    struct policy_best best;
    struct policy_params params;
    struct graph *graph;
    int loaded; /* its slots are in place */
    char name[64];
    char details[4096]; /* of the last failure */
};

/* ---- errors -------------------------------------------------------------------------------------------- */

/* A script's message: what comes before its traceback, and all of it as details. */
static void script_failed(struct policy_host *h, const char *text, llm_status status, struct llm_error *err)
{
    size_t n = strlen(text);
    if (n >= sizeof h->details) n = sizeof h->details - 1;
    memcpy(h->details, text, n);
    h->details[n] = 0;
    char *end = strstr(h->details, "\nstack traceback:");
    int length = (int)(end ? (size_t)(end - h->details) : n);
    llm_fail(err, status, "%.*s", length, h->details);
    for (char *c = err ? err->message : h->details + n; *c; c++)
        if (*c == '\n') *c = ' ';
}

static const char *host_details(void *self)
{
    return ((struct policy_host *)self)->details;
}

/* The watch of a thread that calls policies, until the thread ends. */
static _Thread_local struct watch *own_watch;
static pthread_key_t watch_key;
static pthread_once_t watch_once = PTHREAD_ONCE_INIT;

static void close_watch(void *watch)
{
    watchdog_close(watch);
}

static void make_watch_key(void)
{
    pthread_key_create(&watch_key, close_watch);
}

static llm_status find_watch(struct llm_error *err)
{
    if (own_watch) return LLM_OK;
    pthread_once(&watch_once, make_watch_key);
    llm_status status = watchdog_open(&own_watch, err);
    if (!status) pthread_setspecific(watch_key, own_watch);
    return status;
}

/* Calls the function under n_args arguments on the stack; results are on the stack if it succeeds. */
static inline llm_status call(struct policy_host *h, int n_args, int n_results, llm_status failure,
                              struct llm_error *err)
{
    struct watch_call outer;
    int flags;
    watchdog_enter(own_watch, h->L, h->account, &outer);
    int rc = lua_pcall(h->L, n_args, n_results, TRACEBACK);
    watchdog_leave(own_watch, &outer, &flags);
    if (rc == 0) return LLM_OK;
    account_add(&h->account->errors, 1);
    const char *text = flags & WATCH_KILLED ? own_watch->why : lua_tostring(h->L, -1);
    script_failed(h, text ? text : "(error with no message)", failure, err);
    lua_settop(h->L, h->loaded ? N_SLOTS : 0);
    /* LuaJIT collects by growth, not when memory is short: the next call would fail of what this one has
     * left. */
    if (rc == LUA_ERRMEM || h->memory.used > h->memory.most / 2) lua_gc(h->L, LUA_GCCOLLECT, 0);
    return failure;
}

/* ---- hooks --------------------------------------------------------------------------------------------- */

/* A sequence's `own` is the index of its request in the state's table of them, from 1. */
static void push_request(lua_State *L, const struct llm_policy_run *run)
{
    lua_rawgeti(L, REQUESTS, (int)(intptr_t)run->own);
}

/* What init has put into req.graph, on top of the stack, for the graph: before anything has run with these
 * arguments, so that they may still change. */
static llm_status give_graph(struct policy_host *h, const struct llm_policy_run *run, struct llm_error *err)
{
    lua_State *L = h->L;
    struct graph_args *args = (struct graph_args *)run->args->graph;
    for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) {
        const char *name = lua_type(L, -2) == LUA_TSTRING ? lua_tostring(L, -2) : "?";
        int32_t at = h->graph ? graph_find_param(h->graph, name) : -1;
        if (at < 0) return llm_fail(err, LLM_EFAILED, "req.graph.%s: the graph has no such parameter", name);
        if (api_graph_argument(L, lua_gettop(L), args, at, err))
            return llm_fail_in(err, "req.graph.%s", name);
    }
    return LLM_OK;
}

/* The state comes to the engine's thread with its first request. */
static llm_status settle_in(struct policy_host *h, struct llm_error *err)
{
    if (h->account) return LLM_OK;
    llm_status status = find_watch(err);
    if (status) return status;
    h->account = watchdog_account(own_watch, SCRIPT_POLICY, h->name);
    if (!h->account) return llm_fail(err, LLM_ENOMEM, "no memory for the account of policy %s", h->name);
    account_limit(h->account, h->limits.soft_ns, h->limits.hard_ns);
    return LLM_OK;
}

static llm_status host_begin(void *self, struct llm_policy_run *run, struct llm_error *err)
{
    struct policy_host *h = self;
    if (settle_in(h, err)) return err->status;
    lua_pushvalue(h->L, BEGIN);
    lua_pushlightuserdata(h->L, run);
    lua_pushlightuserdata(h->L, run->args->own);
    llm_status status = call(h, 2, 2, LLM_EINVAL, err);
    if (status) return status;
    run->own = (void *)(intptr_t)lua_tointeger(h->L, -2);
    if (lua_istable(h->L, -1) && run->index == 0) status = give_graph(h, run, err);
    lua_settop(h->L, N_SLOTS);
    return status;
}

static void host_done(void *self, struct llm_policy_run *run)
{
    struct policy_host *h = self;
    struct llm_error err;
    if (!run->own) return;
    lua_pushvalue(h->L, FINISH);
    lua_pushinteger(h->L, (int)(intptr_t)run->own);
    call(h, 1, 0, LLM_EFAILED, &err); /* the tokens are out: a failure now is nobody's */
    run->own = NULL;
}

static llm_status host_logits(void *self, struct llm_policy_run *run, float *row, int32_t n,
                              struct llm_error *err)
{
    struct policy_host *h = self;
    lua_State *L = h->L;
    h->row = (struct policy_row){row, n, n, 0};
    lua_pushvalue(L, LOGITS);
    lua_pushvalue(L, ROW_VIEW);
    push_request(L, run);
    llm_status status = call(h, 2, 1, LLM_EFAILED, err);
    run->changed_from = h->row.from;
    run->changed_end = h->row.to;
    h->row = (struct policy_row){NULL, -1, 0, 0};
    if (status) return status;
    if (!lua_isnil(L, -1))
        status =
            llm_fail(err, LLM_EFAILED, "logits returned a %s; it must return nothing, and change the row",
                     luaL_typename(L, -1));
    h->details[0] = 0;
    lua_settop(L, N_SLOTS);
    return status;
}

static llm_status read_choice(lua_State *L, int32_t *token, struct llm_error *err)
{
    double id = lua_tonumber(L, -1);
    if (lua_type(L, -1) != LUA_TNUMBER)
        return llm_fail(err, LLM_EFAILED,
                        "candidates returned a %s; it must return a token id, or nil to pass",
                        luaL_typename(L, -1));
    if (!(id == floor(id) && id >= 0 && id <= INT32_MAX))
        return llm_fail(err, LLM_EFAILED, "candidates returned %.14g, which is no token id", id);
    *token = (int32_t)id;
    return LLM_OK;
}

static llm_status host_candidates(void *self, struct llm_policy_run *run, const struct llm_candidate *best,
                                  int32_t n, int32_t *token, struct llm_error *err)
{
    struct policy_host *h = self;
    lua_State *L = h->L;
    h->best = (struct policy_best){best, n};
    lua_pushvalue(L, CANDIDATES);
    lua_pushvalue(L, BEST_VIEW);
    push_request(L, run);
    llm_status status = call(h, 2, 1, LLM_EFAILED, err);
    h->best = (struct policy_best){NULL, -1};
    if (status) return status;
    if (!lua_isnil(L, -1)) {
        h->details[0] = 0;
        status = read_choice(L, token, err);
    }
    lua_settop(L, N_SLOTS);
    return status;
}

/* ---- a scheduler's ------------------------------------------------------------------------------------- */

/* Its functions are where those of a policy are. */
enum { PREEMPT = CANDIDATES, ARRIVE = BEGIN, ENDED = FINISH };

/* Nobody's request fails for it, so it has to be said: the first time, the second, the fourth … */
static void log_failure(const struct policy_host *h)
{
    uint64_t n = atomic_load_explicit(&h->account->errors, memory_order_relaxed);
    if ((n & (n - 1)) == 0) fprintf(stderr, "llmlua: scheduler %s: %s\n", h->name, h->details);
}

static llm_status host_arrive(void *self, struct llm_arrival *arrival)
{
    struct policy_host *h = self;
    struct llm_error err;
    llm_status status = settle_in(h, &err);
    if (status) return status;
    lua_pushvalue(h->L, ARRIVE);
    lua_pushlightuserdata(h->L, arrival);
    status = call(h, 1, 1, LLM_EFAILED, &err);
    if (status) {
        log_failure(h);
        return status;
    }
    arrival->own = (void *)(intptr_t)lua_tointeger(h->L, -1);
    lua_settop(h->L, N_SLOTS);
    return LLM_OK;
}

static void host_ended(void *self, void *own, enum llm_finish_reason finish, int32_t n_output)
{
    struct policy_host *h = self;
    struct llm_error err;
    lua_pushvalue(h->L, ENDED);
    lua_pushinteger(h->L, (int)(intptr_t)own);
    lua_pushinteger(h->L, (int)finish);
    lua_pushinteger(h->L, n_output);
    if (call(h, 3, 0, LLM_EFAILED, &err)) log_failure(h);
}

static int32_t host_preempt(void *self, const struct llm_victim *victims, int32_t n)
{
    struct policy_host *h = self;
    struct llm_error err;
    if (settle_in(h, &err)) return -1;
    lua_pushvalue(h->L, PREEMPT);
    lua_pushlightuserdata(h->L, (void *)victims);
    lua_pushinteger(h->L, n);
    if (call(h, 2, 1, LLM_EFAILED, &err)) {
        log_failure(h);
        return -1;
    }
    int32_t choice = (int32_t)lua_tointeger(h->L, -1) - 1;
    lua_settop(h->L, N_SLOTS);
    return choice;
}

/* ---- arguments, and the end ---------------------------------------------------------------------------- */

static llm_status host_prepare(void *self, const char *args, size_t bytes, struct llm_policy_args *out,
                               struct llm_error *err)
{
    const struct policy_host *h = self;
    return policy_args_read(&h->params, args, bytes, out, err);
}

static void host_forget(void *self, struct llm_policy_args *args)
{
    (void)self;
    policy_args_free(args);
}

static void host_close(void *self)
{
    struct policy_host *h = self;
    if (h->L) lua_close(h->L);
    policy_params_deinit(&h->params);
    graph_free(h->graph);
    mem_free(h);
}

/* ---- for the Lua side ---------------------------------------------------------------------------------- */

/* Called through the FFI. A number in [0, 1) of (seed, index, position) and of how many were drawn there
 * before. Numbers at sites from 2^31 on are nobody else's: the sampler draws at 0, graphs below 2^16. */
static double draw(struct policy_sequence *s)
{
    const struct llm_policy_run *run = s->run;
    int32_t position = run->n_prompt + run->n_output;
    if (s->drawn_at != position) {
        s->drawn_at = position;
        s->n_draws = 0;
    }
    uint32_t site = (uint32_t)1 << 31 | (uint32_t)run->place << 24 | (s->n_draws++ & 0xffffff);
    struct rng_block r = rng_philox_at(run->seed, (uint32_t)run->index, (uint64_t)position, site);
    uint64_t u53 = ((uint64_t)r.word[0] << 21) ^ (r.word[1] >> 11);
    return (double)u53 * 0x1p-53;
}

/* args_of(light userdata) -> the arguments that were given, a table. [-0, +1, m] */
static int args_of(lua_State *L)
{
    policy_args_push(L, lua_touserdata(L, 1));
    return 1;
}

/* What state.lua gets: addresses, sizes to compare, functions. [-0, +1, m] */
static void push_seam(lua_State *L, struct policy_host *h, struct llm_engine *engine)
{
    const struct {
        const char *name;
        size_t size;
    } sizes[] = {{"llm_candidate", sizeof(struct llm_candidate)},
                 {"llm_policy_run", sizeof(struct llm_policy_run)},
                 {"policy_row", sizeof(struct policy_row)},
                 {"policy_best", sizeof(struct policy_best)},
                 {"policy_sequence", sizeof(struct policy_sequence)},
                 {"llm_arrival", sizeof(struct llm_arrival)},
                 {"llm_victim", sizeof(struct llm_victim)}};
    double (*draw_function)(struct policy_sequence *) = draw;
    void *draw_address;
    memcpy(&draw_address, &draw_function, sizeof draw_address); /* ISO C has no cast for it */
    struct llm_model_info info;
    llm_engine_model_info(engine, &info);

    lua_createtable(L, 0, 16);
    lua_pushlightuserdata(L, &h->row);
    lua_setfield(L, -2, "row");
    lua_pushlightuserdata(L, &h->best);
    lua_setfield(L, -2, "best");
    lua_pushlightuserdata(L, draw_address);
    lua_setfield(L, -2, "draw");
    lua_pushcfunction(L, args_of);
    lua_setfield(L, -2, "args_of");
    lua_pushinteger(L, info.vocab_size);
    lua_setfield(L, -2, "vocab_size");
    if (llm_engine_tokenizer(engine)) {
        api_push_tokenizer(L, llm_engine_tokenizer(engine));
        lua_setfield(L, -2, "tokenizer");
    }
    lua_createtable(L, 0, sizeof sizes / sizeof *sizes);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        lua_pushinteger(L, (lua_Integer)sizes[i].size);
        lua_setfield(L, -2, sizes[i].name);
    }
    lua_setfield(L, -2, "sizes");
}

/* ---- loading ------------------------------------------------------------------------------------------- */

struct load {
    struct policy_host *host;
    struct llm_engine *engine;
    const char *chunk_name, *text;
    size_t bytes;
};

/* (load) -> what state.lua's load returns: the slots from ROW_VIEW on, and a description. [-1, +8, e] */
static int run_load(lua_State *L)
{
    const struct load *load = lua_touserdata(L, 1);
    lua_settop(L, 0);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "llm.policy.state");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, "load");
    lua_replace(L, -2);
    push_seam(L, load->host, load->engine);
    if (luaL_loadbuffer(L, load->text, load->bytes, load->chunk_name) != 0) return lua_error(L);
    lua_call(L, 2, LUA_MULTRET);
    return lua_gettop(L);
}

static llm_status read_graph(struct policy_host *h, struct llm_error *err)
{
    lua_getfield(h->L, -1, "graph");
    size_t bytes = 0;
    const char *text = lua_tolstring(h->L, -1, &bytes);
    llm_status status = text ? graph_parse(text, bytes, &h->graph, err) : LLM_OK;
    lua_pop(h->L, 1);
    return status;
}

/* The description on top of the stack, popped. */
static llm_status describe(struct policy_host *h, const struct llm_engine *engine, struct llm_policy *out,
                           struct llm_scheduler *scheduler, struct llm_error *err)
{
    lua_State *L = h->L;
    llm_status status = read_graph(h, err);
    struct llm_model_info info;
    llm_engine_model_info(engine, &info);
    lua_getfield(L, -1, "params");
    if (!status) status = policy_params_read(L, h->graph, info.vocab_size, &h->params, err);
    lua_pop(L, 1);
    lua_getfield(L, -1, "scheduler");
    int schedules = lua_toboolean(L, -1);
    lua_pop(L, 1);
    if (schedules)
        *scheduler = (struct llm_scheduler){.self = h,
                                            .arrive = host_arrive,
                                            .ended = lua_isnil(L, ENDED) ? NULL : host_ended,
                                            .preempt = lua_isnil(L, PREEMPT) ? NULL : host_preempt,
                                            .close = host_close};
    lua_getfield(L, -1, "name");
    snprintf(h->name, sizeof h->name, "%s", lua_tostring(L, -1));
    lua_getfield(L, -2, "ignore_errors");
    lua_getfield(L, -3, "max_candidates");
    *out = (struct llm_policy){.name = h->name,
                               .self = h,
                               .ignore_errors = lua_toboolean(L, -2),
                               .max_candidates = (int32_t)lua_tointeger(L, -1),
                               .graph = h->graph,
                               .prepare = host_prepare,
                               .forget = host_forget,
                               .begin = host_begin,
                               .done = host_done,
                               .logits = lua_isnil(L, LOGITS) ? NULL : host_logits,
                               .candidates = lua_isnil(L, CANDIDATES) ? NULL : host_candidates,
                               .details = host_details,
                               .close = host_close};
    lua_settop(L, N_SLOTS);
    return status;
}

llm_status policy_host_load(struct llm_engine *engine, const char *chunk_name, const char *text, size_t bytes,
                            const struct policy_limits *limits, struct llm_policy *out,
                            struct llm_scheduler *scheduler, char *details, size_t room,
                            struct llm_error *err)
{
    *scheduler = (struct llm_scheduler){0};
    if (find_watch(err)) return err->status;
    struct policy_host *h = mem_zalloc(sizeof *h);
    if (!h) return llm_fail(err, LLM_ENOMEM, "no memory for a policy");
    h->limits = *limits;
    h->account = watchdog_account(own_watch, SCRIPT_LOAD, chunk_name + (chunk_name[0] == '@'));
    h->row.n = h->best.n = -1;
    h->memory.most = limits->memory;
    h->L = state_open_within(&h->memory);
    if (!h->L || !h->account) {
        host_close(h);
        return llm_fail(err, LLM_ENOMEM, "no memory for the Lua state of a policy");
    }
    account_limit(h->account, 0, limits->load_ns);
    struct load load = {h, engine, chunk_name, text, bytes};
    lua_pushcfunction(h->L, state_traceback);
    lua_pushcfunction(h->L, run_load);
    lua_pushlightuserdata(h->L, &load);
    llm_status status = call(h, 1, N_SLOTS, LLM_EINVAL, err);
    if (!status) status = describe(h, engine, out, scheduler, err);
    h->loaded = 1;
    h->account = NULL; /* hooks have one of their own, in the engine's thread */
    if (!status) return LLM_OK;
    snprintf(details, room, "%s", h->details);
    host_close(h);
    return status;
}
