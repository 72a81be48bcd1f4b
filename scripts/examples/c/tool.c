/* A C function as a tool of a Lua program: the model's text asks for stock, C knows it.
 *   cc tool.c $(pkg-config --cflags --libs llmlua) && ./a.out MODEL
 */

#include <llmlua_lua.h>
#include <stdio.h>
#include <string.h>

struct item {
    const char *name;
    double count;
};

struct shop {
    struct item items[2];
    int n_calls;
};

/* shop.stock(name) -> how many there are | nil, message */
static llm_status stock(struct llm_lua_call *call, void *user, struct llm_error *err)
{
    struct shop *shop = user;
    const char *name;
    size_t bytes;
    llm_status status = llm_lua_arg_string(call, 1, &name, &bytes, err);
    if (status != LLM_OK) return status;
    shop->n_calls++;
    for (int i = 0; i < 2; i++) {
        if (strcmp(shop->items[i].name, name) == 0) {
            llm_lua_return_number(call, shop->items[i].count);
            return LLM_OK;
        }
    }
    return llm_fail(err, LLM_ENOENT, "there is no '%s' in this shop", name);
}

/* The sequence holds the text so far; the tool's answer is fed into it, and the model goes on from there. */
static const char script[] =
    "local llm, shop = require 'llm', require 'shop'\n"
    "local engine = llm.engine{ model = MODEL, max_model_len = 2048 }\n"
    "local seq = engine:sequence 'Lookup: stock(apples) = 5\\nLookup: stock(pears) ='\n"
    "local count = assert(shop.stock 'pears')\n"
    "seq:feed(' ' .. count .. '\\nSentence: The shop has')\n"
    "local text = seq:generate{ temperature = 0, max_tokens = 12, stop = '\\n' }.text\n"
    "local missing, message, code = shop.stock 'plums'\n"
    "seq:close()\n"
    "engine:close()\n"
    "return { count = count, text = text, missing = missing == nil, message = message, code = code,\n"
    "         misuse = select(2, shop.stock(7)) }\n";

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: tool MODEL\n");
        return 2;
    }
    struct shop shop = {{{"apples", 5}, {"pears", 12}}, 0};
    struct llm_error err;
    struct llm_lua *lua;
    const char *result;
    char model[1100];
    snprintf(model, sizeof model, "MODEL = [==[%s]==]", argv[1]);
    if (llm_lua_open(&lua, &err) != LLM_OK) {
        fprintf(stderr, "tool: %s\n", err.message);
        return 1;
    }
    llm_status status = llm_lua_register(lua, "shop", "stock", stock, &shop, &err);
    if (status == LLM_OK) status = llm_lua_run(lua, model, strlen(model), "settings", NULL, &err);
    if (status == LLM_OK) status = llm_lua_run(lua, script, strlen(script), "tool", &result, &err);
    if (status == LLM_OK)
        printf("%s\ncalls: %d\n", result, shop.n_calls);
    else
        fprintf(stderr, "tool: %s\n%s\n", err.message, llm_lua_traceback(lua));
    llm_lua_close(lua);
    return status == LLM_OK ? 0 : 1;
}
