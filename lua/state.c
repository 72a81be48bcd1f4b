#include "state.h"

#include "api.h"
#include "api_net.h"
#include "base/mem.h"
#include "embed.h"

#include <lauxlib.h>
#include <luajit.h>
#include <lualib.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

const struct embedded_file *state_embedded_file(const char *path)
{
    for (const struct embedded_file *f = embedded_files; f->path; f++) {
        if (strcmp(f->path, path) == 0) return f;
    }
    return NULL;
}

/* The embedded script of this name ("generate" or "generate.lua"), null if there is none. */
static const struct embedded_file *bundled_script(const char *name)
{
    char path[256];
    size_t length = strlen(name);
    const char *suffix = length > 4 && strcmp(name + length - 4, ".lua") == 0 ? "" : ".lua";
    int n = snprintf(path, sizeof path, "scripts/%s%s", name, suffix);
    return n > 0 && (size_t)n < sizeof path ? state_embedded_file(path) : NULL;
}

int state_load_script(lua_State *L, const char *name)
{
    if (strcmp(name, "-") == 0) return luaL_loadfile(L, NULL);
    if (access(name, F_OK) == 0) return luaL_loadfile(L, name);
    const struct embedded_file *f = bundled_script(name);
    if (f) {
        lua_pushfstring(L, "@%s", f->path);
        int status = luaL_loadbuffer(L, f->data, f->size, lua_tostring(L, -1));
        lua_remove(L, -2);
        return status;
    }
    lua_pushfstring(L, "no script '%s': no such file, and none of that name is bundled (llmlua --help)",
                    name);
    return LUA_ERRFILE;
}

/* package.loaders entry: "llm" is lua/llm/init.lua, "llm.x.y" is lua/llm/x/y.lua. It comes before the search
 * of package.path: a file that happens to be called llm.lua does not replace the library. [-0, +1, e] */
static int load_embedded(lua_State *L)
{
    const char *name = luaL_checkstring(L, 1);
    if (strcmp(name, "llm") != 0 && strncmp(name, "llm.", 4) != 0) {
        lua_pushliteral(L, "");
        return 1;
    }
    const char *file = luaL_gsub(L, name, ".", "/");
    lua_pushfstring(L, "lua/%s%s.lua", file, strcmp(name, "llm") == 0 ? "/init" : "");
    const struct embedded_file *f = state_embedded_file(lua_tostring(L, -1));
    if (!f) {
        lua_pushfstring(L, "\n\tno module '%s' in this llmlua", name);
        return 1;
    }
    lua_pushfstring(L, "@%s", f->path);
    if (luaL_loadbuffer(L, f->data, f->size, lua_tostring(L, -1)) != 0) return lua_error(L);
    return 1;
}

/* embedded(path) -> the text of a file compiled in, nil if there is none; embedded() -> the list of all
 * paths.
 * [-0, +1, e] */
static int embedded_text(lua_State *L)
{
    if (lua_gettop(L) == 0) {
        lua_newtable(L);
        for (int i = 0; embedded_files[i].path; i++) {
            lua_pushstring(L, embedded_files[i].path);
            lua_rawseti(L, -2, i + 1);
        }
        return 1;
    }
    const struct embedded_file *f = state_embedded_file(luaL_checkstring(L, 1));
    if (!f) return 0;
    lua_pushlstring(L, f->data, f->size);
    return 1;
}

static int open_embedded(lua_State *L)
{
    lua_pushcfunction(L, embedded_text);
    return 1;
}

/* os.exit(code, close) closes the state first, unless close is false: an engine's thread is joined rather
 * than running on while the process takes itself apart. [-0, +0, e] */
static int os_exit(lua_State *L)
{
    int no_close = lua_isboolean(L, 2) && !lua_toboolean(L, 2);
    lua_settop(L, 1);
    lua_pushvalue(L, lua_upvalueindex(1));
    lua_insert(L, 1);
    lua_pushboolean(L, !no_close);
    lua_call(L, 2, 0);
    return 0;
}

void state_preload(lua_State *L, const char *name, lua_CFunction open)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, open);
    lua_setfield(L, -2, name);
    lua_pop(L, 2);
}

