/* Step 4 of 10. In: sequences from submit. Out: a plan. Next: batch.c. */

#include "engine/scheduler.h"

#include "base/mem.h"

#include <assert.h>
#include <string.h>

llm_status scheduler_init(struct scheduler *s, const struct scheduler_options *options, struct kv_pool *kv,
                          struct llm_error *err)
{
    *s = (struct scheduler){.options = *options, .budget = options->max_num_batched_tokens, .kv = kv};
    size_t n = (size_t)options->max_num_seqs;
    s->running = mem_array(n, sizeof *s->running);
    s->plan.items = mem_array(n, sizeof *s->plan.items);
    s->plan.copies = mem_array(2 * n, sizeof *s->plan.copies);
    llm_status status = fairness_init(&s->line, err);
    if (!s->running || !s->plan.items || !s->plan.copies)
        status = llm_fail(err, LLM_ENOMEM, "no memory for a scheduler of %zu sequences", n);
    if (status) scheduler_deinit(s);
    return status;
}

void scheduler_deinit(struct scheduler *s)
{
    mem_free(s->running);
    mem_free(s->plan.items);
    mem_free(s->plan.copies);
    fairness_deinit(&s->line);
    s->running = NULL;
    s->plan = (struct plan){0};
}

/* ---- running ------------------------------------------------------------------------------------------- */

/* A sequence to be forked keeps seats for its forks, as many as there can be. */
static int32_t seats_for(const struct scheduler *s, const struct sequence *q)
{
    return q->group < s->options.max_num_seqs ? q->group : s->options.max_num_seqs;
}

static void start_running(struct scheduler *s, struct sequence *q)
{
    int32_t i = s->n_running++;
    for (; i > 0 && sequence_before(q, s->running[i - 1]); i--) s->running[i] = s->running[i - 1];
    s->running[i] = q;
    q->seats = seats_for(s, q);
    s->n_seats += q->seats;
    q->state = SEQUENCE_RUNNING;
}

static void stop_running(struct scheduler *s, struct sequence *q)
{
    int32_t i = s->n_running - 1;
    while (s->running[i] != q) i--;
    s->n_running--;
    memmove(&s->running[i], &s->running[i + 1], sizeof(struct sequence *) * (size_t)(s->n_running - i));
    s->n_seats -= q->seats;
}

static void drop_pages(struct scheduler *s, struct sequence *q)
{
    /* The end of a prefix is worth less than its beginning: freed first, it is forgotten first. */
    while (q->n_pages > 0) kv_unref(s->kv, q->pages[--q->n_pages]);
    q->n_computed = q->n_named = 0;
}

/* To its holding, if it has one. */
static void return_pages(struct scheduler *s, struct sequence *q)
{
    if (!q->holding) {
        drop_pages(s, q);
        return;
    }
    /* a device may have computed what was to follow, which nobody wants now */
    int32_t n_tokens = q->n_computed < sequence_known(q) ? q->n_computed : sequence_known(q);
    int32_t n = kv_pages_for(s->kv, n_tokens);
    while (q->n_pages > n) kv_unref(s->kv, q->pages[--q->n_pages]);
    holding_put(&s->idle, q->holding, q->pages, q->n_pages, n_tokens);
    q->n_pages = q->n_computed = q->n_named = 0;
}

/* ---- pages --------------------------------------------------------------------------------------------- */

static void take_back(struct scheduler *s, struct sequence *q)
{
    for (int32_t i = 0; i < s->plan.n_items; i++) {
        struct plan_item *item = &s->plan.items[i];
        if (item->sequence != q) continue;
        s->plan.n_tokens -= item->n;
        item->sequence = NULL;
    }
}

static void preempt(struct scheduler *s, struct sequence *q)
{
    take_back(s, q);
    stop_running(s, q);
    drop_pages(s, q);
    q->state = SEQUENCE_WAITING;
    q->n_preemptions++;
    fairness_wait(&s->line, q);
    s->n_preemptions++;
    s->plan.n_preempted++;
}

