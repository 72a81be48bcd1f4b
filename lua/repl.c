#define _GNU_SOURCE
#include "repl.h"

#include "api.h"
#include "interrupt.h"
#include "state.h"

#include <editline/readline.h>
#include <errno.h>
#include <lauxlib.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HISTORY_LINES = 2000 };

/* libedit is one per process and gives its callbacks no user data. */
static lua_State *completer_state; /* the thread that reads a line */
static int completer_ref = LUA_NOREF;

/* Calls completer(word) and leaves its list of candidates on the stack. [-0, +1, m] */
static int push_candidates(lua_State *L, const char *word)
{
    lua_rawgeti(L, LUA_REGISTRYINDEX, completer_ref);
    lua_pushstring(L, word);
    if (lua_pcall(L, 1, 1, 0) != 0 || !lua_istable(L, -1)) {
        lua_pop(L, 1);
        return 0;
    }
    return 1;
}

/* libedit asks with state 0, 1, 2 … until it gets null. The list is made anew each time: completion happens
 * at the speed of a finger. */
static char *next_candidate(const char *word, int state)
{
    lua_State *L = completer_state;
    if (!push_candidates(L, word)) return NULL;
    lua_rawgeti(L, -1, state + 1);
    const char *text = lua_tostring(L, -1);
    char *copy = text ? strdup(text) : NULL; /* libedit frees it with free */
    lua_pop(L, 2);
    return copy;
}

static char **complete(const char *word, int start, int end)
{
    (void)start;
    (void)end;
    rl_attempted_completion_over = 1; /* no file names */
    rl_completion_append_character = 0;
    return rl_completion_matches(word, next_candidate);
}

/* line.read(prompt) -> line without its newline | false: Ctrl-C | nil: end of input. [-0, +1, e] */
static int line_read(lua_State *L)
{
    const char *prompt = luaL_checkstring(L, 1);
    completer_state = L;
    errno = 0;
    char *line = readline(prompt);
    if (interrupt_take() || (!line && errno == EINTR)) {
        free(line);
        lua_pushboolean(L, 0);
        return 1;
    }
    if (!line) return 0;
    lua_pushstring(L, line);
    free(line);
    return 1;
}

/* line.remember(text): adds it to the history. [-0, +0, e] */
static int line_remember(lua_State *L)
{
    add_history(luaL_checkstring(L, 1));
    return 0;
}

/* line.load(path), line.save(path): the history file; a failure is no concern of the user's. [-0, +0, e] */
static int line_load(lua_State *L)
{
    read_history(luaL_checkstring(L, 1));
    return 0;
}

static int line_save(lua_State *L)
{
    const char *path = luaL_checkstring(L, 1);
    if (write_history(path) == 0) history_truncate_file(path, HISTORY_LINES);
    return 0;
}

/* line.set_completer(function(word) -> list of whole words). [-0, +0, e] */
static int line_set_completer(lua_State *L)
{
    static char word_breaks[] = " \t\n\"\\'`@$><=;|&{}()[]#,+-*/%^~";
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    luaL_unref(L, LUA_REGISTRYINDEX, completer_ref);
    completer_ref = luaL_ref(L, LUA_REGISTRYINDEX);
    rl_completer_word_break_characters = word_breaks;
    rl_attempted_completion_function = complete;
    return 0;
}

/* line.clear_interrupt(): a Ctrl-C that came between commands is forgotten. [-0, +0, -] */
static int line_clear_interrupt(lua_State *L)
{
    (void)L;
    interrupt_take();
    return 0;
}

/* require "llm.line". [-0, +1, m] */
int luaopen_llm_line(lua_State *L)
{
    static const luaL_Reg functions[] = {
        {"read", line_read}, {"remember", line_remember},           {"load", line_load},
        {"save", line_save}, {"set_completer", line_set_completer}, {"clear_interrupt", line_clear_interrupt},
        {NULL, NULL}};
    rl_readline_name = "llmlua";
    using_history();
    lua_newtable(L);
    luaL_register(L, NULL, functions);
    return 1;
}

int repl_run(lua_State *L)
{
    lua_getglobal(L, "require");
    lua_pushliteral(L, "llm.repl");
    if (state_call(L, 1, 1) != 0) return state_report(L);
    lua_getfield(L, -1, "run");
    lua_pushboolean(L, isatty(STDIN_FILENO) && isatty(STDOUT_FILENO));
    if (state_call(L, 1, 0) != 0) return state_report(L);
    lua_pop(L, 1);
    return 0;
}
