/* Lua in a C program: lua/llmlua_lua.h. */

#include "base/mem.h"
#include "llmlua_lua.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <string.h>

static struct llm_lua *open_lua(void)
{
    struct llm_lua *lua = NULL;
    assert_int_equal(llm_lua_open(&lua, NULL), LLM_OK);
    return lua;
}

static llm_status run(struct llm_lua *lua, const char *text, const char **result, struct llm_error *err)
{
    return llm_lua_run(lua, text, strlen(text), "test", result, err);
}

static void expect(struct llm_lua *lua, const char *text, const char *wanted)
{
    struct llm_error err = {LLM_OK, ""};
    const char *result = NULL;
    if (run(lua, text, &result, &err) != LLM_OK) fail_msg("%s: %s", text, err.message);
    assert_string_equal(result, wanted);
}

static void expect_failure(struct llm_lua *lua, const char *text, llm_status wanted, const char *message)
{
    struct llm_error err = {LLM_OK, ""};
    const char *result = NULL;
    assert_int_equal(run(lua, text, &result, &err), wanted);
    assert_int_equal(err.status, wanted);
    if (!strstr(err.message, message)) fail_msg("%s: %s", text, err.message);
    assert_null(strchr(err.message, '\n'));
    assert_null(result);
}

/* ---- running ------------------------------------------------------------------------------------------- */

static void results_and_failures(void **state)
{
    (void)state;
    struct llm_lua *lua = open_lua();
    expect(lua, "return 1 + 1, 'more'", "2");
    expect(lua, "kept = { 'a', { b = true } }", "null");
    expect(lua, "return kept", "[\"a\",{\"b\":true}]");
    assert_string_equal(llm_lua_traceback(lua), "");
    expect_failure(lua, "x = = 1", LLM_EINVAL, "test:1: unexpected symbol");
    expect_failure(lua, "local function deep() error('boom\\nsecond line') end\n\ndeep()", LLM_EFAILED,
                   "test:1: boom second line");
    assert_non_null(strstr(llm_lua_traceback(lua), "stack traceback:"));
    assert_non_null(strstr(llm_lua_traceback(lua), "test:3: in main chunk"));
    expect_failure(lua, "os.exit(3)", LLM_EFAILED, "os.exit(3)");
    expect(lua, "os.exit()", "null");
    expect(lua, "require('llm').exit(0)", "null");
    expect_failure(lua, "require('llm').exit(2, 'so long')", LLM_EFAILED, "so long");
    expect_failure(lua, "return print", LLM_EFAILED, "function");
    expect_failure(lua, "error()", LLM_EFAILED, "error object is a nil value");
    expect_failure(lua, "error(setmetatable({}, { __index = function() error 'again' end }))", LLM_EFAILED,
                   "");
    expect(lua, "return kept[1]", "\"a\"");
    assert_string_equal(llm_lua_traceback(lua), "");
    llm_lua_close(lua);
    llm_lua_close(NULL);
}

static void files(void **state)
{
    (void)state;
    struct llm_lua *lua = open_lua();
    struct llm_error err = {LLM_OK, ""};
    const char *const args[] = {"--help"};
    assert_int_equal(llm_lua_run_file(lua, "no/such/file.lua", NULL, 0, NULL, &err), LLM_ENOENT);
    assert_non_null(strstr(err.message, "no/such/file.lua"));
    assert_int_equal(llm_lua_run_file(lua, "tokenize", args, 1, NULL, &err), LLM_OK); /* it exits */
    llm_lua_close(lua);
}

/* ---- C functions --------------------------------------------------------------------------------------- */

struct seen {
    int n_calls;
    char text[32];
    double number;
    int boolean;
};

static llm_status take_all(struct llm_lua_call *call, void *user, struct llm_error *err)
{
    struct seen *seen = user;
    const char *text;
    size_t bytes;
    seen->n_calls++;
    llm_status status = llm_lua_arg_string(call, 1, &text, &bytes, err);
    if (status == LLM_OK) status = llm_lua_arg_number(call, 2, &seen->number, err);
    if (status == LLM_OK) status = llm_lua_arg_boolean(call, 3, &seen->boolean, err);
    if (status != LLM_OK) return status;
    assert_true(bytes < sizeof seen->text);
    memcpy(seen->text, text, bytes + 1);
    llm_lua_return_number(call, (double)llm_lua_n_args(call));
    return LLM_OK;
}

