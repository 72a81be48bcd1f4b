#include "api_graph.h"

#include "base/mem.h"

#include <lauxlib.h>
#include <math.h>
#include <string.h>
#include <time.h>

#define API_GRAPH "llm.core.graph"

/* ---- arguments ----------------------------------------------------------------------------------------- */

static llm_status give_list(lua_State *L, int index, struct graph_args *args, int32_t param,
                            struct llm_error *err)
{
    int32_t *ids;
    size_t n;
    llm_status status = api_read_ids(L, index, "the list", &ids, &n, err);
    if (status != LLM_OK) return status;
    status = graph_args_list(args, param, ids, n, err);
    lua_pop(L, 1);
    return status;
}

/* The pair list on top of the stack. */
static llm_status give_pairs(lua_State *L, int index, struct graph_args *args, int32_t param,
                             struct llm_error *err)
{
    int top = lua_gettop(L);
    lua_getfield(L, index, "ids");
    lua_getfield(L, index, "values");
    int32_t *ids;
    size_t n = 0;
    if (!lua_istable(L, -1) || !lua_istable(L, -2))
        return llm_fail(err, LLM_EINVAL, "pairs are made by llm.graph.pairs");
    llm_status status = api_read_ids(L, top + 1, "ids", &ids, &n, err);
    if (status == LLM_OK) {
        float *values = lua_newuserdata(L, (n ? n : 1) * sizeof *values);
        for (size_t i = 0; i < n; i++) {
            lua_rawgeti(L, top + 2, (int)(i + 1));
            values[i] = lua_isnumber(L, -1) ? (float)lua_tonumber(L, -1) : NAN;
            lua_pop(L, 1);
        }
        status = graph_args_pairs(args, param, ids, values, n, err);
    }
    lua_settop(L, top);
    return status;
}

/* Field `name` of the table at `index`: int32 in a string. Borrowed from the table. */
static const int32_t *read_table(lua_State *L, int index, const char *name, size_t n)
{
    lua_getfield(L, index, name);
    size_t bytes = 0;
    const char *text = lua_type(L, -1) == LUA_TSTRING ? lua_tolstring(L, -1, &bytes) : NULL;
    lua_pop(L, 1);
    /* LuaJIT's strings are aligned to 8 bytes. */
    return text && bytes == n * sizeof(int32_t) ? (const int32_t *)(const void *)text : NULL;
}

static int32_t read_count(lua_State *L, int index, const char *name)
{
    lua_getfield(L, index, name);
    lua_Number v = lua_tonumber(L, -1);
    lua_pop(L, 1);
    return v >= 1 && v <= INT32_MAX ? (int32_t)v : 0;
}

static llm_status give_automaton(lua_State *L, int index, struct graph_args *args, int32_t param,
                                 struct llm_error *err)
{
    int32_t vocab_size = read_count(L, index, "vocab_size"), n_states = read_count(L, index, "n_states"),
            n_classes = read_count(L, index, "n_classes");
    const int32_t *class_of = read_table(L, index, "class_of", (size_t)vocab_size);
    const int32_t *next = read_table(L, index, "next", (size_t)n_states * (size_t)n_classes);
    if (!class_of || !next) return llm_fail(err, LLM_EINVAL, "automata are made by llm.automaton");
    struct graph_automaton *a = NULL;
    llm_status status = graph_automaton_new(vocab_size, n_states, n_classes, class_of, next, &a, err);
    if (status == LLM_OK) status = graph_args_automaton(args, param, a, err);
    graph_automaton_unref(a);
    return status;
}

llm_status api_graph_argument(lua_State *L, int index, struct graph_args *args, int32_t param,
                              struct llm_error *err)
{
    int type = lua_type(L, index);
    if (type == LUA_TNUMBER) return graph_args_number(args, param, lua_tonumber(L, index), err);
    if (type == LUA_TBOOLEAN) return graph_args_number(args, param, lua_toboolean(L, index), err);
    if (type != LUA_TTABLE)
        return llm_fail(err, LLM_EINVAL, "a graph takes numbers, true and false, and tables; this is a %s",
                        luaL_typename(L, index));
    if (index < 0) index = lua_gettop(L) + 1 + index;
    lua_getfield(L, index, "class_of");
    lua_getfield(L, index, "ids");
    int automaton = !lua_isnil(L, -2), pairs = !lua_isnil(L, -1);
    lua_pop(L, 2);
    if (automaton) return give_automaton(L, index, args, param, err);
    if (pairs) return give_pairs(L, index, args, param, err);
    return give_list(L, index, args, param, err);
}

/* ---- llm.core.graph ------------------------------------------------------------------------------------ */

/* One sequence under a graph. */
struct api_graph {
    struct graph *graph;
    struct graph_args *args;
    struct graph_scratch *scratch;
    double *variables;
    int32_t vocab_size;
};

