#ifndef LLMLUA_H
#define LLMLUA_H

/* llmlua: an LLM inference engine as a library. This header is the specification of its C API.
 *
 * Who should use it: a program that wants text from a model and keeps its own threads, sockets and policy. It
 * opens an engine (a model, its KV memory and a thread that runs it), opens a client for each thread that
 * talks to it, submits requests and takes events. The engine batches all clients' requests continuously.
 *
 * Threads: llm_engine_* may be called from any thread unless said otherwise. A client and its requests belong
 * to one thread at a time. llm_engine_open and _close, llm_tokenizer_open, llm_policy_add (it may compile),
 * llm_wait, llm_client_close and llm_prefix_* (a step at most) block; no other call does. Errors: values
 * (base/status.h), with a message that says what to do. The library never prints, exits or aborts. Memory:
 * what a call borrows it has copied or forgotten when it returns. Pointers it hands out say how long they
 * live. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct llm_engine;
struct llm_client;
struct llm_request;
struct llm_sequence;
struct llm_tokenizer;

const char *llm_version(void); /* such as "0.1.0" */

/* ---- engine -------------------------------------------------------------------------------------------- */

/* llm_engine_options_init fills all defaults in. A zero count or a null string means the default too; the
 * enable_ fields and max_logprobs count as they are. Names are vLLM's. Strings are borrowed for the call. */
struct llm_engine_options {
    const char *model;          /* GGUF file or Hugging Face directory; required */
    const char *tokenizer;      /* path to take the tokenizer from; null: the model's own */
    int skip_tokenizer_init;    /* 1: token ids in, token ids out */
    const char *load_format;    /* "auto", "gguf", "safetensors", "dummy"; "null": no model (null_model.h) */
    float null_step_ms;         /* load_format "null": what a step takes, at least; default 0 */
    const char *dtype;          /* "auto", "float32", "float16", "bfloat16": float weights */
    const char *kv_cache_dtype; /* the same; "auto" is float16, or float32 under dtype float32 */
    uint64_t seed;         /* of requests that bring none (mixed with their number), and of dummy weights */
    int32_t max_model_len; /* tokens, prompt and output; default: the model's own */
    int32_t max_num_seqs;  /* sequences in one step; default 256 */
    int32_t max_num_batched_tokens; /* token budget of one step; default 512; on a GPU 8192 */
    int32_t block_size;             /* tokens a KV page; default 16; on a GPU 64 */
    /* bytes; default: what max_num_seqs sequences of max_model_len need, but at most 4 GiB (or what one such
     * sequence needs) and half of the free memory. Pages are backed by the system as they are used. */
    uint64_t kv_cache_memory;
    int enable_prefix_caching;     /* default 1 */
    int enable_chunked_prefill;    /* default 1; 0: a prompt runs whole, the budget permitting */
    const char *scheduling_policy; /* "fcfs" (default), "priority" */
    int32_t max_num_queued_reqs;   /* beyond it llm_submit answers LLM_EFULL; default: no bound */
    int32_t max_logprobs;          /* most that a request may ask for; default 20; -1: the vocabulary */
    /* ms that a step which reads prompts may take while others decode: chunks of prompts are sized for it, by
     * what steps have taken. 0: off; below 0, the default: 50 on a GPU, off on the CPU. */
    float step_time_target;
    const char *device; /* "auto" (default: a CUDA device if there is one), "cpu", "cuda", "cuda:1", … */
    float gpu_memory_utilization; /* share of the device's memory that may be used; default 0.9 */
    int32_t threads;              /* default: the processors this process may use */
    const char *cpu_isa;          /* "ref", "avx2", "avx512"; null: the best here */
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
    int32_t n_blocks_pinned;         /* of those used (llm_prefix_pin) */
    double kv_waste_peak; /* slots of used pages that held no token, as a share, at the fullest step */
    uint64_t n_steps, n_prompt_tokens, n_output_tokens, n_preemptions;
    uint64_t n_prefix_queries, n_prefix_hits; /* tokens */
    uint64_t n_finished;
    double busy_seconds; /* time inside steps */
    double wait_seconds; /* of that, spent waiting for a device, which was computing meanwhile */
};
void llm_engine_stats(const struct llm_engine *engine, struct llm_stats *out);

/* Distributions of what has happened since the engine was opened. Bounds are vLLM's. */
enum llm_distribution {
    LLM_STEP_TOKENS,   /* tokens computed in a step, of prompts and outputs */
    LLM_TOKEN_GAP,     /* seconds between two tokens of a sequence */
    LLM_PAGE_LIFETIME, /* seconds from a KV page's first use until the prefix cache loses what it held */
    LLM_PAGE_IDLE,     /* of these, seconds from its last use on */
    LLM_PAGE_REUSE,    /* seconds from a use of a cached page to the next */
    LLM_N_DISTRIBUTIONS
};

