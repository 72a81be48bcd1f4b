#ifndef LLM_MODEL_HF_PIPELINE_H
#define LLM_MODEL_HF_PIPELINE_H

/* The stages around the model in a tokenizer.json: normalizers, which rewrite text; pre-tokenizers, which cut
 * it into the pieces that the model sees; what a post-processor adds in front and behind. Immutable after it
 * was read; a run has state of its own. */

#include "base/status.h"
#include "model/pretokenize.h"
#include "model/tokenizer_impl.h"

#include <jansson.h>

enum { HF_MAX_STAGES = 12, HF_MAX_AFFIX = 8 };

enum normalizer_kind {
    NORMALIZE_NFC,
    NORMALIZE_NFD,
    NORMALIZE_NFKC,
    NORMALIZE_NFKD,
    NORMALIZE_LOWERCASE,
    NORMALIZE_PREPEND, /* text a, unless the input is empty */
    NORMALIZE_REPLACE, /* text a by text b */
    NORMALIZE_STRIP    /* white space at the left and right ends, if asked for */
};

struct normalizer {
    enum normalizer_kind kind;
    char *a, *b;
    size_t a_size, b_size;
    int left, right;
};

enum stage_kind {
    STAGE_SPLIT,        /* a splitter's rules */
    STAGE_PREFIX_SPACE, /* a space before a piece that begins with none */
    STAGE_BYTE_CHARS,   /* every byte as GPT-2's character for it */
    STAGE_METASPACE     /* spaces become U+2581 or such; one is put in front; pieces begin at them */
};

enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };

struct stage {
    enum stage_kind kind;
    struct splitter *splitter; /* STAGE_SPLIT; STAGE_METASPACE that splits */
    char replacement[8];       /* one character */
    enum prepend_scheme prepend;
};

struct hf_pipeline {
    struct normalizer normalizers[HF_MAX_STAGES];
    int32_t n_normalizers;
    struct stage stages[HF_MAX_STAGES];
    int32_t n_stages;
    int bytes_last; /* the pre-tokenizer ends with STAGE_BYTE_CHARS, which is left to the model */
    int32_t before[HF_MAX_AFFIX], after[HF_MAX_AFFIX]; /* ids that a single sequence gets */
    int32_t n_before, n_after;
    struct special_set *raw, *normalized; /* added tokens, found before or after normalizing */
};

/* Each takes the member of tokenizer.json of its name (null or JSON null: none). Errors: LLM_EUNSUP naming
 * the type, LLM_EFORMAT, LLM_ENOMEM. */
llm_status hf_read_normalizer(struct hf_pipeline *hf, const json_t *json, struct llm_error *err);
llm_status hf_read_pre_tokenizer(struct hf_pipeline *hf, const json_t *json, struct llm_error *err);
llm_status hf_read_post_processor(struct hf_pipeline *hf, const json_t *json, struct llm_error *err);
/* After the pre-tokenizer was read. */
void hf_seal(struct hf_pipeline *hf);
void hf_close(struct hf_pipeline *hf);

/* ---- running ------------------------------------------------------------------------------------------- */

struct hf_run {
    const struct hf_pipeline *hf;
    piece_fn *fn; /* gets the pieces */
    void *ud;
    struct buffer normal[2];
    struct buffer buffers[HF_MAX_STAGES];
    struct splitter_scratch *scratch[HF_MAX_STAGES];
};

llm_status hf_run_open(struct hf_run *run, const struct hf_pipeline *hf, piece_fn *fn, void *ud,
                       struct llm_error *err);
void hf_run_close(struct hf_run *run);
/* *out is the input itself or lies in run->normal, until the next call. text: valid UTF-8. */
llm_status hf_normalize(const struct hf_pipeline *hf, struct buffer normal[2], const char *text, size_t size,
                        const char **out, size_t *out_size, struct llm_error *err);
/* Cuts a text; at_start: it begins where the whole input begins. */
llm_status hf_pre_tokenize(struct hf_run *run, const char *text, size_t size, int at_start,
                           struct llm_error *err);

#endif