static int graph_gc(lua_State *L)
{
    struct api_graph *g = luaL_checkudata(L, 1, API_GRAPH);
    graph_scratch_close(g->scratch);
    graph_args_free(g->args);
    graph_free(g->graph);
    mem_free(g->variables);
    *g = (struct api_graph){0};
    return 0;
}

/* graph(text, vocab_size [, isa]) -> graph | nil, message, code. [-0, +1|3, m] */
static int graph_open(lua_State *L)
{
    size_t bytes;
    const char *text = luaL_checklstring(L, 1, &bytes);
    double vocab_size = luaL_checknumber(L, 2);
    const char *isa = luaL_optstring(L, 3, NULL);
    struct llm_error err = {0};
    struct api_graph *g = lua_newuserdata(L, sizeof *g);
    *g = (struct api_graph){.vocab_size =
                                vocab_size >= 1 && vocab_size <= GRAPH_MAX_VOCAB ? (int32_t)vocab_size : 0};
    luaL_getmetatable(L, API_GRAPH);
    lua_setmetatable(L, -2);
    if (graph_parse(text, bytes, &g->graph, &err) ||
        graph_args_new(g->graph, g->vocab_size, &g->args, &err) ||
        graph_scratch_open(g->vocab_size, isa, &g->scratch, &err))
        return api_fail(L, &err);
    g->variables = mem_array((size_t)g->graph->n_variables + 1, sizeof *g->variables);
    if (!g->variables) {
        llm_fail(&err, LLM_ENOMEM, "no memory for a graph's variables");
        return api_fail(L, &err);
    }
    graph_state_init(g->graph, g->variables);
    return 1;
}

