#ifndef LLM_LUA_API_H
#define LLM_LUA_API_H

/* The C side of `require "llm"`: the module llm.core, thin and unfriendly on purpose. Its functions take what
 * the Lua files of lua/llm have already shaped, check again, and answer an expected failure with nil,
 * message, code (code: "EINVAL", "ENOENT", …). What users see is written in Lua on top of it.
 *
 * Each function says its Lua signature and, in brackets as the Lua manual does, what it pops, pushes, and how
 * it may raise: - never, m out of memory, e any error. */

#include "llmlua.h"

#include <lauxlib.h>
#include <lua.h>

int luaopen_llm_core(lua_State *L);
int luaopen_llm_line(lua_State *L); /* repl.c */
int luaopen_llm_fs(lua_State *L);   /* api_fs.c */
int luaopen_llm_crew(lua_State *L); /* api_crew.c */

/* Adds the functions of one file to the module table on top of the stack. [-0, +0, m] */
void api_open_engine(lua_State *L);
void api_open_request(lua_State *L);
void api_open_sequence(lua_State *L);
void api_open_tokenizer(lua_State *L);
void api_open_system(lua_State *L);
void api_open_text(lua_State *L);
void api_open_watch(lua_State *L);
void api_open_policy(lua_State *L);
/* Takes the state's watch, a userdata, from the top. [-1, +0, m] */
void api_open_sandbox(lua_State *L);

/* ---- values shared by the files of the module ---------------------------------------------------------- */

#define API_ENGINE    "llm.core.engine"
#define API_REQUEST   "llm.core.request"
#define API_SEQUENCE  "llm.core.sequence"
#define API_TOKENIZER "llm.core.tokenizer"

/* Userdata. Closing it (or collecting it) ends its requests first, so that none outlives its engine. */
struct api_engine {
    struct llm_engine *engine;      /* null: closed */
    struct llm_client *client;      /* of this Lua state */
    struct api_request *requests;   /* those not released yet */
    struct api_sequence *sequences; /* those not closed yet */
    struct policy_loader *loader;   /* policy_loader.h; null: not asked for yet */
    int shared;                     /* 1: another state closes it */
};

/* Userdata; its environment holds the engine's userdata. Collecting it cancels the request. */
struct api_request {
    struct llm_request *request; /* null: released */
    struct api_engine *owner;    /* null: released */
    struct api_request *prev, *next;
};

/* Userdata; its environment holds the engine's userdata. */
struct api_sequence {
    struct llm_sequence *sequence; /* null: closed */
    struct api_engine *owner;      /* null: closed */
    struct api_sequence *prev, *next;
};

/* Userdata. One of the three is set; of the engine's tokenizer the engine's userdata is held by the
 * environment; who pushes a borrowed one sees to it that it lives on. */
struct api_tokenizer {
    struct llm_tokenizer *owned;
    struct api_engine *engine;
    const struct llm_tokenizer *borrowed;
};

/* The engine at this argument. Raises if it is something else or closed. [-0, +0, e] */
struct api_engine *api_check_engine(lua_State *L, int arg);

/* Pushes the userdata of an engine that another state has opened and closes, with a client of this state's.
 * As core.open: [-0, +1|3, m] */
int api_push_shared_engine(lua_State *L, struct llm_engine *engine);

/* Ends the other members of this state's crew (crew.h), if it is member 1: before it closes what they share.
 * [-0, +0, m] */
void api_end_crew(lua_State *L);

/* The account of core.account at this argument. Raises if it is something else. [-0, +0, e] */
struct script_account *api_check_account(lua_State *L, int arg);

/* Cancels and frees; harmless twice. */
void api_request_release(struct api_request *request);

/* Harmless twice. The request on it, if there is one, is cancelled. */
void api_sequence_close(struct api_sequence *sequence);

/* The sequence at this argument. Raises if it is something else or closed. [-0, +0, e] */
struct llm_sequence *api_check_sequence(lua_State *L, int arg);

/* "EINVAL" and so on. */
const char *api_status_name(llm_status status);

/* Pushes nil, message, code; returns 3. [-0, +3, m] */
int api_fail(lua_State *L, const struct llm_error *err);

/* Registers the userdata type `name`: its methods, and what collects it (null: nothing to do). [-0, +0, m] */
void api_new_type(lua_State *L, const char *name, const luaL_Reg *methods, lua_CFunction gc);

/* Pushes a tokenizer that outlives the state. [-0, +1, m] */
void api_push_tokenizer(lua_State *L, const struct llm_tokenizer *tokenizer);

/* Pushes the text of one token as it reads inside a text (a leading space is kept). [-0, +1, m] */
void api_push_token_text(lua_State *L, const struct llm_tokenizer *tokenizer, int32_t id);

/* The list of token ids at `index`, in memory that is pushed as userdata (so that it lives as long as the
 * stack slot). Errors: LLM_EINVAL (`what` names it, and the element), with nothing pushed. [-0, +1, m] */
llm_status api_read_ids(lua_State *L, int index, const char *what, int32_t **ids, size_t *n,
                        struct llm_error *err);

/* Fills `out` from the table at `index` (nil: all defaults). Strings and arrays are borrowed from values left
 * on the stack: use it before they are popped. Errors: LLM_EINVAL (which parameter, what it must be). Pushes
 * an unspecified number of values. [-0, +?, m] */
llm_status api_read_sampling(lua_State *L, int index, struct llm_sampling *out, struct llm_error *err);

/* The list {{name, JSON or nil}, …} at `index`, as api_read_sampling. [-0, +?, m] */
llm_status api_read_policies(lua_State *L, int index, const struct llm_policy_use **out, size_t *n,
                             struct llm_error *err);

/* ---- fields of a table into a struct ------------------------------------------------------------------- */

enum api_kind { API_STRING, API_BOOL, API_INT32, API_UINT64, API_FLOAT };

struct api_field {
    const char *name;
    enum api_kind kind;
    size_t offset; /* of the member: const char *, int, int32_t, uint64_t or float */
};

#define API_FIELD(owner, member, member_kind)                                                                \
    {                                                                                                        \
        .name = #member, .kind = member_kind, .offset = offsetof(struct owner, member)                       \
    }

/* Copies what the table at `index` has of `fields` into the struct at `out`, leaves the rest. Strings are
 * borrowed from the table. Errors: LLM_EINVAL (the name, what it must be, what it is). [-0, +0, m] */
llm_status api_read_fields(lua_State *L, int index, const struct api_field *fields, size_t n, void *out,
                           struct llm_error *err);

#endif
