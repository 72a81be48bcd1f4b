/* A Lua table of sampling parameters into struct llm_sampling. Names and types are checked here, ranges by
 * llm_submit. */

#include "api.h"

#include <lauxlib.h>
#include <math.h>

#define PARAM(name, kind) API_FIELD(llm_sampling, name, kind)

static const struct api_field sampling_fields[] = {
    PARAM(n, API_INT32),
    PARAM(temperature, API_FLOAT),
    PARAM(top_p, API_FLOAT),
    PARAM(top_k, API_INT32),
    PARAM(min_p, API_FLOAT),
    PARAM(presence_penalty, API_FLOAT),
    PARAM(frequency_penalty, API_FLOAT),
    PARAM(repetition_penalty, API_FLOAT),
    PARAM(max_tokens, API_INT32),
    PARAM(min_tokens, API_INT32),
    PARAM(ignore_eos, API_BOOL),
    PARAM(skip_special_tokens, API_BOOL),
    PARAM(include_stop_str_in_output, API_BOOL),
    PARAM(detokenize, API_BOOL),
    PARAM(logprobs, API_INT32),
    PARAM(prompt_logprobs, API_INT32),
};

/* A string or a list of strings. The array is pushed; the strings stay in the table. [-0, +1, m] */
static llm_status read_strings(lua_State *L, int index, const char *name, const char *const **out, size_t *n,
                               struct llm_error *err)
{
    int single = lua_type(L, index) == LUA_TSTRING;
    if (!single && !lua_istable(L, index))
        return llm_fail(err, LLM_EINVAL, "%s must be a string or a list of strings; it is a %s", name,
                        luaL_typename(L, index));
    *n = single ? 1 : lua_objlen(L, index);
    const char **strings = lua_newuserdata(L, (*n ? *n : 1) * sizeof *strings);
    for (size_t i = 0; i < *n; i++) {
        if (single) {
            lua_pushvalue(L, index);
        } else {
            lua_rawgeti(L, index, (int)(i + 1));
        }
        if (lua_type(L, -1) != LUA_TSTRING)
            return llm_fail(err, LLM_EINVAL, "%s[%zu] must be a string; it is a %s", name, i + 1,
                            luaL_typename(L, -1));
        strings[i] = lua_tostring(L, -1);
        lua_pop(L, 1);
    }
    *out = strings;
    return LLM_OK;
}

/* A map from token id (a number, or a numeral as in OpenAI's JSON) to bias. [-0, +1, m] */
static llm_status read_bias(lua_State *L, int index, struct llm_sampling *out, struct llm_error *err)
{
    if (!lua_istable(L, index))
        return llm_fail(err, LLM_EINVAL, "logit_bias must be a map from token id to bias; it is a %s",
                        luaL_typename(L, index));
    size_t n = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) n++;
    struct llm_token_bias *bias = lua_newuserdata(L, (n ? n : 1) * sizeof *bias);
    size_t i = 0;
    for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1), i++) {
        lua_pushvalue(L, -2); /* lua_tonumber would change a string key under lua_next */
        double id = lua_isnumber(L, -1) ? lua_tonumber(L, -1) : NAN;
        lua_pop(L, 1);
        if (!(id == floor(id) && id >= INT32_MIN && id <= INT32_MAX) || lua_type(L, -1) != LUA_TNUMBER)
            return llm_fail(err, LLM_EINVAL, "logit_bias must map token ids to numbers");
        bias[i] = (struct llm_token_bias){(int32_t)id, (float)lua_tonumber(L, -1)};
    }
    out->logit_bias = bias;
    out->n_logit_bias = n;
    return LLM_OK;
}

static llm_status read_seed(lua_State *L, int index, struct llm_sampling *out, struct llm_error *err)
{
    double seed = lua_tonumber(L, index);
    if (lua_type(L, index) != LUA_TNUMBER || seed != floor(seed) || fabs(seed) > 0x1p53)
        return llm_fail(err, LLM_EINVAL, "seed must be a whole number of at most 53 bits");
    if (seed == -1) return LLM_OK; /* as in vLLM: none */
    out->has_seed = 1;
    out->seed = (uint64_t)(int64_t)seed;
    return LLM_OK;
}

enum list { LIST_STOP, LIST_BAD_WORDS, LIST_STOP_IDS, LIST_ALLOWED, LIST_BIAS, LIST_SEED, N_LISTS };

static const char *const list_names[N_LISTS] = {
    "stop", "bad_words", "stop_token_ids", "allowed_token_ids", "logit_bias", "seed"};

static llm_status read_list(lua_State *L, enum list list, struct llm_sampling *out, struct llm_error *err)
{
    int value = lua_gettop(L);
    const char *name = list_names[list];
    int32_t *ids = NULL;
    llm_status status = LLM_OK;
    switch (list) {
    case LIST_STOP:
        return read_strings(L, value, name, &out->stop, &out->n_stop, err);
    case LIST_BAD_WORDS:
        return read_strings(L, value, name, &out->bad_words, &out->n_bad_words, err);
    case LIST_STOP_IDS:
        status = api_read_ids(L, value, name, &ids, &out->n_stop_token_ids, err);
        out->stop_token_ids = ids;
        return status;
    case LIST_ALLOWED:
        status = api_read_ids(L, value, name, &ids, &out->n_allowed_token_ids, err);
        out->allowed_token_ids = ids;
        return status;
    case LIST_BIAS:
        return read_bias(L, value, out, err);
    case LIST_SEED:
        return read_seed(L, value, out, err);
    case N_LISTS:
        break;
    }
    return LLM_OK;
}

llm_status api_read_sampling(lua_State *L, int index, struct llm_sampling *out, struct llm_error *err)
{
    llm_sampling_init(out);
    if (lua_isnoneornil(L, index)) return LLM_OK;
    luaL_checkstack(L, 3 * N_LISTS, "sampling parameters");
    llm_status status = api_read_fields(L, index, sampling_fields,
                                        sizeof sampling_fields / sizeof *sampling_fields, out, err);
    for (int i = 0; status == LLM_OK && i < N_LISTS; i++) {
        lua_getfield(L, index, list_names[i]);
        if (!lua_isnil(L, -1)) status = read_list(L, (enum list)i, out, err);
    }
    return status;
}
