#include "policy_args.h"

#include "api_graph.h"
#include "base/mem.h"

#include <jansson.h>
#include <lauxlib.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- parameters ---------------------------------------------------------------------------------------- */

static char kind_of(int type)
{
    switch (type) {
    case LUA_TNUMBER:
        return 'n';
    case LUA_TBOOLEAN:
        return 'b';
    case LUA_TSTRING:
        return 's';
    case LUA_TTABLE:
        return 't';
    default:
        return 0;
    }
}

static const char *kind_name(char kind)
{
    switch (kind) {
    case 'n':
        return "a number";
    case 'b':
        return "true or false";
    case 's':
        return "a string";
    default:
        return "a list or an object";
    }
}

/* Numbers have theirs in the graph's text. */
static llm_status give_default(lua_State *L, const struct policy_params *params, const struct policy_param *p,
                               struct llm_error *err)
{
    if (p->at < 0 || p->kind != 't') return LLM_OK;
    return api_graph_argument(L, -1, params->graph_defaults, p->at, err);
}

llm_status policy_params_read(lua_State *L, const struct graph *graph, int32_t vocab_size,
                              struct policy_params *out, struct llm_error *err)
{
    int table = lua_gettop(L);
    size_t n = 0;
    *out = (struct policy_params){.graph = graph};
    if (graph && graph_args_new(graph, vocab_size, &out->graph_defaults, err)) return err->status;
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) n++;
    out->list = mem_array(n ? n : 1, sizeof *out->list);
    if (!out->list) return llm_fail(err, LLM_ENOMEM, "no memory for the parameters of a policy");
    for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
        struct policy_param *p = &out->list[out->n++];
        const char *name = lua_tostring(L, -2); /* state.lua has seen to it that it is one */
        p->kind = kind_of(lua_type(L, -1));
        p->at = graph ? graph_find_param(graph, name) : -1;
        p->name = mem_strdup(name);
        if (p->name && p->kind) {
            llm_status given = give_default(L, out, p, err);
            if (given == LLM_OK) continue;
            lua_pop(L, 2);
            return llm_fail_in(err, "the default of %s", p->name);
        }
        llm_status status = p->name ? LLM_EINVAL : LLM_ENOMEM;
        llm_fail(err, status, p->name ? "the default of %s is a %s" : "no memory for parameter %s", name,
                 luaL_typename(L, -1));
        lua_pop(L, 2);
        return status;
    }
    return LLM_OK;
}

void policy_params_deinit(struct policy_params *params)
{
    for (int32_t i = 0; i < params->n; i++) mem_free(params->list[i].name);
    graph_args_free(params->graph_defaults);
    mem_free(params->list);
}

static const struct policy_param *find(const struct policy_params *params, const char *name)
{
    for (int32_t i = 0; i < params->n; i++)
        if (!strcmp(params->list[i].name, name)) return &params->list[i];
    return NULL;
}

/* ---- arguments ----------------------------------------------------------------------------------------- */

static char kind_of_json(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_INTEGER:
    case JSON_REAL:
        return 'n';
    case JSON_TRUE:
    case JSON_FALSE:
        return 'b';
    case JSON_STRING:
        return 's';
    case JSON_ARRAY:
    case JSON_OBJECT:
        return 't';
    case JSON_NULL:
        break;
    }
    return 0;
}

static llm_status unknown_argument(const struct policy_params *params, const char *name,
                                   struct llm_error *err)
{
    char names[300];
    size_t n = 0;
    names[0] = 0;
    for (int32_t i = 0; i < params->n && n < sizeof names; i++)
        n += (size_t)snprintf(names + n, sizeof names - n, "%s%s", i ? ", " : "", params->list[i].name);
    return llm_fail(err, LLM_EINVAL, "policy_args: unknown argument '%.63s'; there are: %s", name,
                    params->n ? names : "none");
}

