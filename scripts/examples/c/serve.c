/* An OpenAI server inside a C program: the engine is C's, what is served is said by a Lua string. SIGTERM
 * ends it, by way of llm_lua_stop. cc serve.c $(pkg-config --cflags --libs llmlua) && ./a.out MODEL 8000
 */

#include <llmlua_lua.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char script[] =
    "local llm, openai = require 'llm', require 'llm.openai'\n"
    "local engine = require('llm.host').engine 'main'\n"
    "local server = llm.server{ host = '127.0.0.1', port = PORT }\n"
    "server:post('/v1/completions', openai.completions(engine))\n"
    "server:post('/v1/chat/completions', openai.chat(engine))\n"
    "server:get('/v1/models', openai.models(engine))\n"
    "server:get('/hello/:name', function(req) return 'hello, ' .. req.params.name end)\n"
    "server:run(function() print('Serving at ' .. server:url()) io.stdout:flush() end)\n"
    "return { n_requests = server.n_requests }\n";

static struct llm_lua *lua;

static void on_signal(int number)
{
    (void)number;
    llm_lua_stop(lua);
}

static int fail(const struct llm_error *err)
{
    fprintf(stderr, "serve: %s\n", err->message);
    return 1;
}

static llm_status serve(struct llm_engine *engine, int port, struct llm_error *err)
{
    char first[32];
    const char *summary;
    llm_status status = llm_lua_open(&lua, err);
    if (status != LLM_OK) return status;
    signal(SIGTERM, on_signal);
    signal(SIGINT, on_signal);
    snprintf(first, sizeof first, "PORT = %d", port);
    status = llm_lua_add_engine(lua, "main", engine, err);
    if (status == LLM_OK) status = llm_lua_run(lua, first, strlen(first), "settings", NULL, err);
    if (status == LLM_OK) status = llm_lua_run(lua, script, strlen(script), "server", &summary, err);
    if (status == LLM_OK) printf("%s\n", summary);
    signal(SIGTERM, SIG_DFL);
    signal(SIGINT, SIG_DFL);
    llm_lua_close(lua);
    return status;
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: serve MODEL PORT\n");
        return 2;
    }
    struct llm_error err;
    struct llm_engine_options options;
    struct llm_engine *engine;
    llm_engine_options_init(&options);
    options.model = argv[1];
    options.max_model_len = 2048;
    if (llm_engine_open(&options, &engine, &err) != LLM_OK) return fail(&err);
    llm_status status = serve(engine, atoi(argv[2]), &err);
    llm_engine_close(engine);
    return status == LLM_OK ? 0 : fail(&err);
}
