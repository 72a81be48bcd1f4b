/* The scheduler driven by chance, without a model: a million steps and more over small worlds with random
 * arrivals, forks, cancels, priorities, tenants, victims picked by chance, pages kept between requests, and
 * pools that are too small. The world keeps what a model would keep (which token of which tenant at which
 * position is in which slot), and each sequence's next token is a function of what it finds through its
 * pages. After every step the books are checked. In half of the worlds the tokens of a step are known
 * only after the next one was planned. */

#include "engine/scheduler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_LEN = 96,
    MAX_SEQS = 48,
    MAX_PAGES = 160,
    MAX_KEEPERS = 12,
    TOTAL_STEPS = 1000000,
    STEPS_A_WORLD = 2500
};

/* A client's text whose pages are kept. */
struct keeper {
    int in_use, busy; /* busy: an actor runs on it */
    struct holding holding;
    int32_t salt, n, n_agreed; /* its first n_agreed tokens are as the scheduler last heard */
    int32_t tokens[MAX_LEN], pages[MAX_LEN];
};

struct actor {
    struct sequence s; /* first */
    int in_use;
    struct keeper *keeper; /* null: nobody keeps its pages */
    int32_t salt, target;  /* tokens of output it wants */
    uint32_t truth;        /* hash of its tokens, kept without looking at pages */
    int32_t n_forks;       /* still to be forked from it */
    int64_t born, ahead;   /* step; sequences that go before it, in all its life */
    int32_t prompt[MAX_LEN], output[MAX_LEN], pages[MAX_LEN];
    int32_t made[MAX_LEN]; /* its output, with the tokens that the scheduler does not know yet */
    struct block_hash hashes[MAX_LEN];
};

/* Who gets a token from a step whose tokens are not known yet; null: ended meanwhile. */
struct flight {
    struct actor *actors[MAX_SEQS];
    int32_t n;
};

struct world {
    struct kv_pool kv;
    struct scheduler scheduler;
    struct scheduler_options options;
    int32_t max_len;
    int behind; /* 1: tokens are known a step late */
    struct flight flights[2];
    struct flight *flying;
    uint64_t slots[MAX_PAGES * 16]; /* tenant, position, token */
    struct actor actors[256];
    struct keeper keepers[MAX_KEEPERS];
    uint32_t n_tenants; /* that arrivals come from; 1: nobody cares */
    uint64_t arrivals;
    int64_t step;
    uint64_t random;
    int32_t n_finished, n_preemptions, n_copies, n_forks;
};

static struct world w;
static int64_t total_steps, total_finished, total_preemptions, total_copies, total_hits, total_waiting_forks;
static int64_t total_choices, total_lent, total_reused, total_shared, total_reclaimed;

static uint32_t chance(uint32_t n)
{
    w.random += 0x9E3779B97F4A7C15u;
    uint64_t x = w.random;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return (uint32_t)((x ^ (x >> 31)) >> 32) % n;
}

static uint32_t hash_step(uint32_t h, int32_t token)
{
    h = (h ^ (uint32_t)token) * 0x9E3779B1u;
    return h ^ (h >> 15);
}

static uint64_t slot_value(const struct actor *a, int32_t position, int32_t token)
{
    return (uint64_t)(uint32_t)a->salt << 48 | (uint64_t)(uint32_t)position << 24 | (uint32_t)token;
}

/* ---- arrivals ------------------------------------------------------------------------------------------ */

static struct actor *new_actor(void)
{
    for (int32_t i = 0; i < 256; i++)
        if (!w.actors[i].in_use) {
            memset(&w.actors[i], 0, offsetof(struct actor, prompt));
            w.actors[i].in_use = 1;
            return &w.actors[i];
        }
    return NULL;
}

static int live(const struct actor *a)
{
    return a->in_use && a->s.state != SEQUENCE_FINISHED;
}

