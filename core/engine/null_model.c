#define _GNU_SOURCE
#include "engine/null_model.h"

#include "base/mem.h"
#include "engine/settings.h"

#include <errno.h>
#include <math.h>
#include <string.h>
#include <time.h>

enum { N_WORDS = 64, N_BYTES = 256, NULL_MAX_LEN = 16384, JSON_BYTES = 16384, KV_BYTES_PER_TOKEN = 512 };

struct null_model {
    struct tokenizer *tokenizer; /* null: skip_tokenizer_init */
    char *name;
    int32_t vocab_size;
    int32_t words[N_WORDS];   /* what the model says, by position */
    const int32_t *positions; /* of the last forward's rows */
    int64_t step_ns;
};

/* ---- the vocabulary ------------------------------------------------------------------------------------ */

static const char *const words[N_WORDS] = {
    "that",  "with",  "have",  "this",  "will",  "your",  "from",  "they",  "know",  "want",  "been",
    "good",  "much",  "some",  "time",  "very",  "when",  "come",  "here",  "just",  "like",  "long",
    "make",  "many",  "more",  "only",  "over",  "such",  "take",  "than",  "them",  "well",  "were",
    "about", "after", "again", "could", "every", "first", "found", "great", "house", "large", "learn",
    "never", "other", "place", "plant", "point", "right", "small", "sound", "spell", "still", "study",
    "their", "there", "these", "thing", "think", "three", "water", "where", "world"};

struct text {
    char data[JSON_BYTES];
    size_t n;
};

static void put(struct text *t, const char *s)
{
    size_t n = strlen(s);
    memcpy(t->data + t->n, s, n);
    t->n += n;
}

static void put_number(struct text *t, int v)
{
    if (v >= 10) put_number(t, v / 10);
    t->data[t->n++] = (char)('0' + v % 10);
}

/* A byte as GPT-2 spells it: itself where it is a visible character of Latin-1, else the next code point from
 * 256 on, *others counting these. */
static void put_byte(struct text *t, int byte, int *others)
{
    int visible = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    int point = visible ? byte : 256 + (*others)++;
    if (point == '"' || point == '\\') t->data[t->n++] = '\\';
    if (point >= 0x80) {
        t->data[t->n++] = (char)(0xC0 | point >> 6);
        point = 0x80 | (point & 0x3F);
    }
    t->data[t->n++] = (char)point;
}

/* The text of a tokenizer.json with this vocabulary: bytes, words, <s>, </s>. */
static void write_vocabulary(struct text *t)
{
    int others = 0;
    put(t, "{\"added_tokens\":[{\"id\":320,\"content\":\"<s>\",\"special\":true},"
           "{\"id\":321,\"content\":\"</s>\",\"special\":true}],"
           "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":true},"
           "\"decoder\":{\"type\":\"ByteLevel\"},\"model\":{\"type\":\"BPE\",\"merges\":[],\"vocab\":{");
    for (int byte = 0; byte < N_BYTES; byte++) {
        put(t, byte ? ",\"" : "\"");
        put_byte(t, byte, &others);
        put(t, "\":");
        put_number(t, byte);
    }
    for (int i = 0; i < N_WORDS; i++) {
        put(t, ",\"\xC4\xA0");
        put(t, words[i]);
        put(t, "\":");
        put_number(t, N_BYTES + i);
    }
    put(t, "}}}");
}

static llm_status open_vocabulary(struct null_model *m, struct llm_error *err)
{
    struct text *t = mem_zalloc(sizeof *t);
    if (!t) return llm_fail(err, LLM_ENOMEM, "no memory for a vocabulary");
    write_vocabulary(t);
    llm_status status = tokenizer_open_json(t->data, t->n, &m->tokenizer, err);
    mem_free(t);
    return status;
}

static int is_word(const struct tokenizer *tok, int32_t id)
{
    size_t n;
    const char *bytes = tokenizer_bytes(tok, id, &n);
    if (tokenizer_is_special(tok, id) || n < 4 || n > 6 || bytes[0] != ' ') return 0;
    for (size_t i = 1; i < n; i++)
        if (bytes[i] < 'a' || bytes[i] > 'z') return 0;
    return 1;
}

/* What the model says: words if its vocabulary has any, else whatever tokens come first. */
static void choose_words(struct null_model *m)
{
    int32_t n = 0;
    for (int32_t id = 0; m->tokenizer && id < m->vocab_size && n < N_WORDS; id++)
        if (is_word(m->tokenizer, id)) m->words[n++] = id;
    for (int32_t i = 0; n < N_WORDS; i++) m->words[n++] = i % m->vocab_size;
}

