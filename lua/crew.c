#define _GNU_SOURCE
#include "crew.h"

#include "base/mem.h"
#include "state.h"

#include <lauxlib.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* ---- messages ------------------------------------------------------------------------------------------ */

static struct crew_message *message_new(int from, int ended, const char *text, size_t bytes)
{
    struct crew_message *m = mem_alloc(sizeof *m + bytes + 1);
    if (!m) return NULL;
    *m = (struct crew_message){.from = from, .ended = ended, .bytes = bytes};
    memcpy(m->text, text, bytes);
    m->text[bytes] = 0;
    return m;
}

llm_status crew_post(struct crew_member *from, int to, const char *text, size_t bytes)
{
    struct crew_message *m = message_new(from->number, 0, text, bytes);
    if (!m) return LLM_ENOMEM;
    mailbox_post(&from->crew->members[to - 1].box, &m->mail); /* boxes live as long as the crew */
    return LLM_OK;
}

struct crew_message *crew_take(struct crew_member *member)
{
    if (!member->letters) {
        mailbox_clear(&member->box);
        member->letters = (struct crew_message *)mailbox_take(&member->box);
    }
    struct crew_message *m = member->letters;
    if (m) member->letters = (struct crew_message *)m->mail.next;
    return m;
}

void crew_stop(struct crew *crew)
{
    for (int i = 2; i <= crew->n; i++) crew_post(&crew->members[0], i, "stop", 4);
}

/* ---- a member's life ----------------------------------------------------------------------------------- */

static void set_stage(struct crew_member *m, int stage)
{
    pthread_mutex_lock(&m->crew->lock);
    m->stage = stage;
    pthread_cond_broadcast(&m->crew->moved);
    pthread_mutex_unlock(&m->crew->lock);
}

void crew_ready(struct crew_member *member)
{
    if (member->number > 1) set_stage(member, CREW_READY);
}

static void set_arg(lua_State *L, const struct crew *crew)
{
    lua_createtable(L, crew->n_words, 1);
    for (int i = 0; i < crew->n_words; i++) {
        lua_pushstring(L, crew->words[i]);
        lua_rawseti(L, -2, i);
    }
    lua_setglobal(L, "arg");
}

/* As the program runs its script: (member) in a protected call. */
static int run_script(lua_State *L)
{
    const struct crew_member *m = lua_touserdata(L, 1);
    const struct crew *crew = m->crew;
    set_arg(L, crew);
    if (state_load_script(L, crew->words[0]) != 0) return lua_error(L);
    luaL_checkstack(L, crew->n_words, "too many arguments");
    for (int i = 1; i < crew->n_words; i++) lua_pushstring(L, crew->words[i]);
    lua_call(L, crew->n_words - 1, 0);
    return 0;
}

/* The message of the error on top of the stack; null if it is an exit object without one. */
static char *error_text(lua_State *L)
{
    if (lua_istable(L, -1)) lua_getfield(L, -1, "message");
    const char *text = lua_tostring(L, -1);
    return text ? mem_strdup(text) : NULL;
}

static void *member_main(void *arg)
{
    struct crew_member *m = arg;
    lua_State *L = state_open();
    if (!L) {
        m->error = mem_strdup("no memory for a Lua state");
    } else {
        lua_pushlightuserdata(L, m);
        lua_setfield(L, LUA_REGISTRYINDEX, CREW_MEMBER);
        lua_pushcfunction(L, run_script);
        lua_pushlightuserdata(L, m);
        if (state_call(L, 1, 0) != 0) m->error = error_text(L);
        lua_close(L);
    }
    struct crew_message *m_end =
        message_new(0, m->number, m->error ? m->error : "", m->error ? strlen(m->error) : 0);
    if (m_end) mailbox_post(&m->crew->members[0].box, &m_end->mail);
    set_stage(m, CREW_ENDED);
    return NULL;
}

/* ---- the crew ------------------------------------------------------------------------------------------ */

static void free_crew(struct crew *crew)
{
    for (int i = 0; i < crew->n; i++) {
        struct crew_member *m = &crew->members[i];
        struct crew_message *letter;
        while (m->box.fd >= 0 && (letter = crew_take(m))) mem_free(letter);
        mailbox_deinit(&m->box);
        mem_free(m->error);
    }
    for (int i = 0; i < crew->n_engines; i++) mem_free(crew->engines[i].key);
    for (int i = 0; i < crew->n_words; i++) mem_free(crew->words[i]);
    mem_free(crew->engines);
    mem_free(crew->words);
    pthread_cond_destroy(&crew->moved);
    pthread_mutex_destroy(&crew->lock);
    mem_free(crew);
}

