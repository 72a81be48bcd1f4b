/* The book of policies, and chains: who holds which generation, and their beginnings and ends. */

#include "engine/policy.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>

/* Generations of a name that can serve again, the active one among them. */
enum { KEEP = 4 };

void policy_book_init(struct policy_book *b, const struct graph_device *device)
{
    *b = (struct policy_book){0};
    if (device) b->device = *device;
    pthread_mutex_init(&b->lock, NULL);
}

/* ---- generations --------------------------------------------------------------------------------------- */

/* The policies that nobody uses any more leave their shelf, as a list. Under the lock. */
static struct policy *take_unused(struct policy_shelf *s)
{
    struct policy *unused = NULL;
    for (struct policy **at = &s->policies; *at;) {
        struct policy *p = *at;
        if (p->kept || p->n_users) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        s->n_policies--;
        p->next = unused;
        unused = p;
    }
    return unused;
}

/* Without the lock: closing a script's state takes its time. */
static void close_all(const struct policy_book *b, struct policy *list)
{
    for (struct policy *p = list, *next; p; p = next) {
        next = p->next;
        if (p->compiled) b->device.close(b->device.self, p->compiled);
        if (p->table.close) p->table.close(p->table.self);
        mem_free(p);
    }
}

void policy_book_deinit(struct policy_book *b)
{
    for (struct policy_shelf *s = b->shelves, *next; s; s = next) {
        next = s->next;
        close_all(b, s->policies);
        mem_free(s);
    }
    pthread_mutex_destroy(&b->lock);
}

static struct policy_shelf *find(struct policy_book *b, const char *name)
{
    struct policy_shelf *s = b->shelves;
    while (s && strcmp(s->name, name)) s = s->next;
    return s;
}

/* Keeps the newest that were active, and the active one. */
static void keep_few(struct policy_shelf *s)
{
    int32_t n = 0;
    for (struct policy *p = s->policies; p; p = p->next)
        if (p->kept && ++n > KEEP && p != s->active) p->kept = 0;
}

static llm_status check_table(const struct llm_policy *t, struct llm_error *err)
{
    size_t n = t->name ? strlen(t->name) : 0;
    if (n == 0 || n >= sizeof((struct policy_shelf *)0)->name)
        return llm_fail(err, LLM_EINVAL, "the name of a policy must have 1 to 63 bytes; it has %zu", n);
    if (t->max_candidates < 0 || t->max_candidates > LLM_MAX_CANDIDATES)
        return llm_fail(err, LLM_EINVAL, "policy %s: max_candidates is %d; it must be 1 to %d, or 0 for %d",
                        t->name, t->max_candidates, LLM_MAX_CANDIDATES, LLM_MAX_CANDIDATES);
    if (!t->logits && !t->candidates && !t->graph && !t->begin)
        return llm_fail(err, LLM_EINVAL, "policy %s has no hook: give it logits, candidates or a graph",
                        t->name);
    return LLM_OK;
}

/* To its place among those of its name: it was asked for at p->asked, and may have been overtaken since. */
static void insert(struct policy_shelf *s, struct policy *p)
{
    struct policy **at = &s->policies;
    while (*at && (*at)->asked > p->asked) at = &(*at)->next;
    p->next = *at;
    *at = p;
    p->shelf = s;
    p->kept = 1;
    p->generation = ++s->n_made;
    s->n_policies++;
    if (p->asked < s->decided) return;
    s->active = p;
    s->decided = p->asked;
}

static llm_status shelve(struct policy_book *b, struct policy *p, const char *name, struct llm_error *err)
{
    struct policy_shelf *s = find(b, name);
    if (!s) {
        s = mem_zalloc(sizeof *s);
        if (!s) return llm_fail(err, LLM_ENOMEM, "no memory for policy %s", name);
        snprintf(s->name, sizeof s->name, "%s", name);
        s->next = b->shelves;
        b->shelves = s;
    }
    if (p->asked < s->removed)
        return llm_fail(err, LLM_ECANCELED, "policy %s was removed while it was being loaded", name);
    if (s->n_policies >= LLM_MAX_POLICY_GENERATIONS + KEEP)
        return llm_fail(err, LLM_EFULL,
                        "requests still use %d former generations of policy %s: try again when some of them "
                        "have ended",
                        s->n_policies - 1, name);
    p->table.name = s->name;
    insert(s, p);
    keep_few(s);
    return LLM_OK;
}

