/* llm.net: files that change, through inotify. */

#define _GNU_SOURCE
#include "api_net.h"

#include "api.h"

#include <errno.h>
#include <lauxlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#define API_FILES "llm.net.files"

/* Userdata, kept alive while open. Its environment: 1 the function, 2 {descriptor = directory}. */
struct api_files {
    struct api_loop *loop; /* null: closed */
    struct net_watch *watch;
    int fd;
};

enum { ON_CHANGE = 1, DIRECTORIES };

/* A file has been written and closed, or renamed to its name, as most editors save; or is gone. */
static const uint32_t events = IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE | IN_MOVED_FROM;

static void files_shut(struct api_files *f, lua_State *L)
{
    if (!f->loop) return;
    net_watch_close(f->watch);
    if (f->fd >= 0) close(f->fd);
    api_forget(f->loop, L, f);
    f->loop = NULL;
    f->watch = NULL;
    f->fd = -1;
}

static int files_close(lua_State *L)
{
    files_shut(luaL_checkudata(L, 1, API_FILES), L);
    return 0;
}

struct change {
    struct api_files *files;
    const struct inotify_event *event;
};

/* Calls fn(directory, name). */
static int call_on_change(lua_State *L)
{
    const struct change *change = lua_touserdata(L, 1);
    const struct inotify_event *event = change->event;
    api_push_kept(change->files->loop, L, change->files);
    lua_getfenv(L, -1);
    lua_rawgeti(L, -1, ON_CHANGE);
    lua_rawgeti(L, -2, DIRECTORIES);
    lua_rawgeti(L, -1, event->wd);
    lua_replace(L, -2);
    if (event->mask & IN_Q_OVERFLOW) {
        lua_call(L, 1, 0);
        return 0;
    }
    if (lua_isnil(L, -1) || !event->len) return 0;
    lua_pushstring(L, event->name);
    lua_call(L, 2, 0);
    return 0;
}

static void on_readable(void *ud)
{
    struct change change = {.files = ud};
    char buffer[4096] __attribute__((aligned(__alignof__(struct inotify_event))));
    ssize_t n = read(change.files->fd, buffer, sizeof buffer);
    for (ssize_t at = 0; at < n && change.files->loop;) {
        change.event = (const void *)(buffer + at);
        at += (ssize_t)(sizeof *change.event + change.event->len);
        api_call(change.files->loop, call_on_change, &change);
    }
}

/* net.files(loop, fn) -> files | nil, message, code. fn(directory, name): a file of this name in one of the
 * directories was written, replaced or removed; fn(nil): some were, and which is not known. [-0, +1|3, e] */
static int files_open(lua_State *L)
{
    struct api_loop *loop = api_check_loop(L, 1);
    struct llm_error err = {LLM_OK, ""};
    luaL_checktype(L, 2, LUA_TFUNCTION);
    struct api_files *f = lua_newuserdata(L, sizeof *f);
    *f = (struct api_files){loop, NULL, inotify_init1(IN_NONBLOCK | IN_CLOEXEC)};
    luaL_getmetatable(L, API_FILES);
    lua_setmetatable(L, -2);
    lua_createtable(L, 2, 0);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, ON_CHANGE);
    lua_newtable(L);
    lua_rawseti(L, -2, DIRECTORIES);
    lua_setfenv(L, -2);
    api_keep(loop, L, f, -1);
    llm_status rc = f->fd < 0 ? llm_fail(&err, LLM_EIO, "cannot watch files: %s", strerror(errno))
                              : net_watch_open(loop->loop, f->fd, on_readable, f, &f->watch, &err);
    if (rc == LLM_OK) return 1;
    files_shut(f, L);
    return api_fail(L, &err);
}

/* files:add(directory) -> true | nil, message, code. Harmless twice. [-0, +1|3, e] */
static int files_add(lua_State *L)
{
    struct api_files *f = luaL_checkudata(L, 1, API_FILES);
    const char *directory = luaL_checkstring(L, 2);
    if (!f->loop) return luaL_error(L, "the watch is closed");
    int wd = inotify_add_watch(f->fd, directory, events);
    if (wd < 0) {
        struct llm_error err;
        llm_fail(&err, LLM_EIO, "cannot watch the directory %s: %s", directory, strerror(errno));
        return api_fail(L, &err);
    }
    lua_getfenv(L, 1);
    lua_rawgeti(L, -1, DIRECTORIES);
    lua_pushvalue(L, 2);
    lua_rawseti(L, -2, wd);
    lua_pushboolean(L, 1);
    return 1;
}

void api_open_files(lua_State *L)
{
    static const luaL_Reg methods[] = {{"add", files_add}, {"close", files_close}, {NULL, NULL}};
    api_new_type(L, API_FILES, methods, files_close);
    lua_pushcfunction(L, files_open);
    lua_setfield(L, -2, "files");
}
