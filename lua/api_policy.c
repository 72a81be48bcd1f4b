/* llm.core: loading policies into an engine, and what it knows of them. */

#include "api.h"
#include "embed.h"
#include "policy_args.h"
#include "policy_loader.h"

#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static uint64_t check_ns(lua_State *L, int arg)
{
    double seconds = luaL_checknumber(L, arg);
    return seconds > 0 && seconds < 1e9 ? (uint64_t)ceil(seconds * 1e9) : 0;
}

/* What is to be loaded, from the arguments of policy_load. All of it is borrowed from the stack. */
static struct policy_load *check_load(lua_State *L)
{
    struct policy_load *load = lua_newuserdata(L, sizeof *load);
    memset(load, 0, sizeof *load);
    load->chunk_name = luaL_checkstring(L, 2);
    load->text = luaL_checklstring(L, 3, &load->bytes);
    load->limits = (struct policy_limits){check_ns(L, 4), check_ns(L, 5), check_ns(L, 6),
                                          (size_t)luaL_checknumber(L, 7)};
    return load;
}

/* name, generation | nil, message, code, details; of a scheduler, the name only. [-0, +1|2|4, m] */
static int push_loaded(lua_State *L, const struct policy_load *load)
{
    if (load->err.status) {
        int n = api_fail(L, &load->err);
        lua_pushstring(L, load->details);
        return n + 1;
    }
    lua_pushstring(L, load->name);
    if (!load->generation) return 1;
    lua_pushinteger(L, load->generation);
    return 2;
}

/* engine:policy_load(chunk_name, text, load, soft, hard, memory) -> name, generation | nil, message, code,
 * details; of a scheduler, which is now the engine's, the name only.
 * Limits in seconds, 0: none: of the load, and of a hook (logged beyond the first, ended beyond the second);
 * in bytes: of its Lua state. details: the traceback of an error in the file. [-0, +1|2|4, e] */
static int policy_load(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    struct policy_load *load = check_load(L);
    policy_load_run(load, e->engine);
    return push_loaded(L, load);
}

/* engine:policy_load_beside(as policy_load) -> number | nil, message, code. The same on another thread:
 * policy_loaded has what came of it. [-0, +1|3, e] */
static int policy_load_beside(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    const struct policy_load *load = check_load(L);
    struct llm_error err = {LLM_OK, ""};
    uint64_t number = 0;
    llm_status status = e->loader ? LLM_OK : policy_loader_open(e->engine, &e->loader, &err);
    if (!status) status = policy_loader_ask(e->loader, load, &number, &err);
    if (status) return api_fail(L, &err);
    lua_pushnumber(L, (double)number);
    return 1;
}

/* engine:policy_loaded() -> number, then as policy_load | nothing: no more loads have ended. [-0, +0|2|3|5,
 * e] */
static int policy_loaded(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    const struct policy_load *load = e->loader ? policy_loader_take(e->loader) : NULL;
    if (!load) return 0;
    lua_pushnumber(L, (double)load->asked);
    return 1 + push_loaded(L, load);
}

/* engine:policy_loads_fd() -> a descriptor that is readable when a load has ended, once one has begun; the
 * engine's. [-0, +1, e] */
static int policy_loads_fd(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    lua_pushinteger(L, e->loader ? policy_loader_fd(e->loader) : -1);
    return 1;
}

/* engine:policy_rollback(name) -> generation | nil, message, code. [-0, +1|3, e] */
static int policy_rollback(lua_State *L)
{
    struct llm_error err = {LLM_OK, ""};
    int32_t generation = 0;
    if (llm_policy_rollback(api_check_engine(L, 1)->engine, luaL_checkstring(L, 2), &generation, &err) !=
        LLM_OK)
        return api_fail(L, &err);
    lua_pushinteger(L, generation);
    return 1;
}

