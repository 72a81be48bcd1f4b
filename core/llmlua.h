#ifndef LLMLUA_H
#define LLMLUA_H

/* llmlua: an LLM inference engine as a library. This header is the specification of its C API.
 *
 * Who should use it: a program that wants text from a model and keeps its own threads, sockets and policy. It
 * opens an engine (a model, its KV memory and a thread that runs it), opens a client for each thread that
 * talks to it, submits requests and takes events. The engine batches all clients' requests continuously.
 *
 * Threads: llm_engine_* may be called from any thread unless said otherwise. A client and its requests belong
 * to one thread at a time. No call but llm_wait, llm_client_close (for a step at most), llm_engine_open and
 * llm_engine_close blocks. Errors: values
 * (base/status.h), with a message that says what to do. The library never prints, exits or aborts. Memory:
 * what a call borrows it has copied or forgotten when it returns. Pointers it hands out say how long they
 * live.
 */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct llm_engine;
struct llm_client;
struct llm_request;
struct llm_tokenizer;

const char *llm_version(void); /* "0.1.0" */

/* ---- engine -------------------------------------------------------------------------------------------- */

/* llm_engine_options_init fills all defaults in. A zero count or a null string means the default too; the
 * enable_ fields and max_logprobs count as they are. Names are vLLM's. Strings are borrowed for the call. */
struct llm_engine_options {
    const char *model;       /* GGUF file or Hugging Face directory; required */
    const char *tokenizer;   /* path to take the tokenizer from; null: the model's own */
    int skip_tokenizer_init; /* 1: token ids in, token ids out */
    const char *load_format; /* "auto", "gguf", "safetensors", "dummy"; "null": no model (null_model.h) */
    float null_step_ms;      /* load_format "null": what a step takes, at least; default 0 */
    const char *dtype;       /* "auto", "float32", "float16", "bfloat16": float weights */
    const char
        *kv_cache_dtype; /* "auto" (float16; float32 under dtype float32), "float32", "float16", "bfloat16" */
    uint64_t seed;       /* of requests that bring none (mixed with their number), and of dummy weights */
    int32_t max_model_len;          /* tokens, prompt and output; default: the model's own */
    int32_t max_num_seqs;           /* sequences in one step; default 256 */
    int32_t max_num_batched_tokens; /* token budget of one step; default 512 */
    int32_t block_size;             /* tokens a KV page; default 16 */
    /* bytes; default: what max_num_seqs sequences of max_model_len need, but at most 4 GiB (or what one such
     * sequence needs) and half of the memory that is free. Pages are backed by the system as they are used.
     */
    uint64_t kv_cache_memory;
    int enable_prefix_caching;     /* default 1 */
    int enable_chunked_prefill;    /* default 1; 0: a prompt runs whole, the budget permitting */
    const char *scheduling_policy; /* "fcfs" (default), "priority" */
    int32_t max_num_queued_reqs;   /* beyond it llm_submit answers LLM_EFULL; default: no bound */
    int32_t max_logprobs;          /* most that a request may ask for; default 20; -1: the vocabulary */
    int32_t threads;               /* default: the processors this process may use */
    const char *cpu_isa;           /* "ref", "avx2", "avx512"; null: the best here */
    /* Called on the opening thread while weights load. */
    void (*on_load)(void *ud, int64_t bytes_done, int64_t bytes_total);
    void *on_load_ud;
};

void llm_engine_options_init(struct llm_engine_options *options);

/* Loads the model and starts the engine's thread. Errors: LLM_EINVAL (which option, what it must be),
 * LLM_ENOENT, LLM_EFORMAT, LLM_EUNSUP, LLM_EIO, LLM_ENOMEM. */
llm_status llm_engine_open(const struct llm_engine_options *options, struct llm_engine **out,
                           struct llm_error *err);
/* Cancels what runs, joins the thread, frees everything. Close all clients first. */
void llm_engine_close(struct llm_engine *engine);

struct llm_model_info {
    const char *path, *architecture; /* live as long as the engine */
    int32_t vocab_size, hidden_size, n_layers, n_heads, n_kv_heads, head_dim;
    int32_t max_model_len;
    int32_t block_size, n_blocks;
    uint64_t weight_bytes; /* read from memory by a decode step */
    uint64_t kv_bytes_per_token;
    const char *backend, *isa;
    int32_t threads;
    /* Sampling defaults of the model's authors (generation_config.json); NaN, or -1 for top_k: none given. */
    float default_temperature, default_top_p, default_min_p, default_repetition_penalty;
    int32_t default_top_k;
};
void llm_engine_model_info(const struct llm_engine *engine, struct llm_model_info *out);

/* A snapshot of the engine's counters, at most one step old; as of an event, it counts all that led to it.
 * Counters only grow. */
