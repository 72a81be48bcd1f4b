#define _GNU_SOURCE
#include "policy_loader.h"

#include "base/mem.h"

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* ---- one load ------------------------------------------------------------------------------------------ */

void policy_load_run(struct policy_load *load, struct llm_engine *engine)
{
    struct llm_policy policy;
    struct llm_scheduler scheduler;
    llm_status status =
        policy_host_load(engine, load->chunk_name, load->text, load->bytes, &load->limits, &policy,
                         &scheduler, load->details, sizeof load->details, &load->err);
    if (status) return;
    policy.asked = load->asked;
    snprintf(load->name, sizeof load->name, "%s", policy.name);
    status = scheduler.self ? llm_scheduler_set(engine, &scheduler, &load->err)
                            : llm_policy_add(engine, &policy, &load->generation, &load->err);
    if (status) policy.close(policy.self);
}

/* In one block with its texts. */
static struct policy_load *copy_of(const struct policy_load *from)
{
    size_t name_bytes = strlen(from->chunk_name) + 1;
    struct policy_load *load = mem_zalloc(sizeof *load + name_bytes + from->bytes);
    if (!load) return NULL;
    char *texts = (char *)(load + 1);
    load->limits = from->limits;
    load->bytes = from->bytes;
    load->chunk_name = memcpy(texts, from->chunk_name, name_bytes);
    load->text = memcpy(texts + name_bytes, from->text, from->bytes);
    return load;
}

/* ---- the thread ---------------------------------------------------------------------------------------- */

struct policy_loader {
    struct llm_engine *engine;
    struct mailbox asked, done;
    /* The state's thread's: */
    struct mail *taken;       /* of done, oldest first */
    struct policy_load *last; /* that policy_loader_take has given */
    pthread_t thread;
    int started;
    _Atomic int closing;
};

static void free_letters(struct mail *letter)
{
    for (struct mail *next; letter; letter = next) {
        next = letter->next;
        mem_free(letter); /* a load's first member */
    }
}

static int is_closing(struct policy_loader *p)
{
    return atomic_load_explicit(&p->closing, memory_order_acquire);
}

static void *loader_main(void *arg)
{
    struct policy_loader *p = arg;
    while (!is_closing(p)) {
        struct mail *letter = mailbox_take(&p->asked);
        if (!letter) {
            mailbox_wait(&p->asked, -1);
            mailbox_clear(&p->asked);
        }
        while (letter && !is_closing(p)) {
            struct policy_load *load = (struct policy_load *)letter;
            letter = letter->next;
            policy_load_run(load, p->engine);
            mailbox_post(&p->done, &load->mail);
        }
        free_letters(letter);
    }
    return NULL;
}

/* What ends or reloads the program is for its own thread; the watchdog's signal is each thread's own. */
static int start(struct policy_loader *p)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2, SIGQUIT};
    sigset_t set, before;
    sigemptyset(&set);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) sigaddset(&set, numbers[i]);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    int code = pthread_create(&p->thread, NULL, loader_main, p);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    p->started = code == 0;
    return code;
}

llm_status policy_loader_open(struct llm_engine *engine, struct policy_loader **out, struct llm_error *err)
{
    struct policy_loader *p = mem_zalloc(sizeof *p);
    if (!p) return llm_fail(err, LLM_ENOMEM, "no memory for a thread that loads policies");
    p->engine = engine;
    p->asked.fd = p->done.fd = -1;
    llm_status status = mailbox_init(&p->asked, err);
    if (!status) status = mailbox_init(&p->done, err);
    int code = status ? 0 : start(p);
    if (code)
        status = llm_fail(err, LLM_ENOMEM, "cannot start a thread that loads policies: %s", strerror(code));
    if (status)
        policy_loader_close(p);
    else
        *out = p;
    return status;
}

void policy_loader_close(struct policy_loader *p)
{
    if (!p) return;
    if (p->started) {
        atomic_store_explicit(&p->closing, 1, memory_order_release);
        mailbox_wake(&p->asked);
        pthread_join(p->thread, NULL);
    }
    free_letters(mailbox_take(&p->asked));
    free_letters(mailbox_take(&p->done));
    free_letters(p->taken);
    mem_free(p->last);
    mailbox_deinit(&p->asked);
    mailbox_deinit(&p->done);
    mem_free(p);
}

llm_status policy_loader_ask(struct policy_loader *p, const struct policy_load *asked, uint64_t *number,
                             struct llm_error *err)
{
    struct policy_load *load = copy_of(asked);
    if (!load) return llm_fail(err, LLM_ENOMEM, "no memory to load a policy");
    *number = load->asked = llm_policy_ask(p->engine);
    mailbox_post(&p->asked, &load->mail);
    return LLM_OK;
}

const struct policy_load *policy_loader_take(struct policy_loader *p)
{
    if (!p->taken) {
        mailbox_clear(&p->done);
        p->taken = mailbox_take(&p->done);
    }
    mem_free(p->last);
    p->last = (struct policy_load *)p->taken;
    if (p->last) p->taken = p->last->mail.next;
    return p->last;
}

int policy_loader_fd(const struct policy_loader *p)
{
    return p->done.fd;
}