static void count_ahead(struct actor *a)
{
    for (int32_t i = 0; i < 256; i++) {
        struct actor *b = &w.actors[i];
        if (b == a || !live(b)) continue;
        if (sequence_before(&b->s, &a->s))
            a->ahead++;
        else
            b->ahead++; /* it came later and goes before */
    }
}

static struct actor *birth(int32_t n_prompt, uint32_t family, int32_t salt, int32_t priority, int32_t index,
                           int32_t group)
{
    struct actor *a = new_actor();
    if (!a) return NULL;
    a->salt = salt;
    a->born = w.step;
    a->target = 1 + (int32_t)chance((uint32_t)(w.max_len - n_prompt));
    int32_t most = a->target + (int32_t)chance(3); /* than which it may stop sooner, for the token it got */
    if (most > w.max_len - n_prompt) most = w.max_len - n_prompt;
    a->s = (struct sequence){.prompt = a->prompt,
                             .output = a->output,
                             .n_prompt = n_prompt,
                             .priority = priority,
                             .index = index,
                             .arrival = w.arrivals,
                             .group = group,
                             .most_output = w.behind ? most : 0,
                             .compute_from = INT32_MAX,
                             .pages = a->pages,
                             .hashes = a->hashes,
                             .n_cached = -1};
    char text[8] = {(char)('a' + salt)};
    a->s.root = prefix_root(&w.kv.index, text, 1);
    a->truth = (uint32_t)salt;
    for (int32_t i = 0; i < n_prompt; i++) {
        /* families share their beginnings, and differ after a while */
        a->prompt[i] = (int32_t)((i < n_prompt * 3 / 4 ? family * 131 + (uint32_t)i : chance(4)) & 0xffff);
        a->truth = hash_step(a->truth, a->prompt[i]);
    }
    count_ahead(a);
    return a;
}

static void add(struct actor *a)
{
    a->s.tenant = chance(w.n_tenants);
    a->s.weight = a->s.tenant == 2 ? 3 : 1;
    scheduler_add(&w.scheduler, &a->s);
}

static void arrive(void)
{
    int32_t group = chance(4) ? 1 : 1 + (int32_t)chance(6);
    if (w.behind && group > w.options.max_num_seqs) group = w.options.max_num_seqs;
    int32_t n_free = 0;
    for (int32_t i = 0; i < 256; i++) n_free += !w.actors[i].in_use;
    if (n_free < group) return;
    w.arrivals++;
    int32_t n_prompt = 1 + (int32_t)chance((uint32_t)w.max_len - 1), salt = (int32_t)chance(2);
    int32_t priority = w.options.priority ? (int32_t)chance(3) - 1 : 0;
    struct actor *a = birth(n_prompt, chance(5), salt, priority, 0, group);
    if (chance(16) == 0) a->s.compute_from = (int32_t)chance((uint32_t)n_prompt);
    for (int32_t k = 1; k < group; k++) {
        struct actor *b = birth(n_prompt, 0, salt, priority, k, 1);
        memcpy(b->prompt, a->prompt, sizeof a->prompt);
        b->truth = a->truth;
    }
    a->n_forks = group - 1;
    add(a);
}

/* ---- keepers ------------------------------------------------------------------------------------------- */

static struct keeper *new_keeper(int32_t salt)
{
    for (int32_t i = 0; i < MAX_KEEPERS; i++) {
        struct keeper *k = &w.keepers[i];
        if (k->in_use) continue;
        memset(k, 0, offsetof(struct keeper, tokens));
        k->in_use = 1;
        k->salt = salt;
        k->holding.pages = k->pages;
        return k;
    }
    return NULL;
}

static void cut(struct keeper *k, int32_t n)
{
    k->n = n;
    if (k->n_agreed > n) k->n_agreed = n;
}

static void tell(struct keeper *k)
{
    holding_rewind(&w.scheduler.idle, &w.kv, &k->holding, k->n_agreed);
    k->n_agreed = k->n;
}

