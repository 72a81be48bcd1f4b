/* llmlua_lua.h: Lua states and C functions for a program that is not ours. Lua errors do not leave this file:
 * whatever may raise runs under lua_cpcall or state_call. */

#define _GNU_SOURCE
#include "llmlua_lua.h"

#include "api.h"
#include "base/mem.h"
#include "state.h"

#include <lauxlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct host_engine {
    struct host_engine *next;
    struct llm_engine *engine;
    char name[];
};

struct llm_lua {
    lua_State *L;
    int stop_fd;                 /* readable: stop the server */
    struct host_engine *engines; /* given by the host */
    char *failure;               /* message and traceback of the last run; null: it has not failed */
    char *result;                /* its JSON; null: none */
};

enum reply_kind { REPLY_NIL, REPLY_STRING, REPLY_NUMBER, REPLY_BOOLEAN, REPLY_JSON };

struct llm_lua_call {
    lua_State *L;
    int n_args;
    enum reply_kind kind;
    double number;
    char *text; /* of mem.h */
    size_t bytes;
};

/* ---- what scripts see as llm.host_core (lua/llm/host.lua) ---------------------------------------------- */

static struct llm_lua *self_of(lua_State *L)
{
    return lua_touserdata(L, lua_upvalueindex(1));
}

/* host_core.fd() -> descriptor that is readable once the host wants the server to end. [-0, +1, -] */
static int host_fd(lua_State *L)
{
    lua_pushinteger(L, self_of(L)->stop_fd);
    return 1;
}

/* host_core.clear(): the descriptor is not readable any more. [-0, +0, -] */
static int host_clear(lua_State *L)
{
    uint64_t count;
    ssize_t n = read(self_of(L)->stop_fd, &count, sizeof count);
    (void)n; /* nothing there: it is clear */
    return 0;
}

/* host_core.engine(name) -> handle | nil, message, code. [-0, +1|3, e] */
static int host_get_engine(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    struct llm_error err = {LLM_OK, ""};
    for (struct host_engine *e = self_of(L)->engines; e; e = e->next) {
        if (strcmp(e->name, name) == 0) return api_push_shared_engine(L, e->engine);
    }
    llm_fail(&err, LLM_ENOENT, "the program has no engine '%s'", name);
    return api_fail(L, &err);
}

static int open_host_core(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"fd", host_fd}, {"clear", host_clear}, {"engine", host_get_engine}, {NULL, NULL}};
    lua_newtable(L);
    for (const luaL_Reg *f = functions; f->name; f++) {
        lua_pushvalue(L, lua_upvalueindex(1));
        lua_pushcclosure(L, f->func, 1);
        lua_setfield(L, -2, f->name);
    }
    return 1;
}

/* os.exit(code) in a program that is not the script's: ends the run. [-0, +0, e] */
static int exit_run(lua_State *L)
{
    int code = lua_isboolean(L, 1) ? !lua_toboolean(L, 1) : (int)luaL_optinteger(L, 1, 0);
    lua_createtable(L, 0, 2);
    lua_pushinteger(L, code);
    lua_setfield(L, -2, "exit_code");
    lua_pushfstring(L, "the script has called os.exit(%d)", code);
    lua_setfield(L, -2, "message");
    return lua_error(L);
}

/* (lua) */
static int prepare(lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushvalue(L, 1);
    lua_pushcclosure(L, open_host_core, 1);
    lua_setfield(L, -2, "llm.host_core");
    lua_getglobal(L, "os");
    lua_pushcfunction(L, exit_run);
    lua_setfield(L, -2, "exit");
    return 0;
}

/* ---- life ---------------------------------------------------------------------------------------------- */

llm_status llm_lua_open(struct llm_lua **out, struct llm_error *err)
{
    struct llm_lua *lua = mem_zalloc(sizeof *lua);
    if (!lua) return llm_fail(err, LLM_ENOMEM, "no memory for a Lua state");
    lua->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (lua->stop_fd < 0) {
        mem_free(lua);
        return llm_fail(err, LLM_EIO, "no file descriptor is left for a Lua state");
    }
    lua->L = state_open();
    if (lua->L && lua_cpcall(lua->L, prepare, lua) == 0) {
        *out = lua;
        return LLM_OK;
    }
    llm_lua_close(lua);
    return llm_fail(err, LLM_ENOMEM, "no memory for a Lua state");
}

void llm_lua_close(struct llm_lua *lua)
{
    if (!lua) return;
    if (lua->L) lua_close(lua->L);
    while (lua->engines) {
        struct host_engine *e = lua->engines;
        lua->engines = e->next;
        mem_free(e);
    }
    close(lua->stop_fd);
    mem_free(lua->failure);
    mem_free(lua->result);
    mem_free(lua);
}