/* Preempts one of the last that run, all of them behind the first n_safe. */
static void preempt_behind(struct scheduler *s, int32_t n_safe)
{
    int32_t n = s->n_running - n_safe;
    if (n > SCHEDULER_CHOICE) n = SCHEDULER_CHOICE;
    if (n < 1) n = 1;
    struct sequence *const *last = s->running + s->n_running - n;
    int32_t i = s->choose ? s->choose(s->choose_ud, last, n) : -1;
    preempt(s, last[i >= 0 && i < n ? i : n - 1]);
}

/* 1 if the next token goes to a page that others read too. */
static int must_copy(const struct scheduler *s, const struct sequence *q)
{
    int32_t i = q->n_computed / s->kv->page_size;
    return i < q->n_pages && s->kv->pages[q->pages[i]].refs > 1;
}

/* Makes the page that q's next token goes to, if q has one, q's own. */
static void own_page(struct scheduler *s, struct sequence *q)
{
    int32_t i = q->n_computed / s->kv->page_size, filled = q->n_computed % s->kv->page_size;
    if (i >= q->n_pages) return;
    if (!must_copy(s, q)) {
        kv_rewrite(s->kv, q->pages[i], filled);
        return;
    }
    int32_t from = q->pages[i], to = kv_alloc(s->kv);
    s->plan.copies[s->plan.n_copies++] = (struct page_copy){from, to};
    kv_fill(s->kv, to, filled);
    kv_unref(s->kv, from);
    q->pages[i] = to;
}

/* Gives q pages of its own for its tokens up to n_tokens; 0 if there are not enough (it keeps what it got).
 */
static int reserve(struct scheduler *s, struct sequence *q, int32_t n_tokens)
{
    int32_t need = kv_pages_for(s->kv, n_tokens) - q->n_pages;
    while (need + must_copy(s, q) > kv_n_free(s->kv))
        if (!holding_reclaim(&s->idle, s->kv)) return 0;
    own_page(s, q);
    for (; need > 0; need--) q->pages[q->n_pages++] = kv_alloc(s->kv);
    return 1;
}

/* ---- prefix -------------------------------------------------------------------------------------------- */

/* The name of q's i-th block, all of whose tokens are known. */
static struct block_hash block_name(const struct scheduler *s, struct sequence *q, int32_t i)
{
    int32_t size = s->kv->page_size, tokens[PREFIX_MAX_BLOCK];
    for (; q->n_hashes <= i; q->n_hashes++) {
        int32_t k = q->n_hashes;
        for (int32_t j = 0; j < size; j++) tokens[j] = sequence_token(q, k * size + j);
        q->hashes[k] = prefix_next(&s->kv->index, k ? q->hashes[k - 1] : q->root, tokens, size);
    }
    return q->hashes[i];
}

/* Gives q the pages of its holding, of its first `limit` tokens at most. */
static void take_holding(struct scheduler *s, struct sequence *q, int32_t limit)
{
    int32_t n_tokens = q->holding->n_tokens;
    q->n_pages = holding_take(&s->idle, q->holding, q->pages);
    q->n_computed = n_tokens < limit ? n_tokens : limit;
    int32_t n = kv_pages_for(s->kv, q->n_computed);
    while (q->n_pages > n) kv_unref(s->kv, q->pages[--q->n_pages]);
    q->n_named = q->n_computed / s->kv->page_size;
}

/* Gives q what it need not compute: what its holding has, and the cached pages of the longest prefix that is
 * known. The last token is always computed, for its logits. */
static void find_computed(struct scheduler *s, struct sequence *q)
{
    int32_t limit = sequence_length(q) - 1;
    if (q->n_output == 0 && q->compute_from < limit) limit = q->compute_from;
    if (q->holding) take_holding(s, q, limit);
    if (!s->options.prefix_caching || q->n_computed % s->kv->page_size) return;
    int32_t n = limit / s->kv->page_size;
    while (q->n_pages < n) {
        int32_t page = kv_find(s->kv, block_name(s, q, q->n_pages));
        if (page < 0) break;
        q->pages[q->n_pages++] = page;
    }
    q->n_computed = q->n_pages * s->kv->page_size;
    q->n_named = q->n_pages;
}