/* A request whose prompt is the keeper's text and some more. */
static void lend(struct keeper *k)
{
    int32_t room = w.max_len - 1 - k->n, more = (k->n == 0) + (int32_t)chance(24);
    if (more > room) more = room;
    if (k->n + more == 0) return;
    struct actor *a =
        birth(k->n + more, chance(5), k->salt, w.options.priority ? (int32_t)chance(3) - 1 : 0, 0, 1);
    if (!a) return;
    w.arrivals++;
    a->s.arrival = w.arrivals;
    tell(k);
    for (int32_t i = k->n; i < k->n + more; i++) k->tokens[i] = a->prompt[i];
    a->truth = (uint32_t)k->salt;
    for (int32_t i = 0; i < k->n + more; i++) {
        a->prompt[i] = k->tokens[i];
        a->truth = hash_step(a->truth, a->prompt[i]);
    }
    k->n += more;
    k->n_agreed = k->n;
    if (chance(8) == 0) a->s.compute_from = (int32_t)chance((uint32_t)k->n);
    a->s.holding = &k->holding;
    a->keeper = k;
    k->busy = 1;
    total_lent++;
    total_reused += k->holding.n_tokens > 0;
    add(a);
}

/* The actor has ended, and its pages are back: the text is now its own, or a part of it. */
static void settle(struct actor *a)
{
    struct keeper *k = a->keeper;
    k->busy = 0;
    for (int32_t i = 0; i < a->s.n_output; i++) k->tokens[a->s.n_prompt + i] = a->output[i];
    k->n = k->n_agreed = sequence_length(&a->s);
    if (chance(3) == 0) cut(k, (int32_t)chance((uint32_t)k->n + 1));
    a->keeper = NULL;
}

static void fork_keeper(struct keeper *k)
{
    struct keeper *child = new_keeper(k->salt);
    if (!child) return;
    tell(k);
    memcpy(child->tokens, k->tokens, sizeof k->tokens);
    child->n = child->n_agreed = k->n;
    holding_share(&w.scheduler.idle, &w.kv, &k->holding, &child->holding);
    total_shared += child->holding.n_pages;
}

static void close_keeper(struct keeper *k)
{
    holding_rewind(&w.scheduler.idle, &w.kv, &k->holding, 0);
    k->in_use = 0;
}

static void keepers_act(void)
{
    struct keeper *k = &w.keepers[chance(MAX_KEEPERS)];
    if (!k->in_use) {
        new_keeper((int32_t)chance(2));
        return;
    }
    if (k->busy) return;
    uint32_t what = chance(16);
    if (what < 7)
        lend(k);
    else if (what < 10)
        fork_keeper(k);
    else if (what < 12)
        cut(k, (int32_t)chance((uint32_t)k->n + 1));
    else if (what == 12)
        close_keeper(k);
}

/* What a holding says it has is there, and is in the list. */
static void check_holdings(int32_t *owners)
{
    int32_t listed = 0, full = 0, size = w.kv.page_size;
    for (const struct holding *h = w.scheduler.idle.oldest; h; h = h->newer) listed++;
    for (int32_t i = 0; i < MAX_KEEPERS; i++) {
        const struct keeper *k = &w.keepers[i];
        full += k->in_use && k->holding.n_pages > 0;
        if (!k->in_use) assert_int_equal(k->holding.n_pages, 0);
        assert_int_equal(k->holding.n_pages, kv_pages_for(&w.kv, k->holding.n_tokens));
        for (int32_t p = 0; p < k->holding.n_pages; p++) owners[k->holding.pages[p]]++;
        for (int32_t p = 0; w.step % 16 == i && p < k->holding.n_tokens && p < k->n_agreed; p++) {
            uint64_t v = w.slots[k->holding.pages[p / size] * size + p % size];
            uint64_t want = (uint64_t)(uint32_t)k->salt << 48 | (uint64_t)(uint32_t)p << 24;
            assert_int_equal(v, want | (uint32_t)k->tokens[p]);
        }
    }
    assert_int_equal(listed, full);
}