enum { LLM_HISTOGRAM_BUCKETS = 24 };

struct llm_histogram {
    const double *bounds; /* upper ends, included; constant */
    int32_t n_bounds;
    uint64_t counts[LLM_HISTOGRAM_BUCKETS]; /* [n_bounds + 1]: of each bucket alone; the last has no end */
    double sum;
};
/* which: of enum llm_distribution. */
void llm_engine_histogram(const struct llm_engine *engine, enum llm_distribution which,
                          struct llm_histogram *out);

/* What the pages of KV memory hold, a byte a page. From LLM_PAGE_OWNED on: used by one running request alone;
 * requests are numbered in the order of their arrival, modulo 256 - LLM_PAGE_OWNED. Other pages in use are
 * LLM_PAGE_SHARED. */
enum { LLM_PAGE_FREE, LLM_PAGE_CACHED, LLM_PAGE_SHARED, LLM_PAGE_OWNED };

/* Copies the first `capacity` pages of the last picture to `map`, and asks the engine's thread for a new one,
 * which it draws before its next step; at first all is free. Returns the number of pages there are. Nothing
 * is drawn for those who do not ask. */
int32_t llm_engine_page_map(struct llm_engine *engine, uint8_t *map, int32_t capacity);

/* Keeps a cached prefix: its full blocks, as far as they are cached, are not given to anybody else for so
 * many seconds (0: until it is unpinned). All pins hold a quarter of the blocks at most, and leave room for
 * the longest sequence; of a prefix that does not fit the beginning is kept. To have it cached, make a
 * request of it first. The three calls wait for the engine's thread: a step at most; any thread but that. */
struct llm_pin {
    uint64_t id;
    size_t n_tokens; /* that are kept */
};
/* Errors: LLM_EINVAL, LLM_ENOENT (nothing of it is cached, or there is no room), LLM_ENOMEM, LLM_EFAILED. */
llm_status llm_prefix_pin(struct llm_engine *engine, const int32_t *ids, size_t n_ids, const char *cache_salt,
                          double seconds, struct llm_pin *out, struct llm_error *err);
/* Errors: LLM_ENOENT. */
llm_status llm_prefix_unpin(struct llm_engine *engine, uint64_t id, struct llm_error *err);
/* Forgets the prefix's first block, and so all prefixes that begin with it, for requests to come. Errors:
 * LLM_EINVAL, LLM_ENOENT, LLM_EFAILED. */
llm_status llm_prefix_evict(struct llm_engine *engine, const int32_t *ids, size_t n_ids,
                            const char *cache_salt, struct llm_error *err);

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
/* The bytes a token stands for, which may be part of a UTF-8 character; *bytes says how many, 0 for an id out
 * of range. Borrowed until the tokenizer is closed. */
const char *llm_token_bytes(const struct llm_tokenizer *tokenizer, int32_t id, size_t *bytes);
/* 1: a control token, such as BOS and <|im_start|>. */
int llm_token_is_special(const struct llm_tokenizer *tokenizer, int32_t id);
/* The ids that end a turn; borrowed. */
const int32_t *llm_end_tokens(const struct llm_tokenizer *tokenizer, int32_t *n);
/* Writes up to capacity bytes of UTF-8 (no NUL), *bytes says how long the text is. Errors: LLM_EINVAL (an id
 * out of range). */
llm_status llm_detokenize(const struct llm_tokenizer *tokenizer, const int32_t *ids, size_t n,
                          int skip_special, char *text, size_t capacity, size_t *bytes,
                          struct llm_error *err);

/* ---- policies ------------------------------------------------------------------------------------------ */

/* A policy takes part in choosing tokens: a table of functions and data that an engine knows by name, and
 * that requests ask for in a chain. The row of logits goes through allowed_token_ids, bad_words, min_tokens,
 * logit_bias, penalties, the `logits` hooks of the chain, in order, then its graphs, in order (one that
 * samples ends the way), temperature, min_p, top_k, top_p, the `candidates` hooks, in order: the first that
 * names a token has chosen; if none does, a draw. Log-probabilities are those of the raw row. A hook that is
 * null costs nothing, nor does a policy to requests that do not name it.
 *
 * begin, logits, candidates and done are called on the engine's thread, graphs run on its workers or on its
 * device: whatever a hook waits for, all requests wait for. A hook that fails ends its request with
 * FINISH_ERROR and no other. */

