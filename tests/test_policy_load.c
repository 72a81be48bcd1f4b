/* Policies that are loaded while an engine serves: which of several serves in the end, and that the event
 * loop of a Lua state goes on while a device, which this test imitates, compiles a graph for as long as a
 * latch is shut. */

#define _GNU_SOURCE
#include "base/mem.h"
#include "engine/engine.h"

#include "api.h"
#include "policy_loader.h"
#include "state.h"

#include <lauxlib.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "fake_model.inc.c"

enum { VOCAB = 97, PAGE = 16, N_PAGES = 256 };

/* ---- a device that compiles while its latch is open ---------------------------------------------------- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int shut, n_waiting; /* threads in the compiler */
    int n_compiled, n_open;
    llm_status answer;
} latch = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static void set_latch(int shut)
{
    pthread_mutex_lock(&latch.lock);
    latch.shut = shut;
    pthread_cond_broadcast(&latch.moved);
    pthread_mutex_unlock(&latch.lock);
}

static void await_compiler(void)
{
    pthread_mutex_lock(&latch.lock);
    while (!latch.n_waiting) pthread_cond_wait(&latch.moved, &latch.lock);
    pthread_mutex_unlock(&latch.lock);
}

static llm_status slow_compile(void *self, const struct graph *g, struct device_graph **out,
                               struct llm_error *err)
{
    (void)self;
    (void)g;
    pthread_mutex_lock(&latch.lock);
    latch.n_waiting++;
    pthread_cond_broadcast(&latch.moved);
    while (latch.shut) pthread_cond_wait(&latch.moved, &latch.lock);
    latch.n_waiting--;
    latch.n_compiled++;
    llm_status status = latch.answer;
    if (!status) latch.n_open++;
    pthread_mutex_unlock(&latch.lock);
    if (status) return llm_fail(err, status, "the device has had enough");
    *out = mem_alloc(1); /* the host runs it all the same: there are no seats */
    return LLM_OK;
}

static void close_compiled(void *self, struct device_graph *g)
{
    (void)self;
    pthread_mutex_lock(&latch.lock);
    latch.n_open--;
    pthread_mutex_unlock(&latch.lock);
    mem_free(g);
}

static struct llm_engine *start(void)
{
    struct engine_config config = {.max_model_len = 512,
                                   .max_num_seqs = 64,
                                   .max_num_batched_tokens = 128,
                                   .block_size = PAGE,
                                   .n_pages = N_PAGES,
                                   .chunked_prefill = 1,
                                   .max_logprobs = 20};
    struct engine_model table = fake_model_table(fake_model_new(VOCAB, PAGE, N_PAGES, 128));
    table.graphs = (struct graph_device){.compile = slow_compile, .close = close_compiled};
    struct llm_engine *e = NULL;
    assert_int_equal(engine_start(&config, &table, &e, NULL), LLM_OK);
    e->info.vocab_size = VOCAB;
    e->info.max_model_len = 512;
    latch.n_compiled = 0;
    return e;
}

/* ---- in C: several of one name ------------------------------------------------------------------------- */

struct version {
    struct graph *graph;
    int n_closed;
    uint64_t asked;
    struct llm_engine *engine;
    llm_status status;
    int32_t generation;
    struct llm_error err;
};

static void close_version(void *self)
{
    ((struct version *)self)->n_closed++;
}

static llm_status begin_version(void *self, struct llm_policy_run *run, struct llm_error *err)
{
    (void)self;
    (void)run;
    (void)err;
    return LLM_OK;
}

static void *add_version(void *arg)
{
    struct version *v = arg;
    const struct llm_policy table = {.name = "which",
                                     .self = v,
                                     .graph = v->graph,
                                     .asked = v->asked,
                                     .begin = begin_version,
                                     .close = close_version};
    v->status = llm_policy_add(v->engine, &table, &v->generation, &v->err);
    return NULL;
}

static struct graph *a_graph(void)
{
    static const char text[] = "graph 1\n%0 row = logits\n%1 num = row_argmax %0\nresult token %1\n";
    struct graph *g = NULL;
    assert_int_equal(graph_parse(text, sizeof text - 1, &g, NULL), LLM_OK);
    return g;
}