/* ---- one step ------------------------------------------------------------------------------------------ */

static void check_item(const struct plan_item *item)
{
    const struct sequence *q = item->sequence;
    assert_int_equal(q->state, SEQUENCE_RUNNING);
    assert_int_equal(item->start, q->n_computed);
    assert_true(item->n >= 1 && item->start + item->n <= sequence_length(q));
    assert_int_equal(item->last, item->start + item->n == sequence_length(q));
    if (!w.options.chunked_prefill) assert_true(item->last);
    assert_int_equal(q->n_pages, kv_pages_for(&w.kv, item->start + item->n));
    for (int32_t p = item->start; p < item->start + item->n; p++) {
        const struct kv_page *page = &w.kv.pages[q->pages[p / w.kv.page_size]];
        assert_int_equal(page->refs, 1); /* nobody else reads what is written */
        assert_false(page->named);
    }
}

static void check_plan(const struct plan *plan)
{
    int32_t n_tokens = 0, n_items = 0;
    for (int32_t i = 0; i < plan->n_items; i++) {
        check_item(&plan->items[i]);
        n_tokens += plan->items[i].n;
        for (int32_t k = 0; k < i; k++)
            assert_ptr_not_equal(plan->items[k].sequence, plan->items[i].sequence);
    }
    assert_int_equal(n_tokens, plan->n_tokens);
    assert_true(n_tokens <= w.options.max_num_batched_tokens);
    assert_true(w.scheduler.n_running <= w.options.max_num_seqs);
    assert_true(w.scheduler.n_seats <= w.options.max_num_seqs);
    /* every running sequence advances, but for those whose last token is being made */
    int32_t n_running = 0;
    for (int32_t i = 0; i < 256; i++) {
        const struct sequence *q = &w.actors[i].s;
        if (!w.actors[i].in_use || q->state != SEQUENCE_RUNNING) continue;
        n_running++;
        n_items += !q->n_pending || q->n_output < q->most_output;
    }
    assert_int_equal(n_running, w.scheduler.n_running);
    assert_int_equal(n_items, plan->n_items);
    /* there is progress while there is work */
    if (w.scheduler.line.n_waiting > 0) assert_true(plan->n_tokens > 0 || w.flying);
    /* nobody was overtaken */
    if (plan->n_admitted > 0 && w.n_tenants == 1 && fairness_first(&w.scheduler.line))
        for (int32_t i = plan->n_items - plan->n_admitted; i < plan->n_items; i++)
            assert_true(sequence_before(plan->items[i].sequence, fairness_first(&w.scheduler.line)));
}

static int32_t true_token(const struct actor *a, int32_t p)
{
    return p < a->s.n_prompt ? a->prompt[p] : a->made[p - a->s.n_prompt];
}

/* What the model does. */
static void compute(const struct plan *plan)
{
    int32_t size = w.kv.page_size;
    for (int32_t i = 0; i < plan->n_copies; i++)
        memcpy(w.slots + plan->copies[i].to * size, w.slots + plan->copies[i].from * size,
               sizeof *w.slots * (size_t)size);
    for (int32_t i = 0; i < plan->n_items; i++) {
        const struct plan_item *item = &plan->items[i];
        const struct sequence *q = item->sequence;
        for (int32_t p = item->start; p < item->start + item->n; p++)
            w.slots[q->pages[p / size] * size + p % size] =
                slot_value((const struct actor *)q, p, true_token((const struct actor *)q, p));
    }
}

static void check_contents(const struct actor *a)
{
    uint32_t h = (uint32_t)a->salt;
    int32_t size = w.kv.page_size;
    for (int32_t p = 0; p < sequence_length(&a->s); p++) {
        uint64_t v = w.slots[a->s.pages[p / size] * size + p % size];
        assert_int_equal(v >> 24, slot_value(a, p, 0) >> 24);
        h = hash_step(h, (int32_t)(v & 0xffffff));
    }
    assert_int_equal(h, a->truth);
}