static void install_loader(lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaders");
    for (int i = (int)lua_objlen(L, -1); i >= 2; i--) { /* 1 is the preload table's */
        lua_rawgeti(L, -1, i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushcfunction(L, load_embedded);
    lua_rawseti(L, -2, 2);
    lua_pop(L, 2);
}

/* llm.globals: the globals as they are before any script runs, a table of its own: what a script that is
 * loaded anew begins with, whatever the program has set meanwhile. [-0, +1, e] */
static int open_globals(lua_State *L)
{
    lua_pushvalue(L, lua_upvalueindex(1));
    return 1;
}

static void keep_globals(lua_State *L)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_newtable(L);
    lua_pushnil(L);
    while (lua_next(L, LUA_GLOBALSINDEX)) {
        lua_pushvalue(L, -2);
        lua_insert(L, -2);
        lua_settable(L, -4);
    }
    lua_pushcclosure(L, open_globals, 1);
    lua_setfield(L, -2, "llm.globals");
    lua_pop(L, 2);
}

/* Modules that lie beside the program, as in a bundle, are found after all others: bin/llmlua,
 * share/lua/5.1/NAME.lua. [-0, +0, m] */
static void add_own_path(lua_State *L)
{
    char exe[1024];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) return;
    exe[n] = 0;
    char *slash = strrchr(exe, '/');
    if (!slash) return;
    *slash = 0;
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_pushfstring(L, "%s;%s/../share/lua/5.1/?.lua", lua_tostring(L, -1), exe);
    lua_setfield(L, -3, "path");
    lua_pop(L, 2);
}

static void wrap_os_exit(lua_State *L)
{
    lua_getglobal(L, "os");
    lua_getfield(L, -1, "exit");
    lua_pushcclosure(L, os_exit, 1);
    lua_setfield(L, -2, "exit");
    lua_pop(L, 1);
}

void state_install(lua_State *L)
{
    state_preload(L, "llm.core", luaopen_llm_core);
    state_preload(L, "llm.net", luaopen_llm_net);
    state_preload(L, "llm.fs", luaopen_llm_fs);
    state_preload(L, "llm.crew", luaopen_llm_crew);
    state_preload(L, "llm.embedded", open_embedded);
    install_loader(L);
    add_own_path(L);
    wrap_os_exit(L);
    keep_globals(L);
}

static int open_all(lua_State *L)
{
    luaL_openlibs(L);
    state_install(L);
    return 0;
}

static void *allocate_within(void *ud, void *old, size_t old_size, size_t size)
{
    struct state_memory *memory = ud;
    if (!old) old_size = 0;
    if (size == 0) {
        mem_free(old);
        memory->used -= old_size;
        return NULL;
    }
    if (size > old_size && size - old_size > memory->most - memory->used) return NULL;
    void *new = mem_grow(old, size, 1);
    if (!new) return size <= old_size ? old : NULL; /* shrinking may not fail */
    memory->used = memory->used - old_size + size;
    return new;
}

static lua_State *open_libraries(lua_State *L)
{
    if (L && lua_cpcall(L, open_all, NULL) != 0) {
        lua_close(L);
        return NULL;
    }
    return L;
}

lua_State *state_open(void)
{
    return open_libraries(luaL_newstate());
}

lua_State *state_open_within(struct state_memory *memory)
{
    return open_libraries(lua_newstate(allocate_within, memory));
}

static int is_exit_object(lua_State *L, int index)
{
    if (!lua_istable(L, index)) return 0;
    lua_getfield(L, index, "exit_code");
    int is = lua_isnumber(L, -1);
    lua_pop(L, 1);
    return is;
}

int state_traceback(lua_State *L)
{
    if (is_exit_object(L, 1)) return 1;
    if (!lua_isstring(L, 1)) {
        if (luaL_callmeta(L, 1, "__tostring") && lua_isstring(L, -1)) {
            lua_replace(L, 1);
        } else {
            lua_settop(L, 1);
            lua_pushfstring(L, "(error object is a %s value)", luaL_typename(L, 1));
            lua_replace(L, 1);
        }
    }
    lua_settop(L, 1);
    luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
}

int state_call(lua_State *L, int n_args, int n_results)
{
    int base = lua_gettop(L) - n_args;
    lua_pushcfunction(L, state_traceback);
    lua_insert(L, base);
    int status = lua_pcall(L, n_args, n_results, base);
    lua_remove(L, base);
    return status;
}

int state_report(lua_State *L)
{
    int code = 1, index = lua_gettop(L);
    const char *message = NULL;
    if (is_exit_object(L, index)) {
        lua_getfield(L, index, "exit_code");
        code = (int)lua_tointeger(L, -1);
        lua_getfield(L, index, "message");
        message = lua_tostring(L, -1);
    } else {
        message = lua_tostring(L, index);
        if (!message) message = "(error with no message)";
    }
    fflush(stdout);
    if (message) fprintf(stderr, "llmlua: %s\n", message);
    lua_settop(L, index - 1);
    return code;
}