struct graph;      /* graph/graph.h */
struct graph_args; /* the same */

enum {
    LLM_MAX_CHAIN = 16, /* policies a request */
    LLM_MAX_CANDIDATES = 256,
    LLM_MAX_POLICY_GENERATIONS = 64 /* of one name that requests may still use */
};

/* What one request asks of one policy, made once, before the request is queued; then constant. */
struct llm_policy_args {
    void *own;                      /* the policy's */
    const struct graph_args *graph; /* for its graph; null without one */
};

/* One sequence under one policy. Valid from begin to done; n_output and what output points to grow. */
struct llm_policy_run {
    const int32_t *prompt, *output;
    int32_t n_prompt, n_output; /* the token to be chosen has position n_prompt + n_output */
    int32_t index;              /* of the sequence in its request */
    int32_t place;              /* of the policy in the chain */
    uint64_t seed;
    const struct llm_policy_args *args;
    void *own; /* null; the policy's to set */
    /* Of its row a logits hook has changed [changed_from, changed_end) at most: all of it, unless the hook
     * sets them. A GPU gets that much back. */
    int32_t changed_from, changed_end;
};

/* By falling probability in the distribution after temperature, min_p, top_k and top_p; with temperature 0,
 * in that of temperature 1, where the likeliest token is what is taken unless a hook says otherwise. */
struct llm_candidate {
    int32_t token;
    float prob, logprob;
};

struct llm_policy {
    const char *name; /* borrowed for the call */
    void *self;
    int ignore_errors;      /* 1: a hook that fails is left out for the rest of the sequence */
    int32_t max_candidates; /* 1 .. LLM_MAX_CANDIDATES; 0: the most */
    const struct graph *graph;
    uint64_t asked; /* 0; or what llm_policy_ask gave */

    /* Checks the arguments (a JSON object; null: none given) and makes what hooks need of them. Any thread,
     * several at once. Errors: LLM_EINVAL (which argument), LLM_ENOMEM. Null: no arguments are taken. */
    llm_status (*prepare)(void *self, const char *args, size_t bytes, struct llm_policy_args *out,
                          struct llm_error *err);
    void (*forget)(void *self, struct llm_policy_args *args); /* any thread; may be null */

    llm_status (*begin)(void *self, struct llm_policy_run *run, struct llm_error *err);
    /* Exactly once after a begin, whether or not that failed. */
    void (*done)(void *self, struct llm_policy_run *run);
    /* May change the row of n logits. A row with NaN or +inf, or with nothing above -inf, is a failure. */
    llm_status (*logits)(void *self, struct llm_policy_run *run, float *row, int32_t n,
                         struct llm_error *err);
    /* *token is -1; an id of the vocabulary is the choice. */
    llm_status (*candidates)(void *self, struct llm_policy_run *run, const struct llm_candidate *best,
                             int32_t n, int32_t *token, struct llm_error *err);
    /* After a failure: more about it (a script's traceback), valid until the next call; may be null. */
    const char *(*details)(void *self);
    /* No request uses it any more. Any thread. May be null. */
    void (*close)(void *self);
};

/* Makes this what requests submitted from now on get by this name; those before it keep what they have.
 * The engine takes the policy if the call succeeds. Errors: LLM_EINVAL, LLM_ENOMEM, LLM_EFULL (requests
 * still use LLM_MAX_POLICY_GENERATIONS former ones), LLM_ECANCELED (the name was removed since this was asked
 * for). Any thread, as all of these, several at once. For a GPU the graph is compiled first, which takes up
 * to two seconds if it was never compiled before: whoever must not wait so long adds on another thread.
 *
 * Of policies of one name the one that was asked for last serves, not the one that was ready last: the other
 * is then what a rollback finds. A policy is asked for by its llm_policy_add, or by a llm_policy_ask before,
 * when it took long to make; a rollback or a removal after that stands, too. */
llm_status llm_policy_add(struct llm_engine *engine, const struct llm_policy *policy, int32_t *generation,
                          struct llm_error *err);
/* A policy is going to be made, to be added with what this returns in `asked`. */
uint64_t llm_policy_ask(struct llm_engine *engine);
/* The generation before the active one serves again; a few are kept. Errors: LLM_ENOENT. */
llm_status llm_policy_rollback(struct llm_engine *engine, const char *name, int32_t *generation,
                               struct llm_error *err);
/* Requests cannot ask for it any more. Errors: LLM_ENOENT. */
llm_status llm_policy_remove(struct llm_engine *engine, const char *name, struct llm_error *err);