/* ---- plan ---------------------------------------------------------------------------------------------- */

static int32_t budget_left(const struct scheduler *s)
{
    return s->budget - s->plan.n_tokens;
}

/* Tokens of q that this step can compute: 0 if its prompt must not be cut and does not fit. */
static int32_t chunk(const struct scheduler *s, const struct sequence *q)
{
    if (q->most_output && q->n_output >= q->most_output) return 0;
    int32_t n = sequence_length(q) - q->n_computed, left = budget_left(s);
    if (n <= left) return n;
    return s->options.chunked_prefill ? left : 0;
}

static void add_item(struct scheduler *s, struct sequence *q, int32_t n)
{
    s->plan.items[s->plan.n_items++] =
        (struct plan_item){q, q->n_computed, n, q->n_computed + n == sequence_length(q)};
    s->plan.n_tokens += n;
}

/* Items taken back leave holes; they must go before more are added than there is room for. */
void plan_close_holes(struct plan *plan)
{
    int32_t n = 0;
    for (int32_t i = 0; i < plan->n_items; i++)
        if (plan->items[i].sequence) plan->items[n++] = plan->items[i];
    plan->n_items = n;
}

/* Those running sequences that decode, or those that do not. Preemption takes what lies behind i, so what
 * lies before i stays where it is; if nothing lies behind it, q itself. */
static void plan_running(struct scheduler *s, int decoding)
{
    for (int32_t i = 0; i < s->n_running; i++) {
        struct sequence *q = s->running[i];
        if ((sequence_length(q) - q->n_computed == 1) != decoding) continue;
        int32_t n = chunk(s, q);
        if (n == 0) continue;
        while (q->state == SEQUENCE_RUNNING && !reserve(s, q, q->n_computed + n)) preempt_behind(s, i + 1);
        if (q->state == SEQUENCE_RUNNING) add_item(s, q, n);
    }
}

/* Pages that running sequences will need for tokens they have already, and for the copies of forks. */
static int32_t promised(const struct scheduler *s)
{
    int32_t n = 0;
    for (int32_t i = 0; i < s->n_running; i++) {
        const struct sequence *q = s->running[i];
        n += kv_pages_for(s->kv, sequence_length(q)) - q->n_pages + q->seats - 1;
    }
    return n;
}

/* 1 if there is room for q beside what runs, perhaps at the cost of idle holdings. */
static int make_room(struct scheduler *s, const struct sequence *q)
{
    int32_t need = kv_pages_for(s->kv, sequence_length(q)) - q->n_pages;
    if (s->n_running > 0) need += promised(s) + s->n_running + seats_for(s, q);
    while (need + must_copy(s, q) > kv_n_free(s->kv))
        if (!holding_reclaim(&s->idle, s->kv)) return 0;
    return 1;
}

/* 1 if the first waiting sequence now runs. */
static int admit(struct scheduler *s, struct sequence *q)
{
    if (s->n_seats + seats_for(s, q) > s->options.max_num_seqs) return 0;
    find_computed(s, q);
    int32_t n = chunk(s, q);
    if (n == 0 || !make_room(s, q)) {
        return_pages(s, q);
        return 0;
    }
    if (q->n_cached < 0) {
        q->n_cached = q->n_computed < q->n_prompt ? q->n_computed : q->n_prompt;
        if (s->options.prefix_caching && !q->holding) {
            s->n_prefix_queries += (uint64_t)q->n_prompt;
            s->n_prefix_hits += (uint64_t)q->n_cached;
        }
    }
    fairness_serve(&s->line, q, q->n_computed, 0);
    fairness_go(&s->line, q);
    start_running(s, q);
    int fits = reserve(s, q, q->n_computed + n);
    assert(fits);
    (void)fits;
    add_item(s, q, n);
    s->plan.n_admitted++;
    return 1;
}