static llm_status give_ids(struct graph_args *args, int32_t at, const json_t *v, struct llm_error *err)
{
    size_t n = json_array_size(v);
    int32_t *ids = mem_array(n ? n : 1, sizeof *ids);
    if (!ids) return llm_fail(err, LLM_ENOMEM, "no memory for the arguments of a policy");
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(v, i);
        json_int_t whole = json_is_integer(id) ? json_integer_value(id) : -1;
        ids[i] = whole < 0 || whole > INT32_MAX ? -1 : (int32_t)whole; /* -1: graph_args_list refuses it */
    }
    llm_status status = graph_args_list(args, at, ids, n, err);
    mem_free(ids);
    return status;
}

/* An object from token ids to numbers. */
static llm_status give_pairs(struct graph_args *args, int32_t at, json_t *v, struct llm_error *err)
{
    size_t n = json_object_size(v), i = 0;
    int32_t *ids = mem_array(n ? n : 1, sizeof *ids);
    float *values = mem_array(n ? n : 1, sizeof *values);
    const char *key;
    json_t *value;
    json_object_foreach(v, key, value)
    {
        char *end;
        if (!ids || !values) break;
        long id = strtol(key, &end, 10);
        ids[i] = *end || id < 0 || id > INT32_MAX ? -1 : (int32_t)id;
        values[i++] = json_is_number(value) ? (float)json_number_value(value) : NAN;
    }
    llm_status status = ids && values ? graph_args_pairs(args, at, ids, values, n, err)
                                      : llm_fail(err, LLM_ENOMEM, "no memory for the arguments of a policy");
    mem_free(ids);
    mem_free(values);
    return status;
}

static llm_status give_graph(const struct policy_params *params, struct graph_args *args,
                             const struct policy_param *p, json_t *v, struct llm_error *err)
{
    enum graph_type type = params->graph->params[p->at].type;
    if (p->kind == 'n') return graph_args_number(args, p->at, json_number_value(v), err);
    if (p->kind == 'b') return graph_args_number(args, p->at, json_is_true(v), err);
    if (type == GRAPH_LIST && json_is_array(v)) return give_ids(args, p->at, v, err);
    if (type == GRAPH_PAIRS && json_is_object(v)) return give_pairs(args, p->at, v, err);
    return llm_fail(err, LLM_EINVAL, "it must be %s",
                    type == GRAPH_LIST ? "a list of token ids" : "an object from token ids to numbers");
}

static llm_status check_all(const struct policy_params *params, json_t *given, struct graph_args *args,
                            struct llm_error *err)
{
    const char *name;
    json_t *v;
    json_object_foreach(given, name, v)
    {
        const struct policy_param *p = find(params, name);
        if (!p) return unknown_argument(params, name, err);
        if (json_is_null(v)) continue;
        if (kind_of_json(v) != p->kind)
            return llm_fail(err, LLM_EINVAL, "policy_args: %s must be %s", name, kind_name(p->kind));
        if (p->at >= 0 && give_graph(params, args, p, v, err))
            return llm_fail_in(err, "policy_args: %s", name);
    }
    return LLM_OK;
}

llm_status policy_args_read(const struct policy_params *params, const char *json, size_t bytes,
                            struct llm_policy_args *out, struct llm_error *err)
{
    json_error_t why;
    json_t *given = json ? json_loadb(json, bytes, JSON_REJECT_DUPLICATES, &why) : NULL;
    if (json && !json_is_object(given)) {
        json_decref(given);
        return llm_fail(err, LLM_EINVAL, "policy_args must be a JSON object%s%s", given ? "" : ": ",
                        given ? "" : why.text);
    }
    struct graph_args *args = NULL;
    llm_status status = LLM_OK;
    if (params->graph) status = graph_args_copy(params->graph_defaults, &args, err);
    if (!status && given) status = check_all(params, given, args, err);
    if (status) {
        graph_args_free(args);
        json_decref(given);
    } else {
        *out = (struct llm_policy_args){.own = given, .graph = args};
    }
    return status;
}

void policy_args_free(struct llm_policy_args *args)
{
    json_decref(args->own);
    graph_args_free((struct graph_args *)args->graph);
}

/* ---- from and to Lua ----------------------------------------------------------------------------------- */

enum { MAX_DEPTH = 32 };

static json_t *value_at(lua_State *L, int index, int depth, const char **why);