static int32_t active_generation(struct llm_engine *e)
{
    struct llm_policy_info infos[16];
    size_t n = llm_policy_list(e, infos, 16);
    for (size_t i = 0; i < n; i++)
        if (infos[i].active) return infos[i].generation;
    return 0;
}

/* The first is in the compiler while others are decided on, and ready after them. */
static void what_was_asked_for_last_serves(void **state)
{
    (void)state;
    struct llm_engine *e = start();
    struct version slow = {.graph = a_graph(), .engine = e}, quick = {.engine = e}, later = {.engine = e};
    pthread_t thread;
    int32_t generation;
    set_latch(1);
    assert_int_equal(pthread_create(&thread, NULL, add_version, &slow), 0);
    await_compiler();
    add_version(&quick);
    assert_int_equal(active_generation(e), quick.generation);
    set_latch(0);
    pthread_join(thread, NULL);
    assert_int_equal(slow.status, LLM_OK);
    assert_int_equal(slow.generation, 2);
    assert_int_equal(active_generation(e), quick.generation);
    assert_int_equal(llm_policy_rollback(e, "which", &generation, NULL), LLM_OK);
    assert_int_equal(generation, slow.generation);
    add_version(&later);
    assert_int_equal(active_generation(e), later.generation);
    llm_engine_close(e);
    assert_int_equal(slow.n_closed + quick.n_closed + later.n_closed, 3);
    assert_int_equal(latch.n_open, 0);
    graph_free(slow.graph);
}

static void a_rollback_or_removal_meanwhile_stands(void **state)
{
    (void)state;
    struct llm_engine *e = start();
    struct version v[5] = {{.engine = e}, {.engine = e}, {.engine = e}, {.engine = e}, {.engine = e}};
    int32_t generation;
    add_version(&v[0]);
    add_version(&v[1]);
    v[2].asked = llm_policy_ask(e);
    assert_int_equal(llm_policy_rollback(e, "which", &generation, NULL), LLM_OK);
    add_version(&v[2]);
    assert_int_equal(v[2].status, LLM_OK);
    assert_int_equal(active_generation(e), v[0].generation);
    v[3].asked = llm_policy_ask(e);
    v[4].asked = llm_policy_ask(e);
    assert_int_equal(llm_policy_remove(e, "which", NULL), LLM_OK);
    add_version(&v[3]);
    assert_int_equal(v[3].status, LLM_ECANCELED);
    assert_string_equal(v[3].err.message, "policy which was removed while it was being loaded");
    assert_false(llm_policy_exists(e, "which"));
    assert_int_equal(v[3].n_closed, 0); /* it is not the engine's */
    v[4].asked = 0;
    add_version(&v[4]);
    assert_int_equal(active_generation(e), v[4].generation);
    llm_engine_close(e);
    for (int i = 0; i < 5; i++) assert_int_equal(v[i].n_closed, i != 3);
}

/* One that is ready after so many later ones that nobody could go back to it is gone at once. */
static void one_overtaken_often_is_not_kept(void **state)
{
    (void)state;
    struct llm_engine *e = start();
    struct version late = {.engine = e}, v[4] = {{.engine = e}, {.engine = e}, {.engine = e}, {.engine = e}};
    late.asked = llm_policy_ask(e);
    for (int i = 0; i < 4; i++) add_version(&v[i]);
    add_version(&late);
    assert_int_equal(late.status, LLM_OK);
    assert_int_equal(late.generation, 5);
    assert_int_equal(late.n_closed, 1);
    assert_int_equal(active_generation(e), 4);
    llm_engine_close(e);
}

static void what_does_not_compile_changes_nothing(void **state)
{
    (void)state;
    struct llm_engine *e = start();
    struct version first = {.engine = e}, bad = {.graph = a_graph(), .engine = e};
    add_version(&first);
    latch.answer = LLM_ENOMEM;
    add_version(&bad);
    latch.answer = LLM_OK;
    assert_int_equal(bad.status, LLM_ENOMEM);
    assert_string_equal(bad.err.message, "policy which: the device has had enough");
    assert_int_equal(active_generation(e), first.generation);
    llm_engine_close(e);
    assert_int_equal(bad.n_closed, 0);
    graph_free(bad.graph);
}

/* ---- in Lua: the event loop ---------------------------------------------------------------------------- */