int llm_policy_exists(struct llm_engine *engine, const char *name);

struct llm_policy_info {
    char name[64];
    int32_t generation;                       /* counts from 1, as they become ready */
    int active;                               /* 1: it is what requests get */
    int32_t n_users;                          /* requests that hold it */
    uint64_t n_requests, n_calls, n_failures; /* calls of hooks and graphs */
    double seconds;                           /* in hooks, on the engine's thread */
    char on_host[160]; /* why the host runs its graph, though there is a GPU; "": it need not */
};
/* Fills up to capacity, active ones first for each name; returns how many there are. */
size_t llm_policy_list(struct llm_engine *engine, struct llm_policy_info *out, size_t capacity);

/* ---- scheduling ---------------------------------------------------------------------------------------- */

enum { LLM_TENANT_BYTES = 64 };

enum llm_finish_reason {
    LLM_FINISH_NONE,
    LLM_FINISH_STOP,
    LLM_FINISH_LENGTH,
    LLM_FINISH_ABORT,
    LLM_FINISH_ERROR
};

/* A request that has come to the engine, before it waits for its turn. */
struct llm_arrival {
    uint64_t id; /* of the request, in this engine */
    const int32_t *prompt;
    const char *cache_salt; /* null: none */
    int32_t n_prompt, n;
    int32_t max_output; /* tokens of a sequence */
    /* the engine at this moment */
    int32_t n_running, n_waiting, n_blocks, n_blocks_used;

    /* What may be changed. */
    char tenant[LLM_TENANT_BYTES]; /* NUL-terminated; "": none */
    int32_t priority;              /* lower runs sooner. The client's own under the priority policy, else 0 */
    float weight;                  /* of the tenant's share; 1 */
    double timeout;                /* seconds from its submission; 0: none */
    int isolate;                   /* 0; 1: prefixes are shared within the tenant only */

    int32_t refusal; /* 0; else the request fails with this number (such as an HTTP status) and the message */
    char message[256];
    void *own; /* null; the scheduler's, for `ended` and `preempt` */
};

/* A running sequence that may be preempted. */
struct llm_victim {
    uint64_t id;
    int32_t index, priority;
    int32_t n_prompt, n_output, n_preemptions;
    const char *tenant;
    void *own; /* of its request's arrival, if it came under this scheduler; else null */
};

/* Takes part in scheduling: a table of functions, all on the engine's thread, any of which may be null. What
 * one waits for, all requests wait for. None is called for a token. */
struct llm_scheduler {
    void *self;
    /* Not LLM_OK: the request is admitted as if there were no scheduler. */
    llm_status (*arrive)(void *self, struct llm_arrival *arrival);
    /* After an arrive, exactly once, however the request ends. n_output: tokens of all its sequences. */
    void (*ended)(void *self, void *own, enum llm_finish_reason finish, int32_t n_output);
    /* Which of n running sequences (1 to 4) is to wait again, as memory is short; anything else: the last. */
    int32_t (*preempt)(void *self, const struct llm_victim *victims, int32_t n);
    void (*close)(void *self); /* nobody uses it any more. Not on the engine's thread */
};

/* Makes this the engine's scheduler, null: none. Requests that came before end under the one they came under.
 * The engine takes it if the call succeeds. Errors: LLM_ENOMEM. Any thread. */
llm_status llm_scheduler_set(struct llm_engine *engine, const struct llm_scheduler *scheduler,
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

struct llm_policy_use {
    const char *name;
    const char *args; /* a JSON object; null: none */
    size_t args_bytes;
};

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
    /* Null; whom the request is for. Tenants get equal shares of the engine, those without a name one
     * together. Under LLM_TENANT_BYTES. */
    const char *tenant;
    float timeout; /* 0; seconds after which it fails with LLM_ECANCELED, waiting or running */
    /* Null; else the request runs on this sequence (below): the prompt, which may then be empty, follows its
     * tokens, and the output follows the prompt. discard 1: the sequence will be what it was before. */
    struct llm_sequence *sequence;
    int discard;
    int32_t prompt_logprobs_start; /* 0; first token of the prompt, with the sequence's, that gets a row */
    int stream; /* 1: events as tokens come; 0: one event a sequence, when it has finished */
    void *user; /* comes back in events */
    struct llm_sampling sampling;
    const struct llm_policy_use *policies; /* the chain, in order */
    size_t n_policies;
};
void llm_request_spec_init(struct llm_request_spec *spec);