/* engine:policy_remove(name) -> true | nil, message, code. [-0, +1|3, e] */
static int policy_remove(lua_State *L)
{
    struct llm_error err = {LLM_OK, ""};
    if (llm_policy_remove(api_check_engine(L, 1)->engine, luaL_checkstring(L, 2), &err) != LLM_OK)
        return api_fail(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

/* engine:scheduler_remove() -> true | nil, message, code. [-0, +1|3, e] */
static int scheduler_remove(lua_State *L)
{
    struct llm_error err = {LLM_OK, ""};
    if (llm_scheduler_set(api_check_engine(L, 1)->engine, NULL, &err) != LLM_OK) return api_fail(L, &err);
    lua_pushboolean(L, 1);
    return 1;
}

static void push_info(lua_State *L, const struct llm_policy_info *i)
{
    const struct {
        const char *name;
        double value;
    } numbers[] = {{"generation", i->generation},         {"n_users", i->n_users},
                   {"n_requests", (double)i->n_requests}, {"n_calls", (double)i->n_calls},
                   {"n_failures", (double)i->n_failures}, {"seconds", i->seconds}};
    lua_createtable(L, 0, 9);
    if (i->on_host[0]) {
        lua_pushstring(L, i->on_host);
        lua_setfield(L, -2, "on_host");
    }
    lua_pushstring(L, i->name);
    lua_setfield(L, -2, "name");
    lua_pushboolean(L, i->active);
    lua_setfield(L, -2, "active");
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) {
        lua_pushnumber(L, numbers[k].value);
        lua_setfield(L, -2, numbers[k].name);
    }
}

/* engine:policies() -> list of {name, generation, active, n_users, n_requests, n_calls, n_failures, seconds,
 * on_host}. [-0, +1, e] */
static int policy_list(lua_State *L)
{
    struct llm_engine *engine = api_check_engine(L, 1)->engine;
    size_t capacity = llm_policy_list(engine, NULL, 0);
    struct llm_policy_info *infos = lua_newuserdata(L, (capacity + 1) * sizeof *infos);
    size_t n = llm_policy_list(engine, infos, capacity);
    if (n > capacity) n = capacity;
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        push_info(L, &infos[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    return 1;
}

/* engine:has_policy(name) -> boolean. [-0, +1, e] */
static int policy_has(lua_State *L)
{
    lua_pushboolean(L, llm_policy_exists(api_check_engine(L, 1)->engine, luaL_checkstring(L, 2)));
    return 1;
}

/* core.policy_args(table) -> the arguments of a policy as JSON | nil, message. [-0, +1|2, e] */
static int args_json(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TTABLE);
    lua_settop(L, 1);
    const char *why;
    char *text = policy_args_write(L, 1, &why);
    if (!text) {
        lua_pushnil(L);
        lua_pushstring(L, why);
        return 2;
    }
    lua_pushstring(L, text);
    free(text);
    return 1;
}

/* core.bundled(prefix) -> list of the paths of bundled files that begin with it. [-0, +1, e] */
static int bundled(lua_State *L)
{
    size_t length = 0;
    const char *prefix = luaL_checklstring(L, 1, &length);
    int n = 0;
    lua_newtable(L);
    for (const struct embedded_file *f = embedded_files; f->path; f++) {
        if (strncmp(f->path, prefix, length) != 0) continue;
        lua_pushstring(L, f->path);
        lua_rawseti(L, -2, ++n);
    }
    return 1;
}

llm_status api_read_policies(lua_State *L, int index, const struct llm_policy_use **out, size_t *n,
                             struct llm_error *err)
{
    if (!lua_istable(L, index)) return llm_fail(err, LLM_EINVAL, "policies must be a list");
    *n = lua_objlen(L, index);
    struct llm_policy_use *uses = lua_newuserdata(L, (*n + 1) * sizeof *uses);
    for (size_t i = 0; i < *n; i++) {
        uses[i] = (struct llm_policy_use){0};
        lua_rawgeti(L, index, (int)i + 1);
        if (lua_istable(L, -1)) {
            lua_rawgeti(L, -1, 1);
            lua_rawgeti(L, -2, 2);
            uses[i].name = lua_tostring(L, -2);
            uses[i].args = lua_tolstring(L, -1, &uses[i].args_bytes);
            lua_pop(L, 2);
        }
        lua_pop(L, 1);
        if (!uses[i].name) return llm_fail(err, LLM_EINVAL, "policies[%zu] must be {name, JSON}", i + 1);
    }
    *out = uses;
    return LLM_OK;
}

void api_open_policy(lua_State *L)
{
    static const luaL_Reg methods[] = {{"policy_load", policy_load},
                                       {"policy_load_beside", policy_load_beside},
                                       {"policy_loaded", policy_loaded},
                                       {"policy_loads_fd", policy_loads_fd},
                                       {"policy_rollback", policy_rollback},
                                       {"policy_remove", policy_remove},
                                       {"policies", policy_list},
                                       {"has_policy", policy_has},
                                       {"scheduler_remove", scheduler_remove},
                                       {NULL, NULL}};
    luaL_getmetatable(L, API_ENGINE);
    lua_getfield(L, -1, "__index");
    luaL_register(L, NULL, methods);
    lua_pop(L, 2);
    lua_pushcfunction(L, args_json);
    lua_setfield(L, -2, "policy_args");
    lua_pushcfunction(L, bundled);
    lua_setfield(L, -2, "bundled");
}