/* latch(shut) -> threads in the compiler, compiled so far. */
static int lua_latch(lua_State *L)
{
    if (!lua_isnoneornil(L, 1)) set_latch(lua_toboolean(L, 1));
    pthread_mutex_lock(&latch.lock);
    lua_pushinteger(L, latch.n_waiting);
    lua_pushinteger(L, latch.n_compiled);
    pthread_mutex_unlock(&latch.lock);
    return 2;
}

static void set_answer(const char *name)
{
    pthread_mutex_lock(&latch.lock);
    latch.answer = strcmp(name, "ENOMEM") == 0 ? LLM_ENOMEM : LLM_OK;
    pthread_mutex_unlock(&latch.lock);
}

static int lua_answer(lua_State *L)
{
    set_answer(luaL_checkstring(L, 1));
    return 0;
}

static const char prelude[] =
    "local llm, tasks = require 'llm', require 'llm.task'\n"
    "local Engine = require('llm.engine').Engine\n"
    "local engine = setmetatable({ handle = handle, model = 'fake',\n"
    "  inboxes = setmetatable({}, { __mode = 'k' }) }, Engine)\n"
    "local best = [[local p = require 'llm'.policy 'which'\n"
    "  function p.graph(g, x) return g.argmax(x) end return p]]\n"
    "local second = [[local p = require 'llm'.policy 'which'\n"
    "  function p.graph(g, x) return g.argmax(g.where(g.eq(x, g.max(x)), -math.huge, x)) end return p]]\n"
    "local PROMPT = { 5, 9, 2, 44, 61 }\n"
    "local function stream(n)\n"
    "  return engine:stream(PROMPT, { temperature = 0, max_tokens = n or 8, policy = 'which' })\n"
    "end\n"
    "local function ids(deltas)\n"
    "  local all = {}\n"
    "  for delta in deltas or stream() do for _, id in ipairs(delta.token_ids) do all[#all + 1] = id end "
    "end\n"
    "  return table.concat(all, ' ')\n"
    "end\n"
    "local function active()\n"
    "  for _, info in ipairs(engine:policies()) do "
    "if info.active and info.name == 'which' then return info.generation end end\n"
    "end\n"
    "local function await(f) while not f() do tasks.sleep(0.001) end end\n"
    "local function in_compiler() return (latch()) > 0 end\n"
    /* load(name, text) -> what came of it, in the end: {ok, name or message, generation} */
    "local function load(name, text)\n"
    "  local result = {}\n"
    "  result.task = tasks.spawn(function()\n"
    "    local out = { pcall(engine.load_policy, engine, name, text, { load_seconds = 60 }) }\n"
    "    for i = 1, 3 do result[i] = out[i] end\n"
    "    result.over = true\n"
    "  end)\n"
    "  return result\n"
    "end\n";

/* The prelude, then the body between `before` and `after`. */
static void run_lua(struct llm_engine *e, const char *before, const char *body, const char *after)
{
    lua_State *L = state_open();
    assert_non_null(L);
    lua_getglobal(L, "require");
    lua_pushliteral(L, "llm"); /* llm.core makes the type of handles */
    lua_call(L, 1, 0);
    assert_int_equal(api_push_shared_engine(L, e), 1);
    lua_setglobal(L, "handle");
    lua_register(L, "latch", lua_latch);
    lua_register(L, "answer", lua_answer);
    lua_pushfstring(L, "%s%s%s%s", prelude, before, body, after);
    if (luaL_loadstring(L, lua_tostring(L, -1)) || state_call(L, 0, 0)) {
        set_latch(0);
        fail_msg("%s", lua_tostring(L, -1));
    }
    lua_close(L);
    set_latch(0);
    llm_engine_close(e);
    assert_int_equal(latch.n_open, 0);
}

static void in_a_task(const char *body)
{
    run_lua(start(), "tasks.run(function()\n", body, "\nend) engine:close()");
}