void llm_lua_stop(struct llm_lua *lua)
{
    uint64_t one = 1;
    ssize_t n = write(lua->stop_fd, &one, sizeof one);
    (void)n; /* full: it has been told often enough */
}

llm_status llm_lua_add_engine(struct llm_lua *lua, const char *name, struct llm_engine *engine,
                              struct llm_error *err)
{
    for (struct host_engine *e = lua->engines; e; e = e->next) {
        if (strcmp(e->name, name) == 0)
            return llm_fail(err, LLM_EINVAL, "there is an engine '%s' already", name);
    }
    struct host_engine *e = mem_alloc(sizeof *e + strlen(name) + 1);
    if (!e) return llm_fail(err, LLM_ENOMEM, "no memory for the engine's name");
    *e = (struct host_engine){lua->engines, engine};
    memcpy(e->name, name, strlen(name) + 1);
    lua->engines = e;
    return LLM_OK;
}

/* ---- running ------------------------------------------------------------------------------------------- */

const char *llm_lua_traceback(const struct llm_lua *lua)
{
    return lua->failure ? lua->failure : "";
}

/* (x) -> x, then the two results of llm.json's function of this name. */
static void call_json(lua_State *L, const char *name)
{
    lua_settop(L, 1);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "llm.json");
    lua_call(L, 1, 1);
    lua_getfield(L, -1, name);
    lua_pushvalue(L, 1);
    lua_call(L, 1, 2);
}

/* (value) -> its JSON; raises what is wrong with it. [-1, +1, e] */
static int encode(lua_State *L)
{
    call_json(L, "encode");
    if (lua_isnil(L, -2)) return luaL_error(L, "%s", lua_tostring(L, -1));
    lua_pop(L, 1);
    return 1;
}

/* (text) -> its value; raises if it is malformed. [-1, +1, e] */
static int decode(lua_State *L)
{
    call_json(L, "decode");
    if (!lua_isnil(L, -1))
        return luaL_error(L, "the C function's result is malformed: %s", lua_tostring(L, -1));
    lua_pop(L, 1);
    return 1;
}

/* One run. */
struct job {
    const char *text; /* null: the file `name` */
    size_t bytes;
    const char *name;
    const char *const *args;
    size_t n_args;
    int wants_result, code; /* code: the Lua status of what went wrong */
    char *result, *failure; /* of mem.h */
};

/* arg, as the llmlua program sets it. */
static void set_arg(lua_State *L, const struct job *job)
{
    lua_createtable(L, (int)job->n_args, 1);
    lua_pushstring(L, job->name);
    lua_rawseti(L, -2, 0);
    for (size_t i = 0; i < job->n_args; i++) {
        lua_pushstring(L, job->args[i]);
        lua_rawseti(L, -2, (int)i + 1);
    }
    lua_setglobal(L, "arg");
}

static int load_chunk(lua_State *L, const struct job *job)
{
    if (job->text) {
        lua_pushfstring(L, "=%s", job->name);
        int code = luaL_loadbuffer(L, job->text, job->bytes, lua_tostring(L, -1));
        lua_remove(L, -2);
        return code;
    }
    set_arg(L, job);
    return state_load_script(L, job->name);
}

/* (job): loads, calls, and makes JSON of the result; what fails is left in the job. Raises if there is no
 * memory to do that. */
static int do_job(lua_State *L)
{
    struct job *job = lua_touserdata(L, 1);
    job->code = load_chunk(L, job);
    if (job->code == 0) {
        luaL_checkstack(L, (int)job->n_args, "too many arguments");
        for (size_t i = 0; i < job->n_args; i++) lua_pushstring(L, job->args[i]);
        job->code = state_call(L, (int)job->n_args, job->wants_result);
    }
    if (job->code == 0 && job->wants_result) {
        lua_pushcfunction(L, encode);
        lua_insert(L, -2);
        job->code = state_call(L, 1, 1);
        if (job->code == 0) job->result = mem_strdup(lua_tostring(L, -1));
    }
    if (job->code == 0) return 0;
    if (lua_istable(L, -1)) { /* an exit object: state.h */
        lua_getfield(L, -1, "exit_code");
        if (lua_isnumber(L, -1) && lua_tonumber(L, -1) == 0) {
            job->code = 0;
            job->result = mem_strdup("null");
            return 0;
        }
        lua_getfield(L, -2, "message");
    }
    const char *text = lua_tostring(L, -1);
    job->failure = mem_strdup(text ? text : "the script has ended itself");
    return 0;
}

static llm_status status_of(int code)
{
    switch (code) {
    case LUA_ERRMEM:
        return LLM_ENOMEM;
    case LUA_ERRSYNTAX:
        return LLM_EINVAL;
    case LUA_ERRFILE:
        return LLM_ENOENT;
    default:
        return LLM_EFAILED;
    }
}

