#ifndef LLMLUA_LUA_H
#define LLMLUA_LUA_H

/* Lua in a C program, with the library at hand as require "llm": what the llmlua program runs, as a part of
 * another one. Link with libllmlua; no Lua headers are needed, and a Lua that the program has itself is not
 * touched.
 *
 * Who should use it: a program that wants a server, a sampling policy or an agent written in Lua, and gives
 * scripts functions of its own. Who only wants tokens needs llmlua.h alone.
 *
 * Threads: a struct llm_lua belongs to one thread at a time; several may exist. llm_lua_stop may be called
 * from anywhere. Scripts are trusted: they have io, os and ffi. Errors: values (base/status.h). Scripts
 * cannot end the process: os.exit and llm.exit end the run, as an error. What they print goes to standard
 * output. Modules written in C that are linked to a Lua of their own (lpeg, say) cannot be loaded: this
 * library's Lua shows no symbols. */

#include "llmlua.h"

#ifdef __cplusplus
extern "C" {
#endif

struct llm_lua;      /* a Lua state */
struct llm_lua_call; /* a call of a C function by a script */

/* Errors: LLM_ENOMEM, LLM_EIO (no descriptor left). */
llm_status llm_lua_open(struct llm_lua **out, struct llm_error *err);
/* Closes what scripts have opened: engines, servers. Null is accepted. */
void llm_lua_close(struct llm_lua *lua);

/* Runs Lua text until it returns; a server's run() returns after llm_lua_stop. name: what messages call it.
 * Values of scripts stay between runs, in globals and modules. result may be null; else *result is the first
 * value returned, as JSON ("null" if there is none), NUL-terminated and valid until the next call with this
 * state.
 *
 * Errors: LLM_EINVAL (does not compile: the place), LLM_EFAILED (it raised: the place and the message; it
 * asked to exit with another code than 0; its value cannot be JSON), LLM_ENOMEM. */
llm_status llm_lua_run(struct llm_lua *lua, const char *text, size_t bytes, const char *name,
                       const char **result, struct llm_error *err);
/* The same for a file, or the name of a bundled script ("serve"). args: what the script finds in arg[1] … and
 * in its `...`; borrowed for the call. Errors: those above, LLM_ENOENT. */
llm_status llm_lua_run_file(struct llm_lua *lua, const char *path, const char *const *args, size_t n_args,
                            const char **result, struct llm_error *err);

/* The whole message and the traceback of the last run that failed; "" if none has. Valid until the next
 * call. */
const char *llm_lua_traceback(const struct llm_lua *lua);

/* Ends the server that runs, or the next one, as SIGTERM ends the llmlua program: requests under way are
 * answered. A second time: at once. Other scripts it does not stop. Any thread; also a signal's handler.
 * The servers of a state do not take signals themselves unless they are made with { signals = true }. */
void llm_lua_stop(struct llm_lua *lua);

/* Scripts get this engine by require("llm.host").engine(name). It stays the caller's, to be closed after the
 * state. Errors: LLM_EINVAL (the name is taken), LLM_ENOMEM. */
llm_status llm_lua_add_engine(struct llm_lua *lua, const char *name, struct llm_engine *engine,
                              struct llm_error *err);

/* ---- C functions --------------------------------------------------------------------------------------- */

/* Called on the state's thread. It reads arguments, sets at most one result (nil otherwise), and answers
 * LLM_OK; or fails (llm_fail), which the script gets as nil, message, code. It must not take long where a
 * server runs, nothing else does meanwhile; and must not use its llm_lua but through `call`. */
typedef llm_status llm_lua_function(struct llm_lua_call *call, void *user, struct llm_error *err);

/* Scripts get it as require("module").name. `user` comes back in calls. Errors: LLM_EINVAL (module is llm or
 * llm.…), LLM_ENOMEM. */
llm_status llm_lua_register(struct llm_lua *lua, const char *module, const char *name,
                            llm_lua_function *function, void *user, struct llm_error *err);

/* Arguments, from 1. Texts live until the function returns. Errors: LLM_EINVAL (which argument, what it must
 * be and what it is), LLM_ENOMEM. */
size_t llm_lua_n_args(const struct llm_lua_call *call);
llm_status llm_lua_arg_string(struct llm_lua_call *call, size_t i, const char **text, size_t *bytes,
                              struct llm_error *err);
llm_status llm_lua_arg_number(struct llm_lua_call *call, size_t i, double *number, struct llm_error *err);
llm_status llm_lua_arg_boolean(struct llm_lua_call *call, size_t i, int *boolean, struct llm_error *err);
/* Any value, as JSON. */
llm_status llm_lua_arg_json(struct llm_lua_call *call, size_t i, const char **text, size_t *bytes,
                            struct llm_error *err);

/* The result; texts are copied. The last one counts. Errors: LLM_ENOMEM. Malformed JSON: the call fails. */
llm_status llm_lua_return_string(struct llm_lua_call *call, const char *text, size_t bytes,
                                 struct llm_error *err);
void llm_lua_return_number(struct llm_lua_call *call, double number);
void llm_lua_return_boolean(struct llm_lua_call *call, int boolean);
llm_status llm_lua_return_json(struct llm_lua_call *call, const char *text, size_t bytes,
                               struct llm_error *err);

#ifdef __cplusplus
}
#endif
#endif
