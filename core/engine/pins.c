#include "engine/pins.h"

#include "base/mem.h"
#include "engine/engine.h"

#include <math.h>
#include <string.h>

void pins_init(struct pins *p, int32_t n_pages, int32_t longest)
{
    int32_t most = n_pages / 4 < n_pages - longest ? n_pages / 4 : n_pages - longest;
    *p = (struct pins){.most = most > 0 ? most : 0, .next_end = INT64_MAX};
}

void pins_deinit(struct pins *p)
{
    for (struct pin *pin = p->first, *next; pin; pin = next) {
        next = pin->next;
        mem_free(pin);
    }
}

/* Takes the pin if it holds any page; else it returns 0. */
static int add(struct pins *p, struct kv_pool *kv, struct pin *pin, struct block_hash root,
               const int32_t *ids, int32_t n_blocks)
{
    struct block_hash hash = root;
    for (int32_t i = 0; i < n_blocks && p->n_pages < p->most; i++) {
        hash = prefix_next(&kv->index, hash, ids + (size_t)i * (size_t)kv->page_size, kv->page_size);
        int32_t page = kv_find(kv, hash);
        if (page < 0) break;
        pin->pages[pin->n_pages++] = page;
        p->n_pages++;
    }
    if (pin->n_pages == 0) return 0;
    pin->id = ++p->n_made;
    pin->next = p->first;
    p->first = pin;
    if (pin->expires < p->next_end) p->next_end = pin->expires;
    return 1;
}

static void drop(struct pins *p, struct kv_pool *kv, struct pin **at)
{
    struct pin *pin = *at;
    *at = pin->next;
    p->n_pages -= pin->n_pages;
    /* the end first: it is forgotten first */
    while (pin->n_pages > 0) kv_unref(kv, pin->pages[--pin->n_pages]);
    mem_free(pin);
}

static int remove_pin(struct pins *p, struct kv_pool *kv, uint64_t id)
{
    for (struct pin **at = &p->first; *at; at = &(*at)->next) {
        if ((*at)->id != id) continue;
        drop(p, kv, at);
        return 1;
    }
    return 0;
}

void pins_look(struct pins *p, struct kv_pool *kv, int64_t now)
{
    if (now < p->next_end) return;
    p->next_end = INT64_MAX;
    for (struct pin **at = &p->first; *at;) {
        if ((*at)->expires <= now) {
            drop(p, kv, at);
            continue;
        }
        if ((*at)->expires < p->next_end) p->next_end = (*at)->expires;
        at = &(*at)->next;
    }
}

/* ---- from other threads -------------------------------------------------------------------------------- */

enum errand_kind { ERRAND_PIN, ERRAND_UNPIN, ERRAND_EVICT };

struct errand {
    struct letter letter; /* first */
    enum errand_kind kind;
    struct pin *pin;
    const int32_t *ids;
    int32_t n_blocks;
    const char *salt;
    uint64_t id;
    int result;
    struct llm_pin made; /* of a pin, which may be gone by the time it is looked at */
    sem_t done;
};

void pins_run(struct llm_engine *e, struct letter *letter)
{
    struct errand *x = (struct errand *)letter;
    struct block_hash root = prefix_root(&e->kv.index, x->salt, x->salt ? strlen(x->salt) : 0);
    if (x->kind == ERRAND_PIN) {
        x->result = add(&e->pins, &e->kv, x->pin, root, x->ids, x->n_blocks);
        x->made = (struct llm_pin){x->pin->id, (size_t)x->pin->n_pages * (size_t)e->kv.page_size};
    } else if (x->kind == ERRAND_UNPIN) {
        x->result = remove_pin(&e->pins, &e->kv, x->id);
    } else {
        x->result = kv_evict(&e->kv, prefix_next(&e->kv.index, root, x->ids, e->kv.page_size));
    }
    sem_post(&x->done); /* x is gone */
}

static void send(struct llm_engine *e, struct errand *x)
{
    x->letter.kind = LETTER_ERRAND;
    sem_init(&x->done, 0, 0);
    mailbox_post(&e->inbox, &x->letter.mail);
    while (sem_wait(&x->done)) { /* interrupted by a signal */
    }
    sem_destroy(&x->done);
}

static llm_status check(const struct llm_engine *e, size_t n_ids, struct llm_error *err)
{
    if (atomic_load_explicit(&e->failed, memory_order_acquire))
        return llm_fail(err, LLM_EFAILED, "the engine has failed: %s", e->error.message);
    if (n_ids >= (size_t)e->config.block_size && n_ids <= (size_t)e->config.max_model_len) return LLM_OK;
    return llm_fail(err, LLM_EINVAL, "the prefix has %zu tokens; it must have %d (a block) to %d", n_ids,
                    e->config.block_size, e->config.max_model_len);
}

llm_status llm_prefix_pin(struct llm_engine *e, const int32_t *ids, size_t n_ids, const char *cache_salt,
                          double seconds, struct llm_pin *out, struct llm_error *err)
{
    llm_status status = check(e, n_ids, err);
    if (status) return status;
    if (!(seconds >= 0 && seconds < 1e9))
        return llm_fail(err, LLM_EINVAL, "a pin's time is %g; it must be from 0 (none) to 1e9 seconds",
                        seconds);
    int32_t n_blocks = (int32_t)n_ids / e->config.block_size;
    struct pin *pin = mem_zalloc(sizeof *pin + sizeof *pin->pages * (size_t)n_blocks);
    if (!pin) return llm_fail(err, LLM_ENOMEM, "no memory for a pin of %d blocks", n_blocks);
    pin->expires = seconds > 0 ? clock_ns() + (int64_t)(seconds * 1e9) : INT64_MAX;
    struct errand x = {.kind = ERRAND_PIN, .pin = pin, .ids = ids, .n_blocks = n_blocks, .salt = cache_salt};
    send(e, &x);
    if (!x.result) {
        mem_free(pin);
        return llm_fail(err, LLM_ENOENT,
                        "the prefix is not cached, or pins hold %d blocks already, the most they may",
                        e->pins.most);
    }
    *out = x.made;
    return LLM_OK;
}

llm_status llm_prefix_unpin(struct llm_engine *e, uint64_t id, struct llm_error *err)
{
    struct errand x = {.kind = ERRAND_UNPIN, .id = id};
    send(e, &x);
    if (x.result) return LLM_OK;
    return llm_fail(err, LLM_ENOENT, "there is no pin %llu: its time may be over", (unsigned long long)id);
}

llm_status llm_prefix_evict(struct llm_engine *e, const int32_t *ids, size_t n_ids, const char *cache_salt,
                            struct llm_error *err)
{
    llm_status status = check(e, n_ids, err);
    if (status) return status;
    struct errand x = {.kind = ERRAND_EVICT, .ids = ids, .salt = cache_salt};
    send(e, &x);
    return x.result ? LLM_OK : llm_fail(err, LLM_ENOENT, "the prefix is not cached");
}