static void append(struct actor *a)
{
    int32_t token = (int32_t)(hash_step(a->truth, a->s.index) & 7);
    a->made[a->s.n_output] = token;
    a->output[a->s.n_output++] = w.behind ? -1 - w.flying->n : token;
    a->truth = hash_step(a->truth, token);
    if (!w.behind) return;
    a->s.n_pending++;
    w.flying->actors[w.flying->n++] = a;
}

/* What is being made for it is nobody's any more. */
static void forgo(struct actor *a)
{
    a->s.n_output -= a->s.n_pending;
    a->s.n_pending = 0;
    for (int32_t i = 0; w.flying && i < w.flying->n; i++)
        if (w.flying->actors[i] == a) w.flying->actors[i] = NULL;
}

static void end(struct actor *a)
{
    forgo(a);
    scheduler_finish(&w.scheduler, &a->s);
    assert_int_equal(a->s.n_pages, 0);
    if (a->keeper) settle(a);
    w.n_finished++;
}

/* Its wait is bounded by the work of those before it: each step the first in order advances by a token, and
 * it is never set back. Those that run with it may still finish first. */
static void check_patience(const struct actor *a)
{
    if (w.n_tenants > 1) return; /* who comes later may well go first */
    int64_t bound = (a->ahead + w.options.max_num_seqs + 2) * w.max_len;
    assert_true(w.step - a->born <= bound * (1 + w.behind));
}

static void after_model(const struct plan *plan)
{
    for (int32_t i = 0; i < plan->n_items; i++) {
        if (!plan->items[i].last) continue;
        struct actor *a = (struct actor *)plan->items[i].sequence;
        check_contents(a);
        struct actor *all[8] = {a};
        int32_t n = 1;
        for (int32_t k = 0; k < 256 && a->n_forks > 0; k++) {
            struct actor *b = &w.actors[k];
            if (b == a || !b->in_use || b->s.arrival != a->s.arrival || b->s.state != SEQUENCE_NEW) continue;
            scheduler_fork(&w.scheduler, &a->s, &b->s);
            total_waiting_forks += b->s.state == SEQUENCE_WAITING;
            w.n_forks++;
            a->n_forks--;
            all[n++] = b;
        }
        for (int32_t k = 0; k < n; k++) {
            append(all[k]);
            if (w.behind || all[k]->s.n_output < all[k]->target) continue;
            check_patience(all[k]);
            end(all[k]);
        }
    }
}

/* The tokens of a step become known. */
static void land(const struct flight *f)
{
    for (int32_t i = 0; i < f->n; i++) {
        if (!f->actors[i]) continue;
        struct sequence *q = &f->actors[i]->s;
        int32_t k = q->n_output - q->n_pending--;
        assert_int_equal(q->output[k], -1 - i);
        q->output[k] = f->actors[i]->made[k];
    }
}

static void end_landed(const struct flight *f)
{
    for (int32_t i = 0; i < f->n; i++) {
        struct actor *a = f->actors[i];
        if (!a || a->s.n_output - a->s.n_pending < a->target) continue;
        check_patience(a);
        end(a);
    }
}

/* As the engine does with a device: the tokens of the step before this one, once this one is under way. */
static void after_launch(const struct plan *plan)
{
    struct flight *before = w.flying;
    w.flying = NULL;
    if (plan->n_tokens > 0) {
        w.flying = &w.flights[before == &w.flights[0]];
        w.flying->n = 0;
        after_model(plan);
    }
    if (before) land(before);
    scheduler_name(&w.scheduler);
    if (before) end_landed(before);
}