/* Under the priority policy, makes room for `first` at the cost of one that matters less. */
static int make_way(struct scheduler *s, const struct sequence *first)
{
    if (!s->options.priority || s->n_running == 0) return 0;
    struct sequence *last = s->running[s->n_running - 1];
    if (last->priority <= first->priority) return 0;
    preempt_behind(s, s->n_running - 1);
    plan_close_holes(&s->plan);
    return 1;
}

static void plan_waiting(struct scheduler *s)
{
    struct sequence *first;
    while (budget_left(s) > 0 && (first = fairness_first(&s->line))) {
        if (!admit(s, first) && !make_way(s, first)) break;
    }
}

struct plan *scheduler_plan(struct scheduler *s)
{
    struct plan *plan = &s->plan;
    plan->n_items = plan->n_tokens = plan->n_copies = plan->n_admitted = plan->n_preempted = 0;
    plan_running(s, 1);
    plan_running(s, 0);
    plan_close_holes(plan);
    if (plan->n_preempted == 0) plan_waiting(s);
    return plan;
}

/* ---- afterwards ---------------------------------------------------------------------------------------- */

void scheduler_advance(struct scheduler *s)
{
    int32_t size = s->kv->page_size;
    for (int32_t i = 0; i < s->plan.n_items; i++) {
        struct sequence *q = s->plan.items[i].sequence;
        int32_t first = q->n_computed / size;
        q->n_computed += s->plan.items[i].n;
        fairness_serve(&s->line, q, q->n_computed, 1);
        for (int32_t k = first; k * size < q->n_computed; k++) {
            int32_t filled = q->n_computed - k * size;
            kv_fill(s->kv, q->pages[k], filled < size ? filled : size);
        }
    }
    if (s->kv->n_used >= s->n_used_peak && s->kv->n_used > 0) {
        s->n_used_peak = s->kv->n_used;
        s->waste_peak = kv_waste(s->kv);
    }
}

void scheduler_name(struct scheduler *s)
{
    if (!s->options.prefix_caching) return;
    for (int32_t i = 0; i < s->plan.n_items; i++) {
        struct sequence *q = s->plan.items[i].sequence;
        if (!q || q->state != SEQUENCE_RUNNING) continue;
        int32_t known = sequence_known(q), n = known < q->n_computed ? known : q->n_computed;
        for (; (q->n_named + 1) * s->kv->page_size <= n; q->n_named++)
            kv_name(s->kv, q->pages[q->n_named], block_name(s, q, q->n_named));
    }
}

void scheduler_add(struct scheduler *s, struct sequence *q)
{
    if (!(q->weight > 0)) q->weight = 1;
    fairness_enter(&s->line, q);
    q->state = SEQUENCE_WAITING;
    fairness_wait(&s->line, q);
}

void scheduler_fork(struct scheduler *s, struct sequence *parent, struct sequence *child)
{
    int32_t n_full = parent->n_hashes < parent->n_computed / s->kv->page_size
                         ? parent->n_hashes
                         : parent->n_computed / s->kv->page_size;
    memcpy(child->hashes, parent->hashes, sizeof *child->hashes * (size_t)n_full);
    child->n_hashes = n_full;
    child->n_cached = parent->n_cached;
    child->group = 1;
    child->tenant = parent->tenant;
    child->weight = parent->weight;
    parent->group--;
    if (parent->seats == 1) {
        scheduler_add(s, child);
        return;
    }
    for (int32_t i = 0; i < parent->n_pages; i++) {
        child->pages[i] = parent->pages[i];
        kv_ref(s->kv, child->pages[i]);
    }
    child->n_pages = parent->n_pages;
    child->n_computed = parent->n_computed;
    child->n_named = parent->n_named;
    child->n_served = parent->n_served;
    fairness_enter(&s->line, child);
    parent->seats--;
    s->n_seats--;
    start_running(s, child);
}

void scheduler_finish(struct scheduler *s, struct sequence *q)
{
    if (q->state == SEQUENCE_WAITING) fairness_go(&s->line, q);
    take_back(s, q);
    if (q->state == SEQUENCE_RUNNING) {
        stop_running(s, q);
        return_pages(s, q);
    }
    if (q->account) fairness_leave(&s->line, q);
    q->state = SEQUENCE_FINISHED;
}