static llm_status open_tokenizer(struct null_model *m, const struct llm_engine_options *options,
                                 struct llm_error *err)
{
    llm_status status = LLM_OK;
    m->vocab_size = N_BYTES + N_WORDS + 2;
    if (options->tokenizer)
        status = tokenizer_open(options->tokenizer, &m->tokenizer, err);
    else if (!options->skip_tokenizer_init)
        status = open_vocabulary(m, err);
    if (status) return status;
    if (m->tokenizer) m->vocab_size = tokenizer_vocab_size(m->tokenizer);
    choose_words(m);
    return LLM_OK;
}

/* ---- what the engine asks ------------------------------------------------------------------------------ */

static llm_status forward(void *self, const struct batch *batch, struct llm_error *err)
{
    struct null_model *m = self;
    (void)err;
    m->positions = batch->positions;
    if (!m->step_ns) return LLM_OK;
    int64_t end = clock_ns() + m->step_ns;
    struct timespec until = {end / 1000000000, end % 1000000000};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR) {
    }
    return LLM_OK;
}

static llm_status logits(void *self, const int32_t *rows, int32_t n_rows, float *out, struct llm_error *err)
{
    const struct null_model *m = self;
    (void)err;
    for (int32_t i = 0; i < n_rows; i++) {
        float *row = out + (size_t)i * (size_t)m->vocab_size;
        for (int32_t k = 0; k < m->vocab_size; k++) row[k] = -30; /* e^-30 of the likeliest one */
        row[m->words[m->positions[rows[i]] % N_WORDS]] = 0;
    }
    return LLM_OK;
}

static llm_status copy_page(void *self, int32_t from, int32_t to, struct llm_error *err)
{
    (void)self;
    (void)from;
    (void)to;
    (void)err;
    return LLM_OK;
}

static void close_model(void *self)
{
    struct null_model *m = self;
    if (m->tokenizer) tokenizer_close(m->tokenizer);
    mem_free(m->name);
    mem_free(m);
}

/* ---- opening ------------------------------------------------------------------------------------------- */

static llm_status open_model(struct null_model *m, const struct llm_engine_options *options,
                             struct engine_config *config, struct llm_error *err)
{
    if (!(options->null_step_ms >= 0 && options->null_step_ms <= 60000))
        return llm_fail(err, LLM_EINVAL, "null_step_ms is %g; it must be 0 to 60000",
                        (double)options->null_step_ms);
    m->step_ns = (int64_t)((double)options->null_step_ms * 1e6);
    m->name = mem_strdup(options->model && *options->model ? options->model : "null");
    if (!m->name) return llm_fail(err, LLM_ENOMEM, "no memory for a name");
    llm_status status = open_tokenizer(m, options, err);
    if (!status) status = settings_limits(options, NULL_MAX_LEN, 0, config, err);
    /* A page stands for what it would hold of a small model, so that kv_cache_memory means something. */
    if (!status)
        status = settings_pages(options, (size_t)config->block_size * KV_BYTES_PER_TOKEN, memory_available(),
                                config, err);
    return status;
}

llm_status null_model_open(const struct llm_engine_options *options, struct engine_config *config,
                           struct llm_model_info *info, struct engine_model *out, struct llm_error *err)
{
    struct null_model *m = mem_zalloc(sizeof *m);
    if (!m) return llm_fail(err, LLM_ENOMEM, "no memory for a model");
    *config = (struct engine_config){0};
    llm_status status = open_model(m, options, config, err);
    if (status) {
        close_model(m);
        return status;
    }
    config->tokenizer = m->tokenizer;
    int32_t end = m->tokenizer ? tokenizer_find(m->tokenizer, "</s>", 4) : -1;
    if (end >= 0) config->end_tokens[config->n_end_tokens++] = end;
    *info = (struct llm_model_info){.path = m->name,
                                    .architecture = "null",
                                    .vocab_size = m->vocab_size,
                                    .max_model_len = config->max_model_len,
                                    .block_size = config->block_size,
                                    .n_blocks = config->n_pages,
                                    .kv_bytes_per_token = KV_BYTES_PER_TOKEN,
                                    .backend = "null",
                                    .isa = "none",
                                    .threads = 1,
                                    .default_temperature = NAN,
                                    .default_top_p = NAN,
                                    .default_min_p = NAN,
                                    .default_repetition_penalty = NAN,
                                    .default_top_k = -1};
    *out = (struct engine_model){.self = m,
                                 .vocab_size = m->vocab_size,
                                 .forward = forward,
                                 .logits = logits,
                                 .copy_page = copy_page,
                                 .n_workers = 1,
                                 .close = close_model};
    return LLM_OK;
}