/* A request is cancelled as a whole: members not forked yet, waiting and running ones. */
static void cancel_some(void)
{
    struct actor *a = &w.actors[chance(256)];
    if (!live(a)) return;
    for (int32_t i = 0; i < 256; i++) {
        struct actor *b = &w.actors[i];
        if (live(b) && b->s.arrival == a->s.arrival) end(b);
    }
}

static void check_books(void)
{
    static int32_t owners[MAX_PAGES];
    memset(owners, 0, sizeof owners);
    int32_t waiting = 0;
    for (int32_t i = 0; i < 256; i++) {
        const struct actor *a = &w.actors[i];
        if (!a->in_use) continue;
        if (a->s.state != SEQUENCE_RUNNING) assert_int_equal(a->s.n_pages, 0);
        waiting += a->s.state == SEQUENCE_WAITING;
        for (int32_t k = 0; k < a->s.n_pages; k++) owners[a->s.pages[k]]++;
    }
    check_holdings(owners);
    assert_int_equal(waiting, w.scheduler.line.n_waiting);
    for (int32_t p = 0; p < w.kv.n_pages; p++) assert_int_equal(owners[p], w.kv.pages[p].refs);
    assert_true(kv_check(&w.kv));
}

static void bury(void)
{
    for (int32_t i = 0; i < 256; i++)
        if (w.actors[i].in_use && w.actors[i].s.state == SEQUENCE_FINISHED) w.actors[i].in_use = 0;
}

static int32_t n_held(void)
{
    int32_t n = 0;
    for (int32_t i = 0; i < MAX_KEEPERS; i++) n += w.keepers[i].holding.n_pages;
    return n;
}

static void one_step(uint32_t arrivals_in_32)
{
    while (chance(32) < arrivals_in_32) arrive();
    if (chance(40) == 0) cancel_some();
    if (chance(500) == 0) kv_forget(&w.kv);
    if (chance(32) < 2 * arrivals_in_32) keepers_act();
    int32_t held = n_held();
    const struct plan *plan = scheduler_plan(&w.scheduler);
    total_reclaimed += plan->n_admitted == 0 && n_held() < held;
    check_plan(plan);
    compute(plan);
    scheduler_advance(&w.scheduler);
    if (!w.behind) scheduler_name(&w.scheduler);
    w.n_copies += plan->n_copies;
    if (w.behind)
        after_launch(plan);
    else
        after_model(plan);
    check_books();
    bury();
    w.step++;
}

/* ---- worlds -------------------------------------------------------------------------------------------- */

static int32_t any_of(void *ud, struct sequence *const *last, int32_t n)
{
    (void)ud;
    assert_true(n >= 1 && n <= SCHEDULER_CHOICE);
    assert_true(n == 1 || last[0] != w.scheduler.running[0]);
    for (int32_t i = 0; i < n; i++) assert_int_equal(last[i]->state, SEQUENCE_RUNNING);
    total_choices += n > 1;
    return (int32_t)chance((uint32_t)n + 2) - 1; /* nonsense, too */
}

static void open_world(uint64_t seed)
{
    memset(&w, 0, sizeof w);
    w.random = seed;
    w.behind = seed % 2 == 0;
    uint8_t secret[PREFIX_SECRET_BYTES];
    for (size_t i = 0; i < sizeof secret; i++) secret[i] = (uint8_t)chance(256);
    int32_t size = (int32_t[]){4, 8, 16}[chance(3)];
    w.max_len = 16 + (int32_t)chance(MAX_LEN - 16 + 1);
    int32_t least = (w.max_len + size - 1) / size;
    int32_t n_pages = least + (int32_t)chance((uint32_t)(chance(3) ? least * 3 : MAX_PAGES - least) + 1);
    if (n_pages > MAX_PAGES) n_pages = MAX_PAGES;
    assert_int_equal(kv_pool_init(&w.kv, n_pages, size, secret, NULL), LLM_OK);
    w.options.chunked_prefill = chance(4) > 0;
    w.options.prefix_caching = chance(4) > 0;
    w.options.priority = chance(2) == 0;
    w.options.max_num_seqs = 1 + (int32_t)chance(chance(2) ? 6 : MAX_SEQS);
    w.options.max_num_batched_tokens = w.options.max_num_seqs + (int32_t)chance(64);
    if (!w.options.chunked_prefill && w.options.max_num_batched_tokens < w.max_len)
        w.options.max_num_batched_tokens = w.max_len;
    assert_int_equal(scheduler_init(&w.scheduler, &w.options, &w.kv, NULL), LLM_OK);
    w.n_tenants = 1 + (chance(2) ? chance(4) : 0);
    if (chance(2)) w.scheduler.choose = any_of;
}

