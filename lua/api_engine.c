/* llm.core: opening and closing an engine, what it is and what it has done. */

#include "api.h"
#include "policy_loader.h"

#include <lauxlib.h>
#include <math.h>
#include <string.h>

#define OPTION(name, kind) API_FIELD(llm_engine_options, name, kind)

static const struct api_field option_fields[] = {
    OPTION(model, API_STRING),
    OPTION(tokenizer, API_STRING),
    OPTION(skip_tokenizer_init, API_BOOL),
    OPTION(load_format, API_STRING),
    OPTION(null_step_ms, API_FLOAT),
    OPTION(dtype, API_STRING),
    OPTION(kv_cache_dtype, API_STRING),
    OPTION(seed, API_UINT64),
    OPTION(max_model_len, API_INT32),
    OPTION(max_num_seqs, API_INT32),
    OPTION(max_num_batched_tokens, API_INT32),
    OPTION(block_size, API_INT32),
    OPTION(kv_cache_memory, API_UINT64),
    OPTION(enable_prefix_caching, API_BOOL),
    OPTION(enable_chunked_prefill, API_BOOL),
    OPTION(scheduling_policy, API_STRING),
    OPTION(max_num_queued_reqs, API_INT32),
    OPTION(max_logprobs, API_INT32),
    OPTION(step_time_target, API_FLOAT),
    OPTION(device, API_STRING),
    OPTION(gpu_memory_utilization, API_FLOAT),
    OPTION(threads, API_INT32),
    OPTION(cpu_isa, API_STRING),
};

struct api_engine *api_check_engine(lua_State *L, int arg)
{
    struct api_engine *e = luaL_checkudata(L, arg, API_ENGINE);
    if (!e->engine) luaL_error(L, "the engine is closed");
    return e;
}

static void engine_shut(lua_State *L, struct api_engine *e)
{
    if (e->engine && !e->shared) api_end_crew(L);
    while (e->requests) api_request_release(e->requests);
    while (e->sequences) api_sequence_close(e->sequences);
    policy_loader_close(e->loader);
    llm_client_close(e->client);
    if (!e->shared) llm_engine_close(e->engine);
    e->loader = NULL;
    e->client = NULL;
    e->engine = NULL;
}

/* The environment maps each live request's address to its userdata, weakly: an abandoned request is
 * collected, and thereby cancelled. */
static struct api_engine *engine_new(lua_State *L)
{
    struct api_engine *e = lua_newuserdata(L, sizeof *e);
    memset(e, 0, sizeof *e);
    luaL_getmetatable(L, API_ENGINE);
    lua_setmetatable(L, -2);
    lua_newtable(L);
    lua_createtable(L, 0, 1);
    lua_pushliteral(L, "v");
    lua_setfield(L, -2, "__mode");
    lua_setmetatable(L, -2);
    lua_setfenv(L, -2);
    return e;
}

static int open_client(lua_State *L, struct api_engine *e)
{
    struct llm_error err = {LLM_OK, ""};
    if (llm_client_open(e->engine, &e->client, &err) == LLM_OK) return 1;
    engine_shut(L, e);
    return api_fail(L, &err);
}

int api_push_shared_engine(lua_State *L, struct llm_engine *engine)
{
    struct api_engine *e = engine_new(L);
    e->shared = 1;
    e->engine = engine;
    return open_client(L, e);
}

struct load_hook {
    lua_State *L;
    int function; /* stack index */
};

/* Called by the engine on this thread. An error in the hook must not unwind through the loader: it is
 * dropped, and the hook is not called again. */
static void on_load(void *ud, int64_t done, int64_t total)
{
    struct load_hook *hook = ud;
    if (!hook->function) return;
    lua_pushvalue(hook->L, hook->function);
    lua_pushnumber(hook->L, (double)done);
    lua_pushnumber(hook->L, (double)total);
    if (lua_pcall(hook->L, 2, 0, 0) != 0) {
        lua_pop(hook->L, 1);
        hook->function = 0;
    }
}

/* core.open(options [, on_load(bytes_done, bytes_total)]) -> engine | nil, message, code. [-0, +1|3, e] */
static int engine_open(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 2);
    struct llm_error err = {LLM_OK, ""};
    struct llm_engine_options options;
    llm_engine_options_init(&options);
    if (api_read_fields(L, 1, option_fields, sizeof option_fields / sizeof *option_fields, &options, &err) !=
        LLM_OK)
        return api_fail(L, &err);
    struct load_hook hook = {L, 2};
    if (lua_isfunction(L, 2)) {
        options.on_load = on_load;
        options.on_load_ud = &hook;
    }

    struct api_engine *e = engine_new(L);
    if (llm_engine_open(&options, &e->engine, &err) != LLM_OK) return api_fail(L, &err);
    return open_client(L, e);
}