struct llm_stats {
    int32_t n_running, n_waiting;
    int32_t n_blocks, n_blocks_used; /* used: referenced by a sequence; cached but free pages are not */
    int32_t n_blocks_peak;           /* most ever used */
    double kv_waste_peak; /* slots of used pages that held no token, as a share, at the fullest step */
    uint64_t n_steps, n_prompt_tokens, n_output_tokens, n_preemptions;
    uint64_t n_prefix_queries, n_prefix_hits; /* tokens */
    uint64_t n_finished;
    double busy_seconds; /* time inside steps */
};
void llm_engine_stats(const struct llm_engine *engine, struct llm_stats *out);

/* Forgets all cached prefixes. Takes effect before the next step. */
void llm_engine_reset_prefix_cache(struct llm_engine *engine);

/* ---- tokenizer ----------------------------------------------------------------------------------------- */

/* The engine's, borrowed, null if it has none. Immutable: any thread. */
const struct llm_tokenizer *llm_engine_tokenizer(const struct llm_engine *engine);
llm_status llm_tokenizer_open(const char *path, struct llm_tokenizer **out, struct llm_error *err);
void llm_tokenizer_close(struct llm_tokenizer *tokenizer);

struct llm_tokenizer_info {
    int32_t vocab_size;
    int32_t bos, eos;          /* -1: none */
    const char *chat_template; /* Jinja; null: none. Lives as long as the tokenizer */
};
void llm_tokenizer_info(const struct llm_tokenizer *tokenizer, struct llm_tokenizer_info *out);

/* Writes up to capacity ids, *n says how many the text has (call again with room if it is more). add_special:
 * what the model's tokenizer adds by itself, such as BOS; parse_special: text that spells a control token
 * becomes it. */
llm_status llm_tokenize(const struct llm_tokenizer *tokenizer, const char *text, size_t bytes,
                        int add_special, int parse_special, int32_t *ids, size_t capacity, size_t *n,
                        struct llm_error *err);
/* Writes up to capacity bytes of UTF-8 (no NUL), *bytes says how long the text is. Errors: LLM_EINVAL (an id
 * out of range). */
llm_status llm_detokenize(const struct llm_tokenizer *tokenizer, const int32_t *ids, size_t n,
                          int skip_special, char *text, size_t capacity, size_t *bytes,
                          struct llm_error *err);

/* ---- requests ------------------------------------------------------------------------------------------ */

enum { LLM_LOGPROBS_NONE = -2, LLM_LOGPROBS_ALL = -1 };

struct llm_token_bias {
    int32_t token;
    float bias;
};

/* vLLM's SamplingParams: same names, same defaults (llm_sampling_init), same order of application:
 * allowed_token_ids, bad_words, min_tokens, logit_bias, penalties, temperature, min_p, top_k, top_p. Arrays
 * are borrowed for the call. */
struct llm_sampling {
    int32_t n;                /* 1; sequences sampled from one prompt */
    float temperature;        /* 1; 0: greedy; >= 0 */
    float top_p;              /* 1; (0, 1] */
    int32_t top_k;            /* 0; 0 or -1: off */
    float min_p;              /* 0; [0, 1] */
    float presence_penalty;   /* 0; [-2, 2] */
    float frequency_penalty;  /* 0; [-2, 2] */
    float repetition_penalty; /* 1; > 0 */
    int has_seed;             /* 0; 1: seed below counts */
    uint64_t seed;
    int32_t max_tokens;             /* 16; >= 1; -1: up to max_model_len */
    int32_t min_tokens;             /* 0; <= max_tokens */
    int ignore_eos;                 /* 0 */
    int skip_special_tokens;        /* 1 */
    int include_stop_str_in_output; /* 0 */
    int detokenize;                 /* 1 */
    int32_t logprobs;               /* LLM_LOGPROBS_NONE; 0: the sampled token's only */
    int32_t prompt_logprobs;        /* LLM_LOGPROBS_NONE */
    /* Strings, NUL-terminated, not empty; need detokenize. If a token completes several, the one that begins
     * first counts. Text is held back only while it may become one of them. */
    const char *const *stop;
    size_t n_stop;
    const int32_t *stop_token_ids;
    size_t n_stop_token_ids;
    const int32_t *allowed_token_ids;
    size_t n_allowed_token_ids;
    const char *const *bad_words;
    size_t n_bad_words;
    const struct llm_token_bias *logit_bias; /* bias in [-100, 100] */
    size_t n_logit_bias;
};
void llm_sampling_init(struct llm_sampling *sampling);