/* For the device, before anybody can ask for it. What the device cannot run, the host does. */
static llm_status compile(const struct policy_book *b, struct policy *p, struct llm_error *out)
{
    struct llm_error own, *err = out ? out : &own;
    if (!p->table.graph || !b->device.compile) return LLM_OK;
    llm_status status = b->device.compile(b->device.self, p->table.graph, &p->compiled, err);
    if (status == LLM_EUNSUP) {
        snprintf(p->on_host, sizeof p->on_host, "%.*s", (int)sizeof p->on_host - 1, err->message);
        return LLM_OK;
    }
    return status ? llm_fail_in(err, "policy %s", p->table.name) : LLM_OK;
}

uint64_t policy_book_ask(struct policy_book *b)
{
    pthread_mutex_lock(&b->lock);
    uint64_t asked = ++b->n_asked;
    pthread_mutex_unlock(&b->lock);
    return asked;
}

llm_status policy_book_add(struct policy_book *b, const struct llm_policy *table, int32_t *generation,
                           struct llm_error *err)
{
    llm_status status = check_table(table, err);
    if (status) return status;
    struct policy *p = mem_zalloc(sizeof *p), *unused = NULL;
    if (!p) return llm_fail(err, LLM_ENOMEM, "no memory for policy %s", table->name);
    p->table = *table;
    if (!p->table.max_candidates) p->table.max_candidates = LLM_MAX_CANDIDATES;
    p->asked = table->asked ? table->asked : policy_book_ask(b);
    status = compile(b, p, err);
    pthread_mutex_lock(&b->lock);
    if (!status) status = shelve(b, p, table->name, err);
    if (!status) {
        *generation = p->generation;
        unused = take_unused(p->shelf); /* itself perhaps, if it has been overtaken often */
    }
    pthread_mutex_unlock(&b->lock);
    close_all(b, unused);
    if (!status) return LLM_OK;
    if (p->compiled) b->device.close(b->device.self, p->compiled);
    mem_free(p);
    return status;
}

static struct policy *previous(struct policy_shelf *s)
{
    struct policy *p = s && s->active ? s->active->next : NULL;
    while (p && !p->kept) p = p->next;
    return p;
}

llm_status policy_book_rollback(struct policy_book *b, const char *name, int32_t *generation,
                                struct llm_error *err)
{
    pthread_mutex_lock(&b->lock);
    struct policy_shelf *s = find(b, name);
    struct policy *p = previous(s);
    if (p) {
        s->active = p;
        s->decided = ++b->n_asked;
        *generation = p->generation;
    }
    pthread_mutex_unlock(&b->lock);
    if (p) return LLM_OK;
    return llm_fail(err, LLM_ENOENT, "policy %s has no earlier generation", name);
}

llm_status policy_book_remove(struct policy_book *b, const char *name, struct llm_error *err)
{
    struct policy *unused = NULL;
    pthread_mutex_lock(&b->lock);
    struct policy_shelf *s = find(b, name);
    int there = s && s->active;
    if (there) {
        s->active = NULL;
        s->decided = s->removed = ++b->n_asked;
        for (struct policy *p = s->policies; p; p = p->next) p->kept = 0;
        unused = take_unused(s);
    }
    pthread_mutex_unlock(&b->lock);
    close_all(b, unused);
    return there ? LLM_OK : llm_fail(err, LLM_ENOENT, "there is no policy %s", name);
}

int policy_book_has(struct policy_book *b, const char *name)
{
    pthread_mutex_lock(&b->lock);
    const struct policy_shelf *s = find(b, name);
    int has = s && s->active;
    pthread_mutex_unlock(&b->lock);
    return has;
}

static struct llm_policy_info describe(const struct policy_shelf *s, struct policy *p)
{
    struct llm_policy_info i = {.generation = p->generation,
                                .active = p == s->active,
                                .n_users = p->n_users,
                                .n_requests = atomic_load_explicit(&p->n_requests, memory_order_relaxed),
                                .n_calls = atomic_load_explicit(&p->n_calls, memory_order_relaxed),
                                .n_failures = atomic_load_explicit(&p->n_failures, memory_order_relaxed),
                                .seconds = (double)atomic_load_explicit(&p->ns, memory_order_relaxed) * 1e-9};
    memcpy(i.name, s->name, sizeof i.name);
    memcpy(i.on_host, p->on_host, sizeof i.on_host);
    return i;
}

size_t policy_book_list(struct policy_book *b, struct llm_policy_info *out, size_t capacity)
{
    size_t n = 0;
    pthread_mutex_lock(&b->lock);
    for (struct policy_shelf *s = b->shelves; s; s = s->next) {
        if (s->active && n++ < capacity) out[n - 1] = describe(s, s->active);
        for (struct policy *p = s->policies; p; p = p->next)
            if (p != s->active && n++ < capacity) out[n - 1] = describe(s, p);
    }
    pthread_mutex_unlock(&b->lock);
    return n;
}