static void close_world(void)
{
    for (int64_t limit = w.step + 200000; w.scheduler.n_running + w.scheduler.line.n_waiting > 0;) {
        assert_true(w.step < limit);
        one_step(0);
    }
    for (int32_t i = 0; i < 256; i++) assert_false(w.actors[i].in_use);
    for (int32_t i = 0; i < MAX_KEEPERS; i++)
        if (w.keepers[i].in_use) close_keeper(&w.keepers[i]);
    check_books();
    assert_int_equal(w.kv.n_used, 0);
    assert_int_equal(w.kv.n_filled, 0);
    assert_true(w.scheduler.waste_peak >= 0 && w.scheduler.waste_peak < 1);
    total_steps += w.step;
    total_finished += w.n_finished;
    total_preemptions += (int64_t)w.scheduler.n_preemptions;
    total_copies += w.n_copies;
    total_hits += (int64_t)w.scheduler.n_prefix_hits;
    scheduler_deinit(&w.scheduler);
    kv_pool_deinit(&w.kv);
}

static void a_million_random_steps(void **state)
{
    (void)state;
    for (uint64_t seed = 1; total_steps < TOTAL_STEPS; seed++) {
        open_world(seed * 7919);
        uint32_t rate = 1 + chance(12);
        for (int32_t i = 0; i < STEPS_A_WORLD; i++) one_step(i / 250 % 4 == 3 ? 0 : rate);
        close_world();
    }
    print_message(
        "%lld steps, %lld sequences, %lld preemptions, %lld page copies, %lld cached tokens, "
        "%lld forks without a seat; %lld requests on kept pages, %lld of them with some left, %lld pages "
        "shared, %lld steps that took some back\n",
        (long long)total_steps, (long long)total_finished, (long long)total_preemptions,
        (long long)total_copies, (long long)total_hits, (long long)total_waiting_forks, (long long)total_lent,
        (long long)total_reused, (long long)total_shared, (long long)total_reclaimed);
    /* chance must have reached everything that is checked */
    assert_true(total_finished > TOTAL_STEPS / 50);
    assert_true(total_preemptions > 1000 && total_copies > 1000 && total_hits > 1000);
    assert_true(total_waiting_forks > 100 && total_choices > 100);
    assert_true(total_lent > 1000 && total_reused > 1000 && total_shared > 1000 && total_reclaimed > 100);
}

/* ---- fairness ------------------------------------------------------------------------------------------ */

/* A world for four sequences at a time, with room for all. */
static void open_fair_world(void)
{
    memset(&w, 0, sizeof w);
    uint8_t secret[PREFIX_SECRET_BYTES] = {1};
    w.max_len = 64;
    w.n_tenants = 1;
    assert_int_equal(kv_pool_init(&w.kv, 64, 4, secret, NULL), LLM_OK);
    w.options =
        (struct scheduler_options){.chunked_prefill = 1, .max_num_seqs = 4, .max_num_batched_tokens = 32};
    assert_int_equal(scheduler_init(&w.scheduler, &w.options, &w.kv, NULL), LLM_OK);
}