/* Most alternatives first. rank: 1 is the most likely token. */
struct llm_logprob {
    int32_t token;
    int32_t rank;
    float logprob;
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
    /* [n_tokens] where in `text` the text of each token ends: the first one's begins at 0, the last one's
     * ends at text_bytes. Null without `stream` or `detokenize`. */
    const size_t *text_ends;
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
    int32_t refusal;                         /* with it, if the scheduler refused it: the number it gave */
    const char *error_details;               /* with it, if a policy failed and has more to say; or null */
};

/* What is known of a request besides its events. Times in seconds of CLOCK_MONOTONIC. */
struct llm_request_info {
    const int32_t *prompt_tokens; /* lives until llm_release */
    size_t n_prompt_tokens;
    size_t n_cached_tokens; /* of the prompt, found in the prefix cache at first admission */
    int32_t n_preemptions;
    double t_submitted, t_scheduled, t_first_token, t_finished; /* 0: not yet */
    /* prompt_logprobs, complete once the first event is out: a row for each token of the prompt from
     * prompt_logprobs_start on (that of token 0 holds nothing: its token is -1) of n_prompt_logprobs entries
     * as in events. Null if not asked for. */
    const struct llm_logprob *prompt_logprobs;
    size_t n_prompt_logprob_rows;
    int32_t n_prompt_logprobs;
};

/* ---- client -------------------------------------------------------------------------------------------- */

llm_status llm_client_open(struct llm_engine *engine, struct llm_client **out, struct llm_error *err);
/* Cancels and releases all its requests, closes its sequences; returns when the engine has let go of them:
 * after a step at most. */
void llm_client_close(struct llm_client *client);

/* A file descriptor that polls readable while events may wait, until llm_next has answered LLM_EAGAIN; for an
 * event loop. Owned by the client. */
int llm_client_fd(const struct llm_client *client);

/* Validates everything, tokenizes, queues. Errors: LLM_EINVAL (which parameter, what it must be; a prompt too
 * long for max_model_len says both lengths; a policy that does not exist, or its arguments), LLM_EFULL,
 * LLM_ENOMEM, LLM_EFAILED (the engine has failed: its reason). Release the request when its last event has
 * been taken; releasing earlier cancels it. */
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

/* ---- sequences ----------------------------------------------------------------------------------------- */

/* A text whose K and V are kept: a value that can be extended, forked and rewound. It is the tokens that were
 * appended or generated; what has to be computed is computed when a request on it needs it, batched with
 * everything else that runs. All but the last token of a sequence stay computed in pages of KV memory.
 *
 * Requests on a sequence are made by llm_submit (spec.sequence), one at a time. They extend it by their
 * prompt and, as events come, by their output, without a stop token or string that the text does not show
 * either (a token that runs over the end of the text is left out whole). One that is released early leaves
 * what its events gave. They may ask for more than others: max_tokens 0 (the prompt is computed, and scored
 * if prompt_logprobs is set; there is one event, without tokens), and logprobs beyond max_logprobs; but n
 * is 1.
 *
 * Pages are shared between a sequence and its forks; the first token that one of them writes into a shared
 * page copies that page. Sequences without a running request are the first to give pages back when memory is
 * short, longest idle first. What they gave back is computed again when it is needed: nothing is lost but
 * time.
 *
 * A sequence belongs to its client and to its client's thread. None of these calls blocks. */

/* An empty one. Errors: LLM_ENOMEM. */
llm_status llm_sequence_open(struct llm_client *client, struct llm_sequence **out, struct llm_error *err);
/* Cancels the request on it, which the caller still has to release. Null is accepted. */
void llm_sequence_close(struct llm_sequence *sequence);

/* Another sequence of the same tokens, of the same client. No token is computed and no page copied for it.
 * Errors: LLM_EINVAL (a request runs on it), LLM_ENOMEM. */
llm_status llm_sequence_fork(struct llm_sequence *sequence, struct llm_sequence **out, struct llm_error *err);

/* Adds tokens, not computed yet. Errors: LLM_EINVAL (a request runs on it; max_model_len; an id out of
 * range), LLM_ENOMEM. */
llm_status llm_sequence_append(struct llm_sequence *sequence, const int32_t *ids, size_t n,
                               struct llm_error *err);
/* Forgets all but the first n_tokens. Errors: LLM_EINVAL (a request runs on it; it has fewer). */
llm_status llm_sequence_rewind(struct llm_sequence *sequence, size_t n_tokens, struct llm_error *err);

/* Its tokens, valid until it is changed, extended or closed. */
const int32_t *llm_sequence_tokens(const struct llm_sequence *sequence, size_t *n);

#ifdef __cplusplus
}
#endif
#endif