/* engine:close(); harmless twice. [-0, +0, -] */
static int engine_close(lua_State *L)
{
    engine_shut(L, luaL_checkudata(L, 1, API_ENGINE));
    return 0;
}

/* engine:is_open() -> boolean. [-0, +1, e] */
static int engine_is_open(lua_State *L)
{
    struct api_engine *e = luaL_checkudata(L, 1, API_ENGINE);
    lua_pushboolean(L, e->engine != NULL);
    return 1;
}

static void set_number(lua_State *L, const char *name, double v)
{
    lua_pushnumber(L, v);
    lua_setfield(L, -2, name);
}

static void set_string(lua_State *L, const char *name, const char *v)
{
    lua_pushstring(L, v); /* null: nil */
    lua_setfield(L, -2, name);
}

/* engine:info() -> table of what struct llm_model_info says, under the same names. [-0, +1, e] */
static int engine_info(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    struct llm_model_info info;
    llm_engine_model_info(e->engine, &info);
    lua_createtable(L, 0, 24);
    set_string(L, "path", info.path);
    set_string(L, "architecture", info.architecture);
    set_number(L, "vocab_size", info.vocab_size);
    set_number(L, "hidden_size", info.hidden_size);
    set_number(L, "n_layers", info.n_layers);
    set_number(L, "n_heads", info.n_heads);
    set_number(L, "n_kv_heads", info.n_kv_heads);
    set_number(L, "head_dim", info.head_dim);
    set_number(L, "max_model_len", info.max_model_len);
    set_number(L, "block_size", info.block_size);
    set_number(L, "n_blocks", info.n_blocks);
    set_number(L, "weight_bytes", (double)info.weight_bytes);
    set_number(L, "kv_bytes_per_token", (double)info.kv_bytes_per_token);
    set_string(L, "backend", info.backend);
    set_string(L, "isa", info.isa);
    set_number(L, "threads", info.threads);
    if (!isnan(info.default_temperature)) set_number(L, "default_temperature", info.default_temperature);
    if (!isnan(info.default_top_p)) set_number(L, "default_top_p", info.default_top_p);
    if (!isnan(info.default_min_p)) set_number(L, "default_min_p", info.default_min_p);
    if (!isnan(info.default_repetition_penalty))
        set_number(L, "default_repetition_penalty", info.default_repetition_penalty);
    if (info.default_top_k != -1) set_number(L, "default_top_k", info.default_top_k);
    return 1;
}

/* engine:stats() -> table of what struct llm_stats says, under the same names. [-0, +1, e] */
static int engine_stats(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    struct llm_stats stats;
    llm_engine_stats(e->engine, &stats);
    lua_createtable(L, 0, 16);
    set_number(L, "n_running", stats.n_running);
    set_number(L, "n_waiting", stats.n_waiting);
    set_number(L, "n_blocks", stats.n_blocks);
    set_number(L, "n_blocks_used", stats.n_blocks_used);
    set_number(L, "n_blocks_peak", stats.n_blocks_peak);
    set_number(L, "n_blocks_pinned", stats.n_blocks_pinned);
    set_number(L, "kv_waste_peak", stats.kv_waste_peak);
    set_number(L, "n_steps", (double)stats.n_steps);
    set_number(L, "n_prompt_tokens", (double)stats.n_prompt_tokens);
    set_number(L, "n_output_tokens", (double)stats.n_output_tokens);
    set_number(L, "n_preemptions", (double)stats.n_preemptions);
    set_number(L, "n_prefix_queries", (double)stats.n_prefix_queries);
    set_number(L, "n_prefix_hits", (double)stats.n_prefix_hits);
    set_number(L, "n_finished", (double)stats.n_finished);
    set_number(L, "busy_seconds", stats.busy_seconds);
    set_number(L, "wait_seconds", stats.wait_seconds);
    return 1;
}

/* engine:histogram(name) -> {bounds = {…}, counts = {…}, sum, n}, counts one longer than bounds. [-0, +1, e]
 */