/* The message without its traceback, as one line. */
static llm_status fail_run(llm_status status, const char *text, struct llm_error *err)
{
    const char *end = strstr(text, "\nstack traceback:");
    size_t n = end ? (size_t)(end - text) : strlen(text);
    llm_fail(err, status, "%.*s", (int)(n < 480 ? n : 480), text);
    for (char *c = err ? err->message : NULL; c && *c; c++)
        if (*c == '\n') *c = ' ';
    return status;
}

static llm_status run_job(struct llm_lua *lua, struct job *job, const char **result, struct llm_error *err)
{
    mem_free(lua->failure);
    mem_free(lua->result);
    lua->failure = lua->result = NULL;
    job->wants_result = result != NULL;
    int code = lua_cpcall(lua->L, do_job, job);
    lua_settop(lua->L, 0);
    lua->failure = job->failure;
    lua->result = job->result;
    if (code == 0) code = job->code;
    if (code != 0)
        return fail_run(status_of(code), job->failure ? job->failure : "no memory for the script", err);
    if (result && !lua->result) return llm_fail(err, LLM_ENOMEM, "no memory for the script's result");
    if (result) *result = lua->result;
    return LLM_OK;
}

llm_status llm_lua_run(struct llm_lua *lua, const char *text, size_t bytes, const char *name,
                       const char **result, struct llm_error *err)
{
    struct job job = {.text = text, .bytes = bytes, .name = name ? name : "script"};
    return run_job(lua, &job, result, err);
}

llm_status llm_lua_run_file(struct llm_lua *lua, const char *path, const char *const *args, size_t n_args,
                            const char **result, struct llm_error *err)
{
    struct job job = {.name = path, .args = args, .n_args = n_args};
    return run_job(lua, &job, result, err);
}

/* ---- C functions --------------------------------------------------------------------------------------- */

struct registration {
    llm_lua_function *function;
    void *user;
};

static int push_reply(lua_State *L, const struct llm_lua_call *call)
{
    switch (call->kind) {
    case REPLY_NIL:
        lua_pushnil(L);
        break;
    case REPLY_NUMBER:
        lua_pushnumber(L, call->number);
        break;
    case REPLY_BOOLEAN:
        lua_pushboolean(L, call->number != 0);
        break;
    case REPLY_STRING:
        lua_pushlstring(L, call->text, call->bytes);
        break;
    case REPLY_JSON:
        lua_pushcfunction(L, decode);
        lua_pushlstring(L, call->text, call->bytes);
        lua_call(L, 1, 1);
        break;
    }
    return 1;
}

struct reply {
    const struct llm_lua_call *call;
    const struct llm_error *err; /* null: it has succeeded */
};

/* (reply) -> value | nil, message, code */
static int give_reply(lua_State *L)
{
    const struct reply *reply = lua_touserdata(L, 1);
    return reply->err ? api_fail(L, reply->err) : push_reply(L, reply->call);
}

/* What scripts call; upvalues: the registration, encode. The function runs outside of protected calls and may
 * hold things of C, so nothing that raises is called while it runs; its text is freed before an error goes
 * on. */
static int call_function(lua_State *L)
{
    const struct registration *r = lua_touserdata(L, lua_upvalueindex(1));
    struct llm_error err = {LLM_OK, ""};
    struct llm_lua_call call = {.L = L, .n_args = lua_gettop(L)};
    luaL_checkstack(L, 2 * call.n_args + 8, "too many arguments");
    llm_status status = r->function(&call, r->user, &err);
    if (status != LLM_OK && err.status == LLM_OK) llm_fail(&err, status, "%s", llm_status_text(status));
    struct reply reply = {&call, status == LLM_OK ? NULL : &err};
    lua_settop(L, 0);
    lua_pushcfunction(L, give_reply);
    lua_pushlightuserdata(L, &reply);
    int code = lua_pcall(L, 1, LUA_MULTRET, 0);
    mem_free(call.text);
    return code == 0 ? lua_gettop(L) : lua_error(L);
}

struct named {
    const char *module, *name;
    struct registration registration;
};

/* (named): package.loaded[module][name] = function. */
static int add_function(lua_State *L)
{
    const struct named *named = lua_touserdata(L, 1);
    luaL_findtable(L, LUA_REGISTRYINDEX, "_LOADED", 16);
    lua_getfield(L, -1, named->module);
    if (!lua_istable(L, -1)) {
        lua_pop(L, 1);
        lua_newtable(L);
        lua_pushvalue(L, -1);
        lua_setfield(L, -3, named->module);
    }
    struct registration *r = lua_newuserdata(L, sizeof *r);
    *r = named->registration;
    lua_pushcfunction(L, encode);
    lua_pushcclosure(L, call_function, 2);
    lua_setfield(L, -2, named->name);
    return 0;
}