static struct actor *send_as(uint64_t tenant, float weight, int32_t n_prompt, int32_t n_output)
{
    w.arrivals++;
    struct actor *a = birth(n_prompt, 0, 0, 0, 0, 1);
    a->target = n_output;
    a->s.tenant = tenant;
    a->s.weight = weight;
    scheduler_add(&w.scheduler, &a->s);
    return a;
}

/* Tokens that a tenant's sequences have got so far, those that ended included: they stay until buried. */
static int32_t work_of(uint64_t tenant)
{
    int32_t n = 0;
    for (int32_t i = 0; i < 256; i++) {
        const struct sequence *q = &w.actors[i].s;
        if (!w.actors[i].in_use || q->tenant != tenant) continue;
        n += q->state == SEQUENCE_WAITING ? 0 : q->n_prompt + 2 * q->n_output;
    }
    return n;
}

static void step_unburied(void)
{
    struct plan *plan = scheduler_plan(&w.scheduler);
    scheduler_advance(&w.scheduler);
    scheduler_name(&w.scheduler);
    for (int32_t i = 0; i < plan->n_items; i++) {
        struct actor *a = (struct actor *)plan->items[i].sequence;
        if (!plan->items[i].last) continue;
        a->output[a->s.n_output++] = 1;
        if (a->s.n_output == a->target) scheduler_finish(&w.scheduler, &a->s);
    }
    w.step++;
}

static void close_fair_world(void)
{
    while (w.scheduler.n_running + w.scheduler.line.n_waiting > 0) step_unburied();
    assert_int_equal(w.kv.n_used, 0);
    scheduler_deinit(&w.scheduler);
    kv_pool_deinit(&w.kv);
}

static void tenants_get_their_shares(void **state)
{
    (void)state;
    static const struct {
        float weight;
        int32_t prompt_b, output_b;
    } cases[] = {{1, 16, 8}, {3, 16, 8}, {1, 40, 20}, {1, 8, 2}};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        open_fair_world();
        for (int32_t i = 0; i < 100; i++) send_as(7, 1, 16, 8); /* all of A's before the first of B's */
        for (int32_t i = 0; i < 100; i++) send_as(8, cases[c].weight, cases[c].prompt_b, cases[c].output_b);
        int32_t enough = c == 3 ? 600 : 1000; /* neither has run dry yet */
        while (work_of(7) + work_of(8) < enough) step_unburied();
        double a = work_of(7), b = work_of(8) / cases[c].weight;
        assert_true(b > 0.6 * a && a > 0.6 * b);
        close_fair_world();
    }
}

static void a_newcomer_does_not_wait_for_a_crowd(void **state)
{
    (void)state;
    open_fair_world();
    for (int32_t i = 0; i < 100; i++) send_as(7, 1, 16, 8);
    for (int32_t i = 0; i < 20; i++) step_unburied();
    struct actor *b = send_as(8, 1, 16, 8);
    int64_t begun = w.step;
    while (b->s.state == SEQUENCE_WAITING) step_unburied();
    assert_true(w.step - begun <= 16); /* a seat becomes free, and it is the next */
    close_fair_world();
}

static void one_tenant_is_served_in_order(void **state)
{
    (void)state;
    open_fair_world();
    struct actor *all[100];
    for (int32_t i = 0; i < 100; i++) {
        all[i] = send_as(7, 1, 1 + i * 7 % 40, 1 + i * 5 % 20);
        if (i % 3 == 0) step_unburied();
        for (int32_t k = 1; k <= i; k++) /* whoever runs or has run came before all who wait */
            assert_false(all[k]->s.state != SEQUENCE_WAITING && all[k - 1]->s.state == SEQUENCE_WAITING);
    }
    close_fair_world();
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_million_random_steps),
                                       cmocka_unit_test(tenants_get_their_shares),
                                       cmocka_unit_test(a_newcomer_does_not_wait_for_a_crowd),
                                       cmocka_unit_test(one_tenant_is_served_in_order)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