/* Keys are strings, or numbers (token ids) that become strings. */
static json_t *object_at(lua_State *L, int index, int depth, const char **why)
{
    json_t *object = json_object();
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
        lua_pushvalue(L, -2); /* a number that is made a string in place would confuse lua_next */
        const char *key =
            lua_type(L, -1) == LUA_TSTRING || lua_type(L, -1) == LUA_TNUMBER ? lua_tostring(L, -1) : NULL;
        json_t *v = key ? value_at(L, lua_gettop(L) - 1, depth, why) : NULL;
        if (!key) *why = "a table may have strings and numbers as keys";
        int set = v && json_object_set_new(object, key, v) == 0;
        lua_pop(L, 1);
        if (set) continue;
        if (!*why) *why = "a string is not UTF-8";
        lua_pop(L, 2);
        json_decref(object);
        return NULL;
    }
    return object;
}

static json_t *array_at(lua_State *L, int index, int depth, const char **why)
{
    json_t *array = json_array();
    int n = (int)lua_objlen(L, index);
    for (int i = 1; i <= n; i++) {
        lua_rawgeti(L, index, i);
        json_t *v = value_at(L, lua_gettop(L), depth, why);
        lua_pop(L, 1);
        if (v && json_array_append_new(array, v) == 0) continue;
        json_decref(array);
        return NULL;
    }
    return array;
}

static json_t *value_at(lua_State *L, int index, int depth, const char **why)
{
    size_t n = 0;
    const char *text;
    double x;
    json_t *v = NULL;
    if (depth > MAX_DEPTH || !lua_checkstack(L, 6)) {
        *why = "tables are nested too deeply";
        return NULL;
    }
    switch (lua_type(L, index)) {
    case LUA_TNUMBER:
        x = lua_tonumber(L, index);
        v = x == floor(x) && fabs(x) <= 0x1p53 ? json_integer((json_int_t)x) : json_real(x);
        if (!v) *why = "a number is not finite";
        return v;
    case LUA_TBOOLEAN:
        return json_boolean(lua_toboolean(L, index));
    case LUA_TSTRING:
        text = lua_tolstring(L, index, &n);
        v = json_stringn(text, n);
        if (!v) *why = "a string is not UTF-8";
        return v;
    case LUA_TTABLE:
        return lua_objlen(L, index) > 0 ? array_at(L, index, depth + 1, why)
                                        : object_at(L, index, depth + 1, why);
    default:
        *why = "there may be numbers, booleans, strings and tables of them";
        return NULL;
    }
}

char *policy_args_write(lua_State *L, int index, const char **why)
{
    *why = NULL;
    json_t *object = object_at(L, index, 0, why);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    if (!text && !*why) *why = "there is no memory";
    json_decref(object);
    return text;
}

static void push_value(lua_State *L, json_t *v);

static void push_table(lua_State *L, json_t *v)
{
    luaL_checkstack(L, 4, "arguments of a policy");
    if (json_is_array(v)) {
        size_t n = json_array_size(v);
        lua_createtable(L, (int)n, 0);
        for (size_t i = 0; i < n; i++) {
            push_value(L, json_array_get(v, i));
            lua_rawseti(L, -2, (int)i + 1);
        }
        return;
    }
    const char *key;
    json_t *element;
    lua_createtable(L, 0, (int)json_object_size(v));
    json_object_foreach(v, key, element)
    {
        push_value(L, element);
        lua_setfield(L, -2, key);
    }
}

static void push_value(lua_State *L, json_t *v)
{
    switch (kind_of_json(v)) {
    case 'n':
        lua_pushnumber(L, json_number_value(v));
        return;
    case 'b':
        lua_pushboolean(L, json_is_true(v));
        return;
    case 's':
        lua_pushlstring(L, json_string_value(v), json_string_length(v));
        return;
    case 't':
        push_table(L, v);
        return;
    default:
        lua_pushnil(L);
    }
}

void policy_args_push(lua_State *L, const void *own)
{
    if (own)
        push_value(L, (json_t *)own);
    else
        lua_newtable(L);
}
