/* llm.core: submitting requests and taking their events. */

#include "api.h"
#include "interrupt.h"

#include <lauxlib.h>
#include <string.h>

/* ---- requests ------------------------------------------------------------------------------------------ */

void api_request_release(struct api_request *r)
{
    if (!r->request) return;
    llm_release(r->request);
    r->request = NULL;
    if (r->prev) {
        r->prev->next = r->next;
    } else {
        r->owner->requests = r->next;
    }
    if (r->next) r->next->prev = r->prev;
    r->owner = NULL;
}

static struct api_request *check_request(lua_State *L, int arg)
{
    struct api_request *r = luaL_checkudata(L, arg, API_REQUEST);
    if (!r->request) luaL_error(L, "the request is released");
    return r;
}

#define SPEC(name, kind) API_FIELD(llm_request_spec, name, kind)

static const struct api_field spec_fields[] = {
    SPEC(add_special_tokens, API_BOOL),
    SPEC(truncate_prompt_tokens, API_INT32),
    SPEC(priority, API_INT32),
    SPEC(cache_salt, API_STRING),
    SPEC(tenant, API_STRING),
    SPEC(timeout, API_FLOAT),
    SPEC(stream, API_BOOL),
    SPEC(discard, API_BOOL),
    SPEC(prompt_logprobs_start, API_INT32),
};

static llm_status read_spec(lua_State *L, struct llm_request_spec *spec, struct llm_error *err)
{
    llm_request_spec_init(spec);
    if (lua_type(L, 2) == LUA_TSTRING) {
        spec->prompt = lua_tolstring(L, 2, &spec->prompt_bytes);
    } else {
        int32_t *ids = NULL;
        llm_status status = api_read_ids(L, 2, "prompt", &ids, &spec->n_prompt_ids, err);
        if (status != LLM_OK) return status;
        spec->prompt_ids = ids;
    }
    if (!lua_isnil(L, 4)) {
        llm_status status =
            api_read_fields(L, 4, spec_fields, sizeof spec_fields / sizeof *spec_fields, spec, err);
        if (status != LLM_OK) return status;
        lua_getfield(L, 4, "sequence");
        if (!lua_isnil(L, -1)) spec->sequence = api_check_sequence(L, -1);
        lua_pop(L, 1);
        lua_getfield(L, 4, "policies");
        if (!lua_isnil(L, -1))
            status = api_read_policies(L, lua_gettop(L), &spec->policies, &spec->n_policies, err);
        if (status != LLM_OK) return status;
    }
    return api_read_sampling(L, 3, &spec->sampling, err);
}

/* engine:submit(prompt, params, options) -> request | nil, message, code. prompt: text or list of ids;
 * params: sampling parameters or nil; options: {stream, add_special_tokens, truncate_prompt_tokens, priority,
 * cache_salt, tenant, timeout, sequence, discard, prompt_logprobs_start} or nil. [-0, +1|3, e] */
static int engine_submit(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    lua_settop(L, 4);
    struct llm_error err = {LLM_OK, ""};
    struct llm_request_spec spec;
    if (read_spec(L, &spec, &err) != LLM_OK) return api_fail(L, &err);

    struct api_request *r = lua_newuserdata(L, sizeof *r);
    memset(r, 0, sizeof *r);
    luaL_getmetatable(L, API_REQUEST);
    lua_setmetatable(L, -2);
    lua_createtable(L, 1, 0);
    lua_pushvalue(L, 1);
    lua_rawseti(L, -2, 1);
    lua_setfenv(L, -2);
    int self = lua_gettop(L);
    lua_getfenv(L, 1);
    lua_pushlightuserdata(L, r);
    lua_pushvalue(L, self);
    lua_rawset(L, -3);
    lua_pop(L, 1);

    spec.user = r;
    if (llm_submit(e->client, &spec, &r->request, &err) != LLM_OK) return api_fail(L, &err);
    r->owner = e;
    r->next = e->requests;
    if (r->next) r->next->prev = r;
    e->requests = r;
    return 1;
}

/* request:cancel(): its last event comes soon. [-0, +0, e] */
static int request_cancel(lua_State *L)
{
    llm_cancel(check_request(L, 1)->request);
    return 0;
}

/* request:release(): cancels if need be; no further events; harmless twice. [-0, +0, e] */
static int request_release(lua_State *L)
{
    api_request_release(luaL_checkudata(L, 1, API_REQUEST));
    return 0;
}