static llm_status echo(struct llm_lua_call *call, void *user, struct llm_error *err)
{
    const char *text;
    size_t bytes;
    (void)user;
    llm_status status = llm_lua_arg_json(call, 1, &text, &bytes, err);
    if (status == LLM_OK) status = llm_lua_return_string(call, "lost", 4, err); /* the last result counts */
    return status == LLM_OK ? llm_lua_return_json(call, text, bytes, err) : status;
}

static llm_status give(struct llm_lua_call *call, void *user, struct llm_error *err)
{
    const char *what;
    size_t bytes;
    (void)user;
    llm_status status = llm_lua_arg_string(call, 1, &what, &bytes, err);
    if (status != LLM_OK) return status;
    if (!strcmp(what, "nul")) return llm_lua_return_string(call, "a\0b", 3, err);
    if (!strcmp(what, "true")) llm_lua_return_boolean(call, 7);
    if (!strcmp(what, "bad json")) return llm_lua_return_json(call, "[1,", 3, err);
    if (!strcmp(what, "bare code")) return LLM_EFULL; /* without a message */
    return LLM_OK;
}

static void c_functions(void **state)
{
    (void)state;
    struct llm_lua *lua = open_lua();
    struct seen seen = {0};
    struct llm_error err = {LLM_OK, ""};
    assert_int_equal(llm_lua_register(lua, "llm.json", "f", echo, NULL, &err), LLM_EINVAL);
    assert_int_equal(llm_lua_register(lua, "c", "take_all", take_all, &seen, &err), LLM_OK);
    assert_int_equal(llm_lua_register(lua, "c", "echo", echo, NULL, &err), LLM_OK);
    assert_int_equal(llm_lua_register(lua, "c.more", "give", give, NULL, &err), LLM_OK);

    expect(lua, "return require 'c'.take_all('text', 2.5, true, nil)", "4");
    assert_string_equal(seen.text, "text");
    assert_true(seen.number == 2.5 && seen.boolean == 1);
    expect(lua, "return { select(2, require 'c'.take_all(1)) }",
           "[\"argument 1 must be a string; it is a number\",\"EINVAL\"]");
    expect(lua, "return { select(2, require 'c'.take_all('a', 'b')) }",
           "[\"argument 2 must be a number; it is a string\",\"EINVAL\"]");
    expect(lua, "return { select(2, require 'c'.take_all('a', 1)) }",
           "[\"argument 3 must be a boolean; it is missing\",\"EINVAL\"]");
    assert_int_equal(seen.n_calls, 4);

    expect(lua, "local t = require 'c'.echo{ x = { 1, 2 }, y = 'z' } return t.x[2] .. t.y", "\"2z\"");
    expect(lua, "return (select(2, require 'c'.echo(print))):match 'argument 1 cannot be JSON' ~= nil",
           "true");
    expect(lua, "return #require 'c.more'.give 'nul'", "3");
    expect(lua, "return require 'c.more'.give 'true'", "true");
    expect(lua, "return { require 'c.more'.give 'nothing' == nil }", "[true]");
    expect(lua, "return { select(2, require 'c.more'.give 'bare code') }", "[\"queue full\",\"EFULL\"]");
    expect_failure(lua, "require 'c.more'.give 'bad json'", LLM_EFAILED, "result is malformed");
    expect(lua, "local co = coroutine.wrap(function() return require 'c'.echo{ 5 } end) return co()[1]", "5");
    llm_lua_close(lua);
}

/* ---- engines and servers ------------------------------------------------------------------------------- */

static struct llm_engine *open_engine(void)
{
    struct llm_engine *engine = NULL;
    struct llm_engine_options options;
    llm_engine_options_init(&options);
    options.model = "null";
    options.load_format = "null";
    assert_int_equal(llm_engine_open(&options, &engine, NULL), LLM_OK);
    return engine;
}

static void lends_an_engine(void **state)
{
    (void)state;
    static const char text[] = "local engine = require 'llm.host'.engine 'main'\n"
                               "local out = engine:generate({ { 1, 2, 3 } }, { max_tokens = 5, ignore_eos = "
                               "true, detokenize = false })\n"
                               "return #out[1].outputs[1].token_ids";
    struct llm_engine *engine = open_engine();
    for (int i = 0; i < 2; i++) { /* the first state's end leaves it open */
        struct llm_lua *lua = open_lua();
        struct llm_error err = {LLM_OK, ""};
        assert_int_equal(llm_lua_add_engine(lua, "main", engine, &err), LLM_OK);
        assert_int_equal(llm_lua_add_engine(lua, "main", engine, &err), LLM_EINVAL);
        expect(lua, text, "5");
        expect_failure(lua, "local e = require 'llm.host'.engine 'other'", LLM_EFAILED, "no engine 'other'");
        llm_lua_close(lua);
    }
    llm_engine_close(engine);
}

