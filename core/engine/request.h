#ifndef LLM_ENGINE_REQUEST_H
#define LLM_ENGINE_REQUEST_H

/* A request and its sequences' outputs: made on the client's thread by llm_submit, handed to the engine's,
 * freed on the client's when both are done with it. All memory it will ever need is in one block.
 *
 * Who may touch what is said at each group of fields. The engine publishes an output's progress in one atomic
 * word, `news`, and posts the output's letter to its client's mailbox unless one is on its way already. The
 * word with NEWS_FINAL, or the letter that announces it, is the engine's last touch. */

#include "base/mailbox.h"
#include "engine/counts.h"
#include "engine/policy.h"
#include "engine/sampler.h"
#include "engine/sequence.h"
#include "engine/stop.h"
#include "llmlua.h"
#include "model/tokenizer.h"

#include <semaphore.h>

/* Layout of `news`. Bytes of text that may be shown: NEWS_ALL_TEXT if nothing is held back. */
#define NEWS_PENDING ((uint64_t)1 << 63) /* the letter is on its way */
#define NEWS_FINAL   ((uint64_t)1 << 62)
enum { NEWS_TOKEN_BITS = 26, NEWS_TEXT_BITS = 36 };
#define NEWS_ALL_TEXT (((uint64_t)1 << NEWS_TEXT_BITS) - 1)

static inline uint64_t news_pack(int32_t n_tokens, uint64_t text_end)
{
    return (uint64_t)(uint32_t)n_tokens << NEWS_TEXT_BITS | text_end;
}

static inline int32_t news_tokens(uint64_t news)
{
    return (int32_t)(news >> NEWS_TEXT_BITS & (((uint64_t)1 << NEWS_TOKEN_BITS) - 1));
}

static inline uint64_t news_text(uint64_t news)
{
    return news & NEWS_ALL_TEXT;
}

/* What comes to the engine's mailbox. */
enum letter_kind { LETTER_REQUEST, LETTER_FORK, LETTER_DEPARTURE, LETTER_FAREWELL, LETTER_ERRAND };
struct letter {
    struct mail mail; /* first */
    enum letter_kind kind;
};

/* A client wants to close its mailbox: `done` is posted when the engine will not touch it again. */
struct farewell {
    struct letter letter; /* first */
    sem_t done;
};

/* Who can make a request's tokens. */
enum sampled_by {
    BY_HOST,
    BY_DEVICE, /* as it is */
    BY_SEAT    /* a device, with a seat (seating.h) for each sequence */
};

/* One sequence of a request. */
struct output {
    struct sequence sequence; /* first: the scheduler hands sequences back. Engine's */
    struct llm_request *request;

    /* the engine's */
    struct token_counts counts;
    struct stop_matcher stop;
    struct detokenizer stop_text; /* text for the matcher; the client makes its own */
    uint64_t text_end;
    int64_t t_token; /* ns, of its last token; 0: none yet */
    int32_t seat;    /* -1: none */

    /* written by the engine before it is published, then constant */
    struct llm_logprob *logprobs; /* [max_output, n_logprobs]; null: not asked for */
    enum llm_finish_reason finish;
    int stopped_by_token, stopped_by_string;
    int mute_last; /* 1: the last token's text is not part of the output */
    int32_t stop_token;
    const char *stop_string;

    struct mail mail;
    _Atomic uint64_t news;

    /* the client's */
    struct detokenizer text_state;
    char *text; /* made and not yet given away, then what the last event gave */
    size_t n_text, n_given, text_capacity;
    size_t *ends; /* [n_rendered - n_delivered] where in `text` the text of each token ends; stream only */
    size_t ends_capacity;
    uint64_t text_total;             /* bytes given away so far */
    int32_t n_rendered, n_delivered; /* tokens */
};

/* The output that a sequence of the scheduler is. */
static inline struct output *output_of(struct sequence *q)
{
    return (struct output *)q; /* its first member */
}

struct llm_request {
    /* constant once submitted */
    struct llm_engine *engine;
    struct llm_client *client;
    struct mailbox *reply; /* the client's */
    void *user;
    int stream, renders; /* renders: events carry text */
    enum sampled_by by;  /* on a device that samples */
    uint64_t seed;
    struct llm_sampling sampling; /* arrays are in the block */
    size_t *stop_bytes;
    struct token_span *bad_words;
    int32_t n_bad_words;
    int32_t n, n_prompt, max_output;
    int32_t *prompt;
    const char *cache_salt; /* null: none */
    size_t salt_bytes;
    int32_t n_logprobs, n_prompt_logprobs; /* entries a row; 0: not asked for */
    int32_t score_start;   /* prompt_logprobs has a row for each token of the prompt from here */
    struct handle *handle; /* of the sequence it runs on (handle.h); null: none */
    int32_t n_agreed;      /* tokens of the prompt that the handle's are, if it has as many */
    int discard;           /* 1: the sequence will be what it was */
    int64_t t_submitted;   /* ns */
    int64_t deadline;      /* ns; 0: none. The engine's from when it has come */
    char tenant[LLM_TENANT_BYTES];
    struct policy_chain *chain; /* null: no policies. Its runs and error are the engine's */

    struct letter letter; /* to the engine, once */
    _Atomic int cancelled;

    /* the engine's; atomic as llm_request_info looks at them any time */
    struct llm_request *next, *previous; /* all that the engine has */
    int32_t n_live;                      /* outputs not finished */
    struct hooks *hooks;                 /* it came under; null: none */
    void *own;                           /* theirs */
    struct llm_error error;              /* why it ends, if status is not 0; published with the end */
    int32_t refusal;
    int scheduled;
    _Atomic int32_t n_cached, n_preemptions;
    _Atomic int64_t t_scheduled, t_first_token, t_finished; /* ns, 0: not yet */

    struct llm_logprob *prompt_logprobs; /* published with the first token */

    /* the client's */
    struct llm_request *next_of_client, *previous_of_client;
    struct llm_sequence *sequence; /* that it extends; null: none, or no longer */
    int32_t n_before;              /* tokens of the sequence before it */
    int released;
    int32_t n_done; /* outputs whose last event was taken */

    struct output outputs[]; /* [n] */
};

/* What a request is checked against. */
struct request_limits {
    int32_t vocab_size, max_model_len, block_size, max_logprobs;
    const struct tokenizer *tokenizer; /* null: ids only */
    int on_sequence;                   /* 1: the request runs on a sequence, which allows more */
};

/* Checks spec, tokenizes, makes the request. Errors: LLM_EINVAL, LLM_ENOMEM, those of the tokenizer. */
llm_status request_create(const struct llm_request_spec *spec, const struct request_limits *limits,
                          struct llm_request **out, struct llm_error *err);
void request_destroy(struct llm_request *r);

/* Checks everything but the prompt. Errors: LLM_EINVAL: the parameter, its value, what it must be. */
llm_status sampling_check(const struct llm_sampling *p, const struct request_limits *limits,
                          struct llm_error *err);

#endif
