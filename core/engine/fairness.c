#include "engine/fairness.h"

#include "base/mem.h"

#include <stddef.h>

enum { N_ACCOUNTS = 1024, PROBES = 8, OUTPUT_COST = 2 };

llm_status fairness_init(struct fairness *f, struct llm_error *err)
{
    *f = (struct fairness){.accounts = mem_array(N_ACCOUNTS, sizeof *f->accounts)};
    return f->accounts ? LLM_OK : llm_fail(err, LLM_ENOMEM, "no memory for the accounts of tenants");
}

void fairness_deinit(struct fairness *f)
{
    mem_free(f->accounts);
    f->accounts = NULL;
}

/* The tenant's account, or one that nobody uses; else it shares its first. */
static struct fair_account *account_of(struct fairness *f, uint64_t tenant)
{
    uint32_t home = (uint32_t)((tenant * 0x9E3779B97F4A7C15u) >> 32);
    struct fair_account *unused = NULL;
    for (uint32_t i = 0; i < PROBES; i++) {
        struct fair_account *a = &f->accounts[(home + i) % N_ACCOUNTS];
        if (a->tenant == tenant && (a->n_users || a->served > f->now)) return a;
        if (!a->n_users && (!unused || a->served < unused->served)) unused = a;
    }
    if (!unused) return &f->accounts[home % N_ACCOUNTS];
    *unused = (struct fair_account){.tenant = tenant};
    return unused;
}

void fairness_enter(struct fairness *f, struct sequence *s)
{
    struct fair_account *a = account_of(f, s->tenant);
    if (!a->n_users && a->served < f->now) a->served = f->now;
    a->n_users++;
    s->account = a;
}

void fairness_leave(struct fairness *f, struct sequence *s)
{
    (void)f;
    s->account->n_users--;
    s->account = NULL;
}

void fairness_serve(struct fairness *f, struct sequence *s, int32_t n_computed, int charge)
{
    (void)f;
    if (n_computed <= s->n_served) return;
    int32_t n = n_computed - s->n_served, prompt = s->n_prompt - s->n_served;
    int32_t n_prompt = prompt < 0 ? 0 : prompt < n ? prompt : n;
    s->n_served = n_computed;
    if (charge) s->account->served += (n_prompt + OUTPUT_COST * (double)(n - n_prompt)) / s->weight;
}

void fairness_wait(struct fairness *f, struct sequence *s)
{
    struct fair_account *a = s->account;
    if (!a->waiting.count) {
        a->previous = NULL;
        a->next = f->active;
        if (a->next) a->next->previous = a;
        f->active = a;
    }
    queue_insert(&a->waiting, s);
    f->n_waiting++;
}

void fairness_go(struct fairness *f, struct sequence *s)
{
    struct fair_account *a = s->account;
    queue_remove(&a->waiting, s);
    f->n_waiting--;
    if (a->served > f->now) f->now = a->served;
    if (a->waiting.count) return;
    if (a->previous)
        a->previous->next = a->next;
    else
        f->active = a->next;
    if (a->next) a->next->previous = a->previous;
}

static int goes_before(const struct fair_account *a, const struct fair_account *b)
{
    const struct sequence *p = a->waiting.first, *q = b->waiting.first;
    if (p->priority != q->priority) return p->priority < q->priority;
    if (a->served != b->served) return a->served < b->served;
    return sequence_before(p, q);
}

struct sequence *fairness_first(const struct fairness *f)
{
    const struct fair_account *first = f->active;
    for (const struct fair_account *a = first; a; a = a->next)
        if (goes_before(a, first)) first = a;
    return first ? first->waiting.first : NULL;
}