static void a_compile_holds_up_nobody(void **state)
{
    (void)state;
    in_a_task("engine:load_policy('which', best)\n"
              "local want_best = ids()\n"
              "latch(true)\n"
              "local new = load('which', second)\n"
              "await(in_compiler)\n"
              "local old = stream(200)\n"
              "local first = old:next()\n"
              "for _ = 1, 3 do assert(ids() == want_best) end\n" /* the loop turns, requests are answered */
              "assert(not new.over and in_compiler() and active() == 1)\n"
              "latch(false)\n"
              "await(function() return new.over end)\n"
              "assert(new[1], new[2])\n"
              "assert(new[2] == 'which' and new[3] == 2 and active() == 2)\n"
              "assert(ids() ~= want_best)\n"
              /* who began with the old version ends with it */
              "local rest = {}\n"
              "for _, id in ipairs(first.token_ids) do rest[#rest + 1] = id end\n"
              "for delta in old do for _, id in ipairs(delta.token_ids) do rest[#rest + 1] = id end end\n"
              "assert(#rest == 200 and table.concat(rest, ' ', 1, 8) == want_best)\n"
              "assert(engine:rollback_policy 'which' == 1)\n"
              "assert(ids(stream(200)) == table.concat(rest, ' '))\n");
}

static void loads_end_in_the_order_they_were_asked_for(void **state)
{
    (void)state;
    in_a_task("latch(true)\n"
              "local loads = {}\n"
              "for i = 1, 5 do loads[i] = load('which', i % 2 == 0 and best or second) end\n"
              "local other = load('other', (best:gsub('which', 'other')))\n"
              "await(in_compiler)\n"
              "assert(not engine.handle:has_policy 'which')\n"
              "latch(false)\n"
              "await(function() return other.over end)\n"
              "for i, one in ipairs(loads) do assert(one[1] and one[3] == i, one[2]) end\n"
              "assert(active() == 5 and engine.handle:has_policy 'other')\n");
}

static void a_removal_meanwhile_ends_a_load(void **state)
{
    (void)state;
    in_a_task("engine:load_policy('which', best)\n"
              "latch(true)\n"
              "local new = load('which', second)\n"
              "await(in_compiler)\n"
              "engine:remove_policy 'which'\n"
              "latch(false)\n"
              "await(function() return new.over end)\n"
              "assert(new[1] == false and new[2]:find('policy which was removed while it was being loaded', "
              "1, true))\n"
              "assert(not engine.handle:has_policy 'which')\n");
}

static void failures_reach_who_asked_or_the_log(void **state)
{
    (void)state;
    in_a_task("engine:load_policy('which', best)\n"
              "answer 'ENOMEM'\n"
              "local ok, message = pcall(engine.load_policy, engine, 'which', second)\n"
              "assert(not ok and message:find('the device has had enough', 1, true) and active() == 1)\n"
              "local stderr, lines = io.stderr, {}\n"
              "io.stderr = { write = function(_, text) lines[#lines + 1] = text end }\n"
              "latch(true)\n"
              "local lost = load('which', second)\n"
              "await(in_compiler)\n"
              "tasks.cancel(lost.task, 'left')\n"
              "assert(lost.over and tostring(lost[2]) == 'canceled: left')\n"
              "latch(false)\n"
              "await(function() return #lines > 0 end)\n"
              "io.stderr = stderr\n"
              "assert(lines[1]:find('policy which: the device has had enough', 1, true), lines[1])\n"
              "answer 'OK'\n"
              /* given up, but seen through */
              "latch(true)\n"
              "lost = load('which', second)\n"
              "await(in_compiler)\n"
              "tasks.cancel(lost.task, 'left')\n"
              "latch(false)\n"
              "await(function() return active() == 2 end)\n");
}

static void an_engine_may_be_closed_meanwhile(void **state)
{
    (void)state;
    in_a_task("latch(true)\n"
              "local one, two = load('which', best), load('which', second)\n"
              "await(in_compiler)\n"
              "latch(false)\n"
              "engine:close()\n"
              "await(function() return one.over and two.over end)\n"
              "for _, load in ipairs { one, two } do\n"
              "  assert(load[1] == false and tostring(load[2]):find 'closed', load[2])\n"
              "end\n");
}

/* Requests that name a policy which is not there yet: one load, for all of them. */
static void requests_wait_for_one_load(void **state)
{
    (void)state;
    in_a_task("local directory = os.tmpname()\n"
              "os.remove(directory)\n"
              "assert(os.execute('mkdir ' .. directory) == 0)\n"
              "local file = io.open(directory .. '/which.lua', 'w')\n"
              "file:write(best)\n"
              "file:close()\n"
              "require('llm.policy').know_directory(engine, directory)\n"
              "latch(true)\n"
              "local answers, n = {}, 0\n"
              "for i = 1, 6 do\n"
              "  tasks.spawn(function() answers[i] = ids() n = n + 1 end)\n"
              "end\n"
              "await(in_compiler)\n"
              "assert(n == 0)\n"
              "latch(false)\n"
              "await(function() return n == 6 end)\n"
              "os.execute('rm -r ' .. directory)\n"
              "local _, n_compiled = latch()\n"
              "assert(n_compiled == 1 and active() == 1)\n"
              "for i = 1, 6 do assert(answers[i] == answers[1] and #answers[i] > 0) end\n");
}