/* Either text or ids. An empty prompt is LLM_EINVAL unless the tokenizer adds a BOS. */
struct llm_request_spec {
    const char *prompt; /* UTF-8, prompt_bytes long; null: ids */
    size_t prompt_bytes;
    int add_special_tokens;   /* 1: what the model's tokenizer adds by itself, such as BOS */
    int parse_special_tokens; /* 1: text that spells a control token becomes it */
    const int32_t *prompt_ids;
    size_t n_prompt_ids;
    int32_t truncate_prompt_tokens; /* 0: no; k: keep the last k */
    int32_t priority;               /* 0; lower runs sooner, under the priority policy */
    const char *cache_salt;         /* null; prefixes are shared only among equal salts */
    int stream; /* 1: events as tokens come; 0: one event a sequence, when it has finished */
    void *user; /* comes back in events */
    struct llm_sampling sampling;
};
void llm_request_spec_init(struct llm_request_spec *spec);

/* Most alternatives first. rank: 1 is the most likely token. */
struct llm_logprob {
    int32_t token;
    int32_t rank;
    float logprob;
};

enum llm_finish_reason {
    LLM_FINISH_NONE,
    LLM_FINISH_STOP,
    LLM_FINISH_LENGTH,
    LLM_FINISH_ABORT,
    LLM_FINISH_ERROR
};

/* What happened to one sequence of a request since its last event. Pointers live until the next llm_next on
 * this client or llm_release of the request, whichever is first. */
struct llm_event {
    struct llm_request *request;
    void *user;
    int32_t index;    /* of the sequence, 0 .. n-1 */
    const char *text; /* new text: whole UTF-8 characters, never part of a stop string */
    size_t text_bytes;
    const int32_t *tokens; /* new tokens */
    size_t n_tokens;
    /* If asked for: n_tokens rows of n_logprobs entries: the sampled token, then the top ones in order (the
     * sampled one appears again if it is among them). */
    const struct llm_logprob *logprobs;
    int32_t n_logprobs;                      /* entries a row */
    enum llm_finish_reason finish;           /* NONE while it runs */
    int stopped_by_token, stopped_by_string; /* with FINISH_STOP: neither means end-of-sequence */
    int32_t stop_token;                      /* if stopped_by_token */
    const char *stop_string;                 /* if stopped_by_string */
    int request_done;                        /* 1: the request's last event */
    const struct llm_error *error;           /* with FINISH_ERROR */
};

/* What is known of a request besides its events. Times in seconds of CLOCK_MONOTONIC. */
struct llm_request_info {
    const int32_t *prompt_tokens; /* lives until llm_release */
    size_t n_prompt_tokens;
    size_t n_cached_tokens; /* of the prompt, found in the prefix cache at first admission */
    int32_t n_preemptions;
    double t_submitted, t_scheduled, t_first_token, t_finished; /* 0: not yet */
    /* prompt_logprobs, complete once the first event is out: n_prompt_tokens rows (row 0 holds nothing: token
     * is -1) of n_prompt_logprobs entries as in events. Null if not asked for. */
    const struct llm_logprob *prompt_logprobs;
    int32_t n_prompt_logprobs;
};

/* ---- client -------------------------------------------------------------------------------------------- */

llm_status llm_client_open(struct llm_engine *engine, struct llm_client **out, struct llm_error *err);
/* Cancels and releases all its requests; returns when the engine has let go of them: after a step at most. */
void llm_client_close(struct llm_client *client);

/* A file descriptor that polls readable while events may wait, until llm_next has answered LLM_EAGAIN; for an
 * event loop. Owned by the client. */
int llm_client_fd(const struct llm_client *client);

/* Validates everything, tokenizes, queues. Errors: LLM_EINVAL (which parameter, what it must be; a prompt too
 * long for max_model_len says both lengths), LLM_EFULL, LLM_ENOMEM, LLM_EFAILED (the engine has failed: its
 * reason). Release the request when its last event has been taken; releasing earlier cancels it. */
llm_status llm_submit(struct llm_client *client, const struct llm_request_spec *spec,
                      struct llm_request **out, struct llm_error *err);

/* The next event of any of this client's requests. LLM_OK, or LLM_EAGAIN: none waits, or LLM_ENOMEM: there is
 * no room for its text now, and it waits on. */
llm_status llm_next(struct llm_client *client, struct llm_event *out);
/* Blocks until an event waits: LLM_OK, or LLM_EAGAIN after timeout_ms (-1: none), or LLM_EFAILED. */
llm_status llm_wait(struct llm_client *client, int32_t timeout_ms);

/* Its pages are free within one step; an event with FINISH_ABORT follows. Harmless on a finished request. */
void llm_cancel(struct llm_request *request);
void llm_release(struct llm_request *request);
void llm_request_info(const struct llm_request *request, struct llm_request_info *out);

#ifdef __cplusplus
}
#endif
#endif