llm_status llm_lua_register(struct llm_lua *lua, const char *module, const char *name,
                            llm_lua_function *function, void *user, struct llm_error *err)
{
    if (!strcmp(module, "llm") || !strncmp(module, "llm.", 4))
        return llm_fail(err, LLM_EINVAL, "the module '%s' is the library's; choose another name", module);
    struct named named = {module, name, {function, user}};
    int code = lua_cpcall(lua->L, add_function, &named);
    if (code == 0) return LLM_OK;
    lua_pop(lua->L, 1);
    return llm_fail(err, LLM_ENOMEM, "no memory for the function %s.%s", module, name);
}

size_t llm_lua_n_args(const struct llm_lua_call *call)
{
    return (size_t)call->n_args;
}

static llm_status check_arg(struct llm_lua_call *call, size_t i, int type, const char *what,
                            struct llm_error *err)
{
    int is = i >= 1 && i <= (size_t)call->n_args ? lua_type(call->L, (int)i) : LUA_TNONE;
    if (is == type) return LLM_OK;
    return llm_fail(err, LLM_EINVAL, "argument %zu must be a %s; it is %s%s", i, what,
                    is <= LUA_TNIL ? "" : "a ", is == LUA_TNONE ? "missing" : lua_typename(call->L, is));
}

llm_status llm_lua_arg_string(struct llm_lua_call *call, size_t i, const char **text, size_t *bytes,
                              struct llm_error *err)
{
    llm_status status = check_arg(call, i, LUA_TSTRING, "string", err);
    if (status == LLM_OK) *text = lua_tolstring(call->L, (int)i, bytes);
    return status;
}

llm_status llm_lua_arg_number(struct llm_lua_call *call, size_t i, double *number, struct llm_error *err)
{
    llm_status status = check_arg(call, i, LUA_TNUMBER, "number", err);
    if (status == LLM_OK) *number = lua_tonumber(call->L, (int)i);
    return status;
}

llm_status llm_lua_arg_boolean(struct llm_lua_call *call, size_t i, int *boolean, struct llm_error *err)
{
    llm_status status = check_arg(call, i, LUA_TBOOLEAN, "boolean", err);
    if (status == LLM_OK) *boolean = lua_toboolean(call->L, (int)i);
    return status;
}

llm_status llm_lua_arg_json(struct llm_lua_call *call, size_t i, const char **text, size_t *bytes,
                            struct llm_error *err)
{
    lua_State *L = call->L;
    if (i < 1 || i > (size_t)call->n_args) return check_arg(call, i, LUA_TTABLE, "value", err);
    if (!lua_checkstack(L, 8)) return llm_fail(err, LLM_ENOMEM, "no memory for argument %zu", i);
    lua_pushvalue(L, lua_upvalueindex(2)); /* a new closure of it could raise */
    lua_pushvalue(L, (int)i);
    int code = lua_pcall(L, 1, 1, 0); /* its text stays on the stack until the function returns */
    if (code == 0) {
        *text = lua_tolstring(L, -1, bytes);
        return LLM_OK;
    }
    const char *why = lua_tostring(L, -1);
    llm_fail(err, code == LUA_ERRMEM ? LLM_ENOMEM : LLM_EINVAL, "argument %zu cannot be JSON: %s", i,
             why ? why : "an error without a message");
    lua_pop(L, 1);
    return code == LUA_ERRMEM ? LLM_ENOMEM : LLM_EINVAL;
}

static llm_status keep_text(struct llm_lua_call *call, enum reply_kind kind, const char *text, size_t bytes,
                            struct llm_error *err)
{
    char *copy = mem_alloc(bytes + 1);
    if (!copy) return llm_fail(err, LLM_ENOMEM, "no memory for a result of %zu bytes", bytes);
    memcpy(copy, text, bytes);
    mem_free(call->text);
    call->kind = kind;
    call->text = copy;
    call->bytes = bytes;
    return LLM_OK;
}

llm_status llm_lua_return_string(struct llm_lua_call *call, const char *text, size_t bytes,
                                 struct llm_error *err)
{
    return keep_text(call, REPLY_STRING, text, bytes, err);
}

llm_status llm_lua_return_json(struct llm_lua_call *call, const char *text, size_t bytes,
                               struct llm_error *err)
{
    return keep_text(call, REPLY_JSON, text, bytes, err);
}

void llm_lua_return_number(struct llm_lua_call *call, double number)
{
    call->kind = REPLY_NUMBER;
    call->number = number;
}

void llm_lua_return_boolean(struct llm_lua_call *call, int boolean)
{
    call->kind = REPLY_BOOLEAN;
    call->number = boolean != 0;
}