static int engine_histogram(lua_State *L)
{
    static const char *const names[LLM_N_DISTRIBUTIONS + 1] = {
        [LLM_STEP_TOKENS] = "step_tokens",     [LLM_TOKEN_GAP] = "token_gap",
        [LLM_PAGE_LIFETIME] = "page_lifetime", [LLM_PAGE_IDLE] = "page_idle",
        [LLM_PAGE_REUSE] = "page_reuse",
    };
    struct api_engine *e = api_check_engine(L, 1);
    struct llm_histogram h;
    llm_engine_histogram(e->engine, (enum llm_distribution)luaL_checkoption(L, 2, NULL, names), &h);
    double n = 0;
    lua_createtable(L, 0, 4);
    lua_createtable(L, h.n_bounds, 0);
    lua_createtable(L, h.n_bounds + 1, 0);
    for (int32_t i = 0; i <= h.n_bounds; i++) {
        if (i < h.n_bounds) {
            lua_pushnumber(L, h.bounds[i]);
            lua_rawseti(L, -3, i + 1);
        }
        lua_pushnumber(L, (double)h.counts[i]);
        lua_rawseti(L, -2, i + 1);
        n += (double)h.counts[i];
    }
    lua_setfield(L, -3, "counts");
    lua_setfield(L, -2, "bounds");
    set_number(L, "sum", h.sum);
    set_number(L, "n", n);
    return 1;
}

/* engine:page_map() -> a string, a byte a page: 0 free, 1 cached, 2 used by several sequences, else by the
 * request of that number. As of the last call or later; see llm_engine_page_map. [-0, +1, e] */
static int engine_page_map(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    int32_t n = llm_engine_page_map(e->engine, NULL, 0);
    uint8_t *map = lua_newuserdata(L, n > 0 ? (size_t)n : 1);
    llm_engine_page_map(e->engine, map, n);
    lua_pushlstring(L, (const char *)map, (size_t)n);
    return 1;
}

/* engine:reset_prefix_cache(). [-0, +0, e] */
static int engine_reset_prefix_cache(lua_State *L)
{
    llm_engine_reset_prefix_cache(api_check_engine(L, 1)->engine);
    return 0;
}

/* Ids of argument 2, or an error as api_fail's. 0: they are there. */
static int read_prefix(lua_State *L, int32_t **ids, size_t *n)
{
    struct llm_error err = {LLM_OK, ""};
    return api_read_ids(L, 2, "prefix", ids, n, &err) == LLM_OK ? 0 : api_fail(L, &err);
}

/* engine:prefix_pin(ids, salt | nil, seconds) -> id, tokens | nil, message, code. [-0, +2|3, e] */
static int prefix_pin(lua_State *L)
{
    struct llm_engine *e = api_check_engine(L, 1)->engine;
    struct llm_error err = {LLM_OK, ""};
    struct llm_pin pin;
    int32_t *ids = NULL;
    size_t n = 0;
    int failed = read_prefix(L, &ids, &n);
    if (failed) return failed;
    if (llm_prefix_pin(e, ids, n, luaL_optstring(L, 3, NULL), luaL_checknumber(L, 4), &pin, &err))
        return api_fail(L, &err);
    lua_pushnumber(L, (double)pin.id);
    lua_pushnumber(L, (double)pin.n_tokens);
    return 2;
}

/* engine:prefix_unpin(id) -> true | nil, message, code. [-0, +1|3, e] */
static int prefix_unpin(lua_State *L)
{
    struct llm_error err = {LLM_OK, ""};
    if (llm_prefix_unpin(api_check_engine(L, 1)->engine, (uint64_t)luaL_checknumber(L, 2), &err))
        return api_fail(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

/* engine:prefix_evict(ids, salt | nil) -> true | nil, message, code. [-0, +1|3, e] */
static int prefix_evict(lua_State *L)
{
    struct llm_engine *e = api_check_engine(L, 1)->engine;
    struct llm_error err = {LLM_OK, ""};
    int32_t *ids = NULL;
    size_t n = 0;
    int failed = read_prefix(L, &ids, &n);
    if (failed) return failed;
    if (llm_prefix_evict(e, ids, n, luaL_optstring(L, 3, NULL), &err)) return api_fail(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

void api_open_engine(lua_State *L)
{
    static const luaL_Reg methods[] = {{"prefix_pin", prefix_pin},
                                       {"prefix_unpin", prefix_unpin},
                                       {"prefix_evict", prefix_evict},
                                       {"close", engine_close},
                                       {"is_open", engine_is_open},
                                       {"info", engine_info},
                                       {"stats", engine_stats},
                                       {"histogram", engine_histogram},
                                       {"page_map", engine_page_map},
                                       {"reset_prefix_cache", engine_reset_prefix_cache},
                                       {NULL, NULL}};
    api_new_type(L, API_ENGINE, methods, engine_close);
    lua_pushcfunction(L, engine_open);
    lua_setfield(L, -2, "open");
}