/* ---- log probabilities --------------------------------------------------------------------------------- */

/* One row as a map from token id to {logprob, rank, decoded_token}. [-0, +1, m] */
static void push_row(lua_State *L, const struct llm_tokenizer *tokenizer, const struct llm_logprob *row,
                     int32_t n)
{
    lua_createtable(L, 0, n);
    for (int32_t i = 0; i < n; i++) {
        if (row[i].token < 0) continue; /* fewer alternatives than asked for */
        lua_createtable(L, 0, 3);
        lua_pushnumber(L, row[i].logprob);
        lua_setfield(L, -2, "logprob");
        lua_pushinteger(L, row[i].rank);
        lua_setfield(L, -2, "rank");
        if (tokenizer) {
            api_push_token_text(L, tokenizer, row[i].token);
            lua_setfield(L, -2, "decoded_token");
        }
        lua_rawseti(L, -2, row[i].token);
    }
}

/* rows[i] is false where there is nothing (the first token of a prompt). [-0, +1, m] */
static void push_rows(lua_State *L, const struct llm_tokenizer *tokenizer, const struct llm_logprob *rows,
                      size_t n_rows, int32_t n)
{
    lua_createtable(L, (int)n_rows, 0);
    for (size_t i = 0; i < n_rows; i++) {
        const struct llm_logprob *row = rows + i * (size_t)n;
        if (row[0].token < 0) {
            lua_pushboolean(L, 0);
        } else {
            push_row(L, tokenizer, row, n);
        }
        lua_rawseti(L, -2, (int)(i + 1));
    }
}

static void push_ids(lua_State *L, const int32_t *ids, size_t n)
{
    lua_createtable(L, (int)n, 0);
    for (size_t i = 0; i < n; i++) {
        lua_pushinteger(L, ids[i]);
        lua_rawseti(L, -2, (int)(i + 1));
    }
}

/* request:info(no_ids) -> {prompt_token_ids (unless no_ids), num_cached_tokens, num_preemptions,
 * arrival_time, scheduled_time, first_token_time, finished_time, prompt_logprobs}; times in seconds of the
 * clock of core.now(), nil where the request has not come so far. [-0, +1, e] */
static int request_info(lua_State *L)
{
    struct api_request *r = check_request(L, 1);
    struct llm_request_info info;
    llm_request_info(r->request, &info);
    lua_settop(L, 2);
    lua_createtable(L, 0, 8);
    if (!lua_toboolean(L, 2)) {
        push_ids(L, info.prompt_tokens, info.n_prompt_tokens);
        lua_setfield(L, -2, "prompt_token_ids");
    }
    lua_pushnumber(L, (double)info.n_cached_tokens);
    lua_setfield(L, -2, "num_cached_tokens");
    lua_pushinteger(L, info.n_preemptions);
    lua_setfield(L, -2, "num_preemptions");
    const struct {
        const char *name;
        double t;
    } times[] = {{"arrival_time", info.t_submitted},
                 {"scheduled_time", info.t_scheduled},
                 {"first_token_time", info.t_first_token},
                 {"finished_time", info.t_finished}};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        if (times[i].t <= 0) continue;
        lua_pushnumber(L, times[i].t);
        lua_setfield(L, -2, times[i].name);
    }
    if (info.prompt_logprobs) {
        push_rows(L, llm_engine_tokenizer(r->owner->engine), info.prompt_logprobs, info.n_prompt_logprob_rows,
                  info.n_prompt_logprobs);
        lua_setfield(L, -2, "prompt_logprobs");
    }
    return 1;
}

/* ---- events -------------------------------------------------------------------------------------------- */

static const char *finish_name(enum llm_finish_reason reason)
{
    switch (reason) {
    case LLM_FINISH_STOP:
        return "stop";
    case LLM_FINISH_LENGTH:
        return "length";
    case LLM_FINISH_ABORT:
        return "abort";
    case LLM_FINISH_ERROR:
        return "error";
    case LLM_FINISH_NONE:
        break;
    }
    return NULL;
}