/* ---- chains -------------------------------------------------------------------------------------------- */

static void list_names(struct policy_book *b, char *text, size_t room)
{
    size_t n = 0;
    text[0] = 0;
    for (struct policy_shelf *s = b->shelves; s && n < room; s = s->next)
        if (s->active) n += (size_t)snprintf(text + n, room - n, "%s%s", n ? ", " : "", s->name);
}

/* Holds the active generation of each name. On failure the links before it are held. */
static llm_status hold(struct policy_chain *c, const struct llm_policy_use *uses, size_t n,
                       struct llm_error *err)
{
    char names[300];
    llm_status status = LLM_OK;
    pthread_mutex_lock(&c->book->lock);
    for (size_t i = 0; i < n && !status; i++) {
        struct policy_shelf *s = uses[i].name ? find(c->book, uses[i].name) : NULL;
        if (!s || !s->active) {
            list_names(c->book, names, sizeof names);
            status = llm_fail(err, LLM_EINVAL, "policy '%.63s' does not exist; there are: %s",
                              uses[i].name ? uses[i].name : "(null)", names[0] ? names : "none");
            break;
        }
        c->links[c->n_links++].policy = s->active;
        s->active->n_users++;
        atomic_fetch_add_explicit(&s->active->n_requests, 1, memory_order_relaxed);
    }
    pthread_mutex_unlock(&c->book->lock);
    return status;
}

static unsigned hooks_of(const struct llm_policy *t)
{
    return (t->logits ? POLICY_HAS_LOGITS : 0u) | (t->graph ? POLICY_HAS_GRAPH : 0u) |
           (t->candidates ? POLICY_HAS_CANDIDATES : 0u);
}

static void note_hooks(struct policy_chain *c, const struct llm_policy *t)
{
    c->has |= hooks_of(t);
    if (t->candidates && t->max_candidates > c->max_candidates) c->max_candidates = t->max_candidates;
}

static llm_status prepare(struct policy_chain *c, const struct llm_policy_use *uses, struct llm_error *err)
{
    for (int32_t i = 0; i < c->n_links; i++) {
        const struct llm_policy *t = &c->links[i].policy->table;
        note_hooks(c, t);
        if (t->prepare) {
            if (t->prepare(t->self, uses[i].args, uses[i].args_bytes, &c->links[i].args, err))
                return llm_fail_in(err, "policy %s", t->name);
        } else if (uses[i].args) {
            return llm_fail(err, LLM_EINVAL, "policy %s takes no arguments", t->name);
        }
    }
    return LLM_OK;
}

/* The runs of all sequences and their graphs' variables, in one block. */
static llm_status make_runs(struct policy_chain *c, struct llm_error *err)
{
    size_t n_runs = (size_t)c->n_sequences * (size_t)c->n_links, n_variables = 0;
    for (int32_t i = 0; i < c->n_links; i++) {
        const struct graph *g = c->links[i].policy->table.graph;
        if (g) n_variables += (size_t)g->n_variables;
    }
    size_t head = n_runs * sizeof *c->runs;
    c->runs = mem_zalloc(head + n_variables * (size_t)c->n_sequences * sizeof(double));
    if (!c->runs) return llm_fail(err, LLM_ENOMEM, "no memory for the policies of a request");
    double *variables = (double *)(void *)((char *)c->runs + head);
    for (size_t k = 0; k < n_runs; k++) {
        int32_t place = (int32_t)(k % (size_t)c->n_links);
        const struct policy_link *link = &c->links[place];
        c->runs[k].view = (struct llm_policy_run){
            .index = (int32_t)(k / (size_t)c->n_links), .place = place, .args = &link->args};
        const struct graph *g = link->policy->table.graph;
        if (!g) continue;
        c->runs[k].variables = variables;
        graph_state_init(g, variables);
        variables += g->n_variables;
    }
    return LLM_OK;
}