static void *stop_lua(void *lua)
{
    llm_lua_stop(lua);
    return NULL;
}

struct stopper {
    struct llm_lua *lua;
    pthread_t thread;
    int n_ready;
};

static llm_status on_ready(struct llm_lua_call *call, void *user, struct llm_error *err)
{
    struct stopper *stopper = user;
    (void)call;
    stopper->n_ready++;
    if (pthread_create(&stopper->thread, NULL, stop_lua, stopper->lua) != 0)
        return llm_fail(err, LLM_EFAILED, "no thread");
    return LLM_OK;
}

static const char server_text[] =
    "local llm = require 'llm'\n"
    "local server = llm.server{ host = '127.0.0.1', port = 0, workers = WORKERS }\n"
    "server:get('/', function() return 'here' end)\n"
    "server:self_test(function() assert(server:probe('GET', '/').body == 'here') end)\n"
    "server:run(require 'c'.on_ready)\n"
    "return 'ended'";

/* Each state serves until another thread stops it; then it may serve again. */
static void *serve_twice(void *unused)
{
    struct stopper stopper = {.lua = open_lua()};
    (void)unused;
    assert_int_equal(llm_lua_register(stopper.lua, "c", "on_ready", on_ready, &stopper, NULL), LLM_OK);
    for (int i = 0; i < 2; i++) {
        expect(stopper.lua, server_text, "\"ended\"");
        pthread_join(stopper.thread, NULL);
    }
    assert_int_equal(stopper.n_ready, 2);
    llm_lua_close(stopper.lua);
    return NULL;
}

static void serves_until_stopped(void **state)
{
    (void)state;
    serve_twice(NULL);
}

static void states_in_threads(void **state)
{
    (void)state;
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) assert_int_equal(pthread_create(&threads[i], NULL, serve_twice, NULL), 0);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
}

static void has_one_worker(void **state)
{
    (void)state;
    struct stopper stopper = {.lua = open_lua()};
    assert_int_equal(llm_lua_register(stopper.lua, "c", "on_ready", on_ready, &stopper, NULL), LLM_OK);
    expect(stopper.lua, "WORKERS = 2", "null");
    expect_failure(stopper.lua, server_text, LLM_EFAILED, "one worker");
    assert_int_equal(stopper.n_ready, 0);
    llm_lua_close(stopper.lua);
}

static void stopped_before_it_serves(void **state)
{
    (void)state;
    struct llm_lua *lua = open_lua();
    llm_lua_stop(lua);
    expect(lua, "return 1", "1"); /* other scripts do not notice */
    expect(lua,
           "local server = require 'llm'.server{ host = '127.0.0.1', port = 0 }\n"
           "server:run()\n"
           "return 'ended'",
           "\"ended\"");
    llm_lua_close(lua);
}

/* ---- no memory ----------------------------------------------------------------------------------------- */

static llm_status whole_life(struct llm_error *err)
{
    struct llm_lua *lua = NULL;
    struct seen seen = {0};
    const char *result = NULL;
    llm_status status = llm_lua_open(&lua, err);
    if (status != LLM_OK) return status;
    status = llm_lua_register(lua, "c", "echo", echo, &seen, err);
    if (status == LLM_OK) status = run(lua, "return assert(require 'c'.echo{ 1 })", &result, err);
    if (status == LLM_OK) assert_string_equal(result, "[1]");
    if (status == LLM_EFAILED) assert_non_null(strstr(err->message, "memory")); /* the script's assert */
    llm_lua_close(lua);
    return status;
}

static void every_allocation_fails_once(void **state)
{
    (void)state;
    int failures = 0;
    for (uint64_t n = 1;; n++) {
        struct llm_error err = {LLM_OK, ""};
        mem_fail_at(n);
        llm_status status = whole_life(&err);
        mem_fail_at(0);
        if (status == LLM_OK) break;
        assert_true(status == LLM_ENOMEM || status == LLM_EFAILED);
        failures++;
    }
    assert_true(failures >= 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_and_failures),
        cmocka_unit_test(files),
        cmocka_unit_test(c_functions),
        cmocka_unit_test(lends_an_engine),
        cmocka_unit_test(serves_until_stopped),
        cmocka_unit_test(states_in_threads),
        cmocka_unit_test(has_one_worker),
        cmocka_unit_test(stopped_before_it_serves),
        cmocka_unit_test(every_allocation_fails_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