static void push_finish(lua_State *L, const struct llm_event *event)
{
    const char *reason = finish_name(event->finish);
    if (!reason) return;
    lua_pushstring(L, reason);
    lua_setfield(L, -2, "finish_reason");
    if (event->stopped_by_token) {
        lua_pushinteger(L, event->stop_token);
        lua_setfield(L, -2, "stop_reason");
    } else if (event->stopped_by_string) {
        lua_pushstring(L, event->stop_string);
        lua_setfield(L, -2, "stop_reason");
    }
    if (event->finish == LLM_FINISH_ERROR) {
        lua_pushstring(L, event->error ? event->error->message : "unknown error");
        lua_setfield(L, -2, "error");
        if (event->error) {
            lua_pushstring(L, api_status_name(event->error->status));
            lua_setfield(L, -2, "error_code");
        }
        if (event->refusal) {
            lua_pushinteger(L, event->refusal);
            lua_setfield(L, -2, "refusal");
        }
        lua_pushstring(L, event->error_details); /* null: nil */
        lua_setfield(L, -2, "error_details");
    }
}

static void push_ends(lua_State *L, const struct llm_event *event)
{
    lua_createtable(L, (int)event->n_tokens, 0);
    for (size_t i = 0; i < event->n_tokens; i++) {
        lua_pushinteger(L, (lua_Integer)event->text_ends[i]);
        lua_rawseti(L, -2, (int)(i + 1));
    }
    lua_setfield(L, -2, "text_ends");
}

static void push_event(lua_State *L, struct api_engine *e, const struct llm_event *event)
{
    lua_createtable(L, 0, 8);
    lua_pushinteger(L, event->index);
    lua_setfield(L, -2, "index");
    lua_pushlstring(L, event->text ? event->text : "", event->text_bytes);
    lua_setfield(L, -2, "text");
    push_ids(L, event->tokens, event->n_tokens);
    lua_setfield(L, -2, "token_ids");
    if (event->text_ends && event->n_tokens > 1) push_ends(L, event);
    if (event->logprobs) {
        push_rows(L, llm_engine_tokenizer(e->engine), event->logprobs, event->n_tokens, event->n_logprobs);
        lua_setfield(L, -2, "logprobs");
    }
    push_finish(L, event);
    lua_pushboolean(L, event->request_done);
    lua_setfield(L, -2, "request_done");
}

/* engine:next() -> request, event | nil. event: {index, text, token_ids, text_ends (of several tokens),
 * logprobs, finish_reason, stop_reason, error, request_done}. [-0, +1|2, e] */
static int engine_next(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    struct llm_event event;
    lua_settop(L, 1);
    lua_getfenv(L, 1);
    while (llm_next(e->client, &event) == LLM_OK) {
        lua_pushlightuserdata(L, event.user);
        lua_rawget(L, 2);
        if (lua_isnil(L, -1)) { /* abandoned; its finalizer is about to run */
            lua_pop(L, 1);
            continue;
        }
        push_event(L, e, &event);
        return 2;
    }
    return 0;
}

/* engine:wait(timeout_ms) -> true: engine:next() has something; false: time is up | nil, message, code.
 * Ctrl-C raises here (interrupt.h); keep timeouts short. [-0, +1|3, e] */
static int engine_wait(lua_State *L)
{
    struct api_engine *e = api_check_engine(L, 1);
    int32_t timeout = (int32_t)luaL_checkinteger(L, 2);
    interrupt_check(L);
    llm_status status = llm_wait(e->client, timeout);
    interrupt_check(L);
    if (status == LLM_OK || status == LLM_EAGAIN) {
        lua_pushboolean(L, status == LLM_OK);
        return 1;
    }
    struct llm_error err = {status, "the engine has failed; close it and open it again"};
    return api_fail(L, &err);
}

/* engine:fd() -> a file descriptor, readable while events may wait. [-0, +1, e] */
static int engine_fd(lua_State *L)
{
    lua_pushinteger(L, llm_client_fd(api_check_engine(L, 1)->client));
    return 1;
}

void api_open_request(lua_State *L)
{
    static const luaL_Reg methods[] = {
        {"cancel", request_cancel}, {"release", request_release}, {"info", request_info}, {NULL, NULL}};
    static const luaL_Reg engine_methods[] = {{"submit", engine_submit},
                                              {"next", engine_next},
                                              {"wait", engine_wait},
                                              {"fd", engine_fd},
                                              {NULL, NULL}};
    api_new_type(L, API_REQUEST, methods, request_release);
    luaL_getmetatable(L, API_ENGINE);
    lua_getfield(L, -1, "__index");
    luaL_register(L, NULL, engine_methods);
    lua_pop(L, 2);
}