llm_status policy_chain_open(struct policy_book *b, const struct llm_request_spec *spec,
                             struct policy_chain **out, struct llm_error *err)
{
    *out = NULL;
    if (spec->n_policies == 0) return LLM_OK;
    if (spec->n_policies > LLM_MAX_CHAIN)
        return llm_fail(err, LLM_EINVAL, "the request names %zu policies; it may name %d", spec->n_policies,
                        LLM_MAX_CHAIN);
    struct policy_chain *c = mem_zalloc(sizeof *c + spec->n_policies * sizeof *c->links);
    if (!c) return llm_fail(err, LLM_ENOMEM, "no memory for the policies of a request");
    c->book = b;
    c->n_sequences = spec->sampling.n;
    llm_status status = hold(c, spec->policies, spec->n_policies, err);
    if (!status) status = prepare(c, spec->policies, err);
    if (!status) status = make_runs(c, err);
    if (status)
        policy_chain_close(c);
    else
        *out = c;
    return status;
}

void policy_chain_close(struct policy_chain *c)
{
    if (!c) return;
    for (int32_t i = 0; i < c->n_links; i++) {
        struct policy *p = c->links[i].policy, *unused = NULL;
        struct llm_policy_args *args = &c->links[i].args;
        const struct graph_device *device = &c->book->device;
        if (c->links[i].device_args) device->args_close(device->self, c->links[i].device_args);
        if (p->table.forget && (args->own || args->graph)) p->table.forget(p->table.self, args);
        pthread_mutex_lock(&c->book->lock);
        if (--p->n_users == 0 && !p->kept) unused = take_unused(p->shelf);
        pthread_mutex_unlock(&c->book->lock);
        close_all(c->book, unused);
    }
    mem_free(c->runs);
    mem_free(c->details);
    mem_free(c);
}

/* ---- the engine's thread ------------------------------------------------------------------------------- */

void policy_chain_bind(struct policy_chain *c, int32_t sequence, const int32_t *prompt, int32_t n_prompt,
                       const int32_t *output, uint64_t seed)
{
    struct policy_run *runs = policy_chain_runs(c, sequence);
    for (int32_t i = 0; i < c->n_links; i++) {
        runs[i].view.prompt = prompt;
        runs[i].view.n_prompt = n_prompt;
        runs[i].view.output = output;
        runs[i].view.seed = seed;
    }
}

llm_status policy_chain_to_device(struct policy_chain *c, struct llm_error *err)
{
    const struct graph_device *device = &c->book->device;
    llm_status status = LLM_OK;
    for (int32_t i = 0; i < c->n_links && !status; i++) {
        struct policy_link *link = &c->links[i];
        const struct graph *g = link->policy->table.graph;
        if (!link->policy->compiled || g->n_params == 0 || link->device_args) continue;
        status = device->args_open(device->self, link->policy->compiled, link->args.graph, &link->device_args,
                                   err);
    }
    return status;
}

unsigned policy_chain_wants(const struct policy_chain *c, int32_t sequence)
{
    const struct policy_run *runs = policy_chain_runs(c, sequence);
    unsigned wants = 0;
    for (int32_t i = 0; i < c->n_links; i++)
        if (!runs[i].off) wants |= hooks_of(&c->links[i].policy->table);
    return wants;
}

int policy_chain_fail(struct policy_chain *c, int32_t sequence, int32_t i, const struct llm_error *err)
{
    struct policy *p = c->links[i].policy;
    atomic_fetch_add_explicit(&p->n_failures, 1, memory_order_relaxed);
    if (p->table.ignore_errors) {
        policy_chain_runs(c, sequence)[i].off = 1;
        return 0;
    }
    if (c->error.status) return 1;
    const char *details = p->table.details ? p->table.details(p->table.self) : NULL;
    if (details) c->details = mem_strdup(details); /* without memory there is still the message */
    c->error = *err;
    llm_fail_in(&c->error, "policy %s", p->table.name);
    return 1;
}

llm_status policy_chain_begin(struct policy_chain *c)
{
    struct llm_error err = {0};
    for (int32_t s = 0; s < c->n_sequences; s++) {
        struct policy_run *runs = policy_chain_runs(c, s);
        for (int32_t i = 0; i < c->n_links; i++) {
            const struct llm_policy *t = &c->links[i].policy->table;
            runs[i].begun = 1;
            if (!t->begin || t->begin(t->self, &runs[i].view, &err) == LLM_OK) continue;
            if (policy_chain_fail(c, s, i, &err)) return c->error.status;
        }
    }
    return LLM_OK;
}

void policy_chain_done(struct policy_chain *c, int32_t sequence)
{
    struct policy_run *runs = policy_chain_runs(c, sequence);
    for (int32_t i = 0; i < c->n_links; i++) {
        const struct llm_policy *t = &c->links[i].policy->table;
        if (!runs[i].begun) continue;
        runs[i].begun = 0;
        if (t->done) t->done(t->self, &runs[i].view);
    }
}