/* graph:set(name, value) -> true | nil, message, code. [-0, +1|3, m] */
static int graph_set(lua_State *L)
{
    struct api_graph *g = luaL_checkudata(L, 1, API_GRAPH);
    const char *name = luaL_checkstring(L, 2);
    int32_t param = graph_find_param(g->graph, name);
    struct llm_error err = {0};
    llm_status status = param < 0 ? llm_fail(&err, LLM_EINVAL, "the graph has no parameter %s", name)
                                  : api_graph_argument(L, 3, g->args, param, &err);
    if (status != LLM_OK) return api_fail(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

/* graph:variable(name) -> number, or a list; nil: there is none. [-0, +1, m] */
static int graph_variable(lua_State *L)
{
    struct api_graph *g = luaL_checkudata(L, 1, API_GRAPH);
    const char *name = luaL_checkstring(L, 2);
    for (int32_t i = 0; i < g->graph->n_states; i++) {
        const struct graph_state *state = &g->graph->states[i];
        if (strcmp(state->name, name) != 0) continue;
        if (state->type == GRAPH_NUM) {
            lua_pushnumber(L, g->variables[state->offset]);
            return 1;
        }
        lua_createtable(L, state->length, 0);
        for (int32_t k = 0; k < state->length; k++) {
            lua_pushnumber(L, g->variables[state->offset + k]);
            lua_rawseti(L, -2, k + 1);
        }
        return 1;
    }
    return 0;
}

/* graph:dump(), graph:explain() -> text. [-0, +1, m] */
static int push_text(lua_State *L,
                     llm_status (*make)(const struct graph *, char **, size_t *, struct llm_error *))
{
    struct api_graph *g = luaL_checkudata(L, 1, API_GRAPH);
    struct llm_error err = {0};
    char *text;
    size_t bytes;
    if (make(g->graph, &text, &bytes, &err) != LLM_OK) return api_fail(L, &err);
    lua_pushlstring(L, text, bytes);
    mem_free(text);
    return 1;
}

static int graph_dump_text(lua_State *L)
{
    return push_text(L, graph_dump);
}

static int graph_explain_text(lua_State *L)
{
    return push_text(L, graph_explain);
}

/* A field of the call, at 2. */
static double read_number(lua_State *L, const char *name, double otherwise)
{
    lua_getfield(L, 2, name);
    double v = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : otherwise;
    lua_pop(L, 1);
    return v;
}

/* A list of tokens of the call, pushed. */
static llm_status read_tokens(lua_State *L, const char *name, const int32_t **ids, int32_t *n,
                              struct llm_error *err)
{
    lua_getfield(L, 2, name);
    if (lua_isnil(L, -1)) return LLM_OK;
    int32_t *list;
    size_t count;
    llm_status status = api_read_ids(L, lua_gettop(L), name, &list, &count, err);
    if (status != LLM_OK) return status;
    *ids = list;
    *n = (int32_t)count;
    return LLM_OK;
}

/* The call in the table at 2, its row in memory that is pushed. */
static llm_status read_call(lua_State *L, struct api_graph *g, struct graph_call *call, struct llm_error *err)
{
    float *row = lua_newuserdata(L, sizeof *row * (size_t)g->vocab_size);
    lua_getfield(L, 2, "logits");
    if (!lua_istable(L, -1) || lua_objlen(L, -1) != (size_t)g->vocab_size)
        return llm_fail(err, LLM_EINVAL, "logits must be a list of %d numbers", g->vocab_size);
    for (int32_t i = 0; i < g->vocab_size; i++) {
        lua_rawgeti(L, -1, i + 1);
        row[i] = (float)lua_tonumber(L, -1);
        lua_pop(L, 1);
    }
    *call = (struct graph_call){.row = row,
                                .variables = g->variables,
                                .args = g->args,
                                .seed = (uint64_t)read_number(L, "seed", 0),
                                .stream = (uint32_t)read_number(L, "stream", 0),
                                .temperature = (float)read_number(L, "temperature", 1),
                                .top_k = (int32_t)read_number(L, "top_k", 0),
                                .top_p = (float)read_number(L, "top_p", 1),
                                .min_p = (float)read_number(L, "min_p", 0)};
    llm_status status = read_tokens(L, "prompt", &call->prompt, &call->n_prompt, err);
    if (status == LLM_OK) status = read_tokens(L, "output", &call->output, &call->n_output, err);
    call->position = (uint64_t)call->n_prompt + (uint64_t)call->n_output;
    return status;
}

/* graph:run{ logits = {…}, prompt = {…}, output = {…}, seed, stream, temperature, top_k, top_p, min_p }
 * -> a token or a row as the graph gives | nil, message, code. The position is that after the output.
 * [-0, +1|3, m] */
static int graph_run_call(lua_State *L)
{
    struct api_graph *g = luaL_checkudata(L, 1, API_GRAPH);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    struct llm_error err = {0};
    struct graph_call call;
    if (read_call(L, g, &call, &err) || graph_run(g->graph, g->scratch, &call, &err))
        return api_fail(L, &err);
    if (g->graph->gives == GRAPH_GIVES_TOKEN) {
        lua_pushinteger(L, call.token);
        return 1;
    }
    lua_createtable(L, g->vocab_size, 0);
    for (int32_t i = 0; i < g->vocab_size; i++) {
        lua_pushnumber(L, call.row[i]);
        lua_rawseti(L, -2, i + 1);
    }
    return 1;
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* graph:time(call, times) -> seconds a run | nil, message, code. For benchmarks: what run does, without what
 * it takes to make C's row of Lua's. [-0, +1|3, m] */
static int graph_time(lua_State *L)
{
    struct api_graph *g = luaL_checkudata(L, 1, API_GRAPH);
    luaL_checktype(L, 2, LUA_TTABLE);
    int times = luaL_checkint(L, 3);
    lua_settop(L, 2);
    struct llm_error err = {0};
    struct graph_call call;
    if (read_call(L, g, &call, &err)) return api_fail(L, &err);
    size_t bytes = sizeof *call.row * (size_t)g->vocab_size;
    float *logits = lua_newuserdata(L, bytes);
    memcpy(logits, call.row, bytes);
    double seconds = 0;
    for (int i = 0; i < times; i++) {
        memcpy(call.row, logits, bytes);
        double begin = now();
        if (graph_run(g->graph, g->scratch, &call, &err)) return api_fail(L, &err);
        seconds += now() - begin;
    }
    lua_pushnumber(L, seconds / times);
    return 1;
}

/* graph_hash({ number, … } [, token]) -> number. [-0, +1, e] */
static int hash(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    double key[GRAPH_MAX_ARGS];
    size_t n = lua_objlen(L, 1);
    luaL_argcheck(L, n >= 1 && n <= GRAPH_MAX_ARGS, 1, "a key has one to six numbers");
    for (size_t i = 0; i < n; i++) {
        lua_rawgeti(L, 1, (int)i + 1);
        key[i] = lua_tonumber(L, -1);
        lua_pop(L, 1);
    }
    if (lua_isnoneornil(L, 2)) {
        lua_pushnumber(L, graph_hash(key, (int32_t)n));
    } else {
        lua_pushnumber(L, graph_token_hash(key, (int32_t)n, (int32_t)luaL_checkinteger(L, 2)));
    }
    return 1;
}

void api_open_graph(lua_State *L)
{
    static const luaL_Reg methods[] = {{"set", graph_set},
                                       {"variable", graph_variable},
                                       {"dump", graph_dump_text},
                                       {"explain", graph_explain_text},
                                       {"run", graph_run_call},
                                       {"time", graph_time},
                                       {NULL, NULL}};
    static const luaL_Reg functions[] = {{"graph", graph_open}, {"graph_hash", hash}, {NULL, NULL}};
    api_new_type(L, API_GRAPH, methods, graph_gc);
    luaL_register(L, NULL, functions);
}