void crew_join(struct crew *crew)
{
    for (int i = 1; i <= crew->n_threads; i++) pthread_join(crew->members[i].thread, NULL);
    free_crew(crew);
}

static llm_status copy_plan(struct crew *crew, const struct crew_plan *plan, struct llm_error *err)
{
    crew->words = mem_array((size_t)plan->n_words, sizeof *crew->words);
    crew->engines = mem_array((size_t)plan->n_engines + 1, sizeof *crew->engines);
    int fine = crew->words && crew->engines;
    for (int i = 0; fine && i < plan->n_words; i++)
        fine = (crew->words[crew->n_words++] = mem_strdup(plan->words[i])) != NULL;
    for (int i = 0; fine && i < plan->n_engines; i++) {
        crew->engines[i].engine = plan->engines[i].engine;
        fine = (crew->engines[crew->n_engines++].key = mem_strdup(plan->engines[i].key)) != NULL;
    }
    return fine ? LLM_OK : llm_fail(err, LLM_ENOMEM, "no memory for workers");
}

static llm_status open_crew(const struct crew_plan *plan, struct crew **out, struct llm_error *err)
{
    struct crew *crew = mem_zalloc(sizeof *crew);
    if (!crew) return llm_fail(err, LLM_ENOMEM, "no memory for workers");
    pthread_mutex_init(&crew->lock, NULL);
    pthread_cond_init(&crew->moved, NULL);
    crew->n = plan->n;
    crew->port = plan->port;
    for (int i = 0; i < crew->n; i++)
        crew->members[i] = (struct crew_member){.crew = crew, .number = i + 1, .box.fd = -1};
    llm_status status = copy_plan(crew, plan, err);
    for (int i = 0; i < crew->n && !status; i++) status = mailbox_init(&crew->members[i].box, err);
    if (status)
        free_crew(crew);
    else
        *out = crew;
    return status;
}

/* What ends or reloads a server is sent to the process and member 1's to take: it tells the others. All else
 * (the watchdog's signal, faults) is each thread's own. */
static llm_status start_threads(struct crew *crew, struct llm_error *err)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT};
    sigset_t set, before;
    int code = 0;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaddset(&set, numbers[i]);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    while (!code && crew->n_threads < crew->n - 1) {
        struct crew_member *m = &crew->members[crew->n_threads + 1];
        code = pthread_create(&m->thread, NULL, member_main, m);
        if (!code) crew->n_threads++;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return code ? llm_fail(err, LLM_ENOMEM, "cannot start worker %d: %s", crew->n_threads + 2, strerror(code))
                : LLM_OK;
}

static llm_status await_ready(struct crew *crew, struct llm_error *err)
{
    llm_status status = LLM_OK;
    pthread_mutex_lock(&crew->lock);
    for (int i = 1; i < crew->n && !status; i++) {
        struct crew_member *m = &crew->members[i];
        while (m->stage == CREW_STARTING) pthread_cond_wait(&crew->moved, &crew->lock);
        if (m->stage == CREW_ENDED)
            status = llm_fail(err, LLM_EFAILED, "worker %d: %s", m->number,
                              m->error ? m->error : "the script has ended before it served");
    }
    pthread_mutex_unlock(&crew->lock);
    return status;
}

llm_status crew_start(const struct crew_plan *plan, struct crew **out, struct llm_error *err)
{
    struct crew *crew = NULL;
    llm_status status = open_crew(plan, &crew, err);
    if (!crew) return status;
    status = start_threads(crew, err);
    if (!status) status = await_ready(crew, err);
    if (status) {
        crew_stop(crew);
        crew_join(crew);
        return status;
    }
    *out = crew;
    return LLM_OK;
}

struct llm_engine *crew_find_engine(const struct crew *crew, const char *key)
{
    for (int i = 0; i < crew->n_engines; i++)
        if (!strcmp(crew->engines[i].key, key)) return crew->engines[i].engine;
    return NULL;
}