/* A file that several look at: one load of each text, and in the end the last text serves. */
static void a_file_is_loaded_once_for_each_text(void **state)
{
    (void)state;
    in_a_task("local policies, path = require 'llm.policy', os.tmpname()\n"
              "local function write(text)\n"
              "  local file = io.open(path, 'w')\n"
              "  file:write(text)\n"
              "  file:close()\n"
              "end\n"
              "local results, n = {}, 0\n"
              "local function look()\n"
              "  tasks.spawn(function()\n"
              "    local ok, failure = policies.reload_file(engine, path)\n"
              "    results[#results + 1] = ok or failure.message\n"
              "    n = n + 1\n"
              "  end)\n"
              "end\n"
              "latch(true)\n"
              "write(best)\n"
              "look() look()\n"
              "await(in_compiler)\n"
              "write(second)\n"
              "look() look()\n"
              "assert(n == 0)\n"
              "latch(false)\n"
              "await(function() return n == 4 end)\n"
              "os.remove(path)\n"
              "for i = 1, 4 do assert(results[i] == true, results[i]) end\n"
              "local _, n_compiled = latch()\n"
              "assert(n_compiled == 2 and active() == 2)\n"
              "local of_file = ids()\n"
              "engine:load_policy('which', second)\n"
              "assert(ids() == of_file)\n");
}

/* Outside of the event loop a load blocks, as anything else does there. */
static void a_plain_script_waits(void **state)
{
    (void)state;
    run_lua(start(), "",
            "local name, generation = engine:load_policy('which', best)\n"
            "assert(name == 'which' and generation == 1)\n"
            "local want = ids()\n"
            "name, generation = engine:load_policy('which', second)\n"
            "assert(generation == 2 and ids() ~= want)\n",
            "engine:close()");
}

static void without_memory_a_load_is_refused(void **state)
{
    (void)state;
    struct llm_engine *e = start();
    struct policy_loader *loader = NULL;
    struct policy_load load = {.chunk_name = "=which", .text = "", .limits.memory = 64 << 20};
    uint64_t number = 0;
    mem_fail_at(1);
    assert_int_equal(policy_loader_open(e, &loader, NULL), LLM_ENOMEM);
    mem_fail_at(0);
    assert_null(loader);
    assert_int_equal(policy_loader_open(e, &loader, NULL), LLM_OK);
    mem_fail_at(1);
    assert_int_equal(policy_loader_ask(loader, &load, &number, NULL), LLM_ENOMEM);
    mem_fail_at(0);
    assert_null(policy_loader_take(loader));
    assert_int_equal(policy_loader_ask(loader, &load, &number, NULL), LLM_OK);
    const struct policy_load *loaded = NULL;
    while (!(loaded = policy_loader_take(loader))) sched_yield();
    assert_int_equal(loaded->asked, number);
    assert_int_equal(loaded->err.status, LLM_EINVAL);
    policy_loader_close(loader);
    llm_engine_close(e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_asked_for_last_serves),
        cmocka_unit_test(a_rollback_or_removal_meanwhile_stands),
        cmocka_unit_test(one_overtaken_often_is_not_kept),
        cmocka_unit_test(what_does_not_compile_changes_nothing),
        cmocka_unit_test(a_compile_holds_up_nobody),
        cmocka_unit_test(loads_end_in_the_order_they_were_asked_for),
        cmocka_unit_test(a_removal_meanwhile_ends_a_load),
        cmocka_unit_test(failures_reach_who_asked_or_the_log),
        cmocka_unit_test(an_engine_may_be_closed_meanwhile),
        cmocka_unit_test(requests_wait_for_one_load),
        cmocka_unit_test(a_file_is_loaded_once_for_each_text),
        cmocka_unit_test(a_plain_script_waits),
        cmocka_unit_test(without_memory_a_load_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
