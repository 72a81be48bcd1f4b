#define _GNU_SOURCE
#include "model/hf_pipeline.h"

#include "base/mem.h"
#include "model/utf8.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void hf_close(struct hf_pipeline *hf)
{
    if (!hf) return;
    for (int32_t i = 0; i < hf->n_normalizers; i++) {
        mem_free(hf->normalizers[i].a);
        mem_free(hf->normalizers[i].b);
    }
    for (int32_t i = 0; i < hf->n_stages; i++) splitter_close(hf->stages[i].splitter);
    special_close(hf->raw);
    special_close(hf->normalized);
    mem_free(hf);
}

void hf_seal(struct hf_pipeline *hf)
{
    /* The model can take bytes for what they are instead of spelling them out and looking the spelling up. */
    if (hf->n_stages && hf->stages[hf->n_stages - 1].kind == STAGE_BYTE_CHARS) {
        hf->bytes_last = 1;
        hf->n_stages--;
    }
}

llm_status hf_run_open(struct hf_run *run, const struct hf_pipeline *hf, piece_fn *fn, void *ud,
                       struct llm_error *err)
{
    memset(run, 0, sizeof *run);
    run->hf = hf;
    run->fn = fn;
    run->ud = ud;
    for (int32_t i = 0; i < hf->n_stages; i++) {
        if (!hf->stages[i].splitter) continue;
        llm_status status = splitter_scratch_open(hf->stages[i].splitter, &run->scratch[i], err);
        if (status) return status;
    }
    return LLM_OK;
}

void hf_run_close(struct hf_run *run)
{
    for (int i = 0; i < HF_MAX_STAGES; i++) {
        splitter_scratch_close(run->scratch[i]);
        mem_free(run->buffers[i].data);
    }
    mem_free(run->normal[0].data);
    mem_free(run->normal[1].data);
}

/* ---- normalizers --------------------------------------------------------------------------------------- */

static llm_status put_unicode(const char *text, size_t size, int options, struct buffer *out,
                              struct llm_error *err)
{
    utf8proc_uint8_t *mapped;
    utf8proc_ssize_t n = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)size, &mapped,
                                      (utf8proc_option_t)(options | UTF8PROC_STABLE));
    if (n == UTF8PROC_ERROR_NOMEM) return llm_fail(err, LLM_ENOMEM, "no memory to normalize %zu bytes", size);
    if (n < 0) return llm_fail(err, LLM_EFAILED, "normalizing failed: %s", utf8proc_errmsg(n));
    llm_status status = buffer_put(out, (const char *)mapped, (size_t)n, err);
    free(mapped); /* utf8proc allocates with malloc */
    return status;
}

static llm_status put_lower(const char *text, size_t size, struct buffer *out, struct llm_error *err)
{
    llm_status status = LLM_OK;
    for (size_t i = 0, n; !status && i < size; i += n) {
        uint32_t cp;
        char s[4];
        n = utf8_scan((const uint8_t *)text + i, size - i, &cp);
        /* the one character whose lower case is two */
        if (cp == 0x130)
            status = buffer_put(out, "i\u0307", 3, err);
        else
            status = buffer_put(out, s, utf8_put((uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), s), err);
    }
    return status;
}

static llm_status put_replaced(const struct normalizer *n, const char *text, size_t size, struct buffer *out,
                               struct llm_error *err)
{
    llm_status status = LLM_OK;
    while (!status) {
        const char *found = n->a_size ? memmem(text, size, n->a, n->a_size) : NULL;
        size_t before = found ? (size_t)(found - text) : size;
        status = buffer_put(out, text, before, err);
        if (!found) break;
        if (!status) status = buffer_put(out, n->b, n->b_size, err);
        text += before + n->a_size;
        size -= before + n->a_size;
    }
    return status;
}

static llm_status put_stripped(const struct normalizer *n, const char *text, size_t size, struct buffer *out,
                               struct llm_error *err)
{
    size_t begin = 0, end = size;
    uint32_t cp;
    for (size_t length; n->left && begin < end; begin += length) {
        length = utf8_scan((const uint8_t *)text + begin, end - begin, &cp);
        if (!length || !unicode_is_space(cp)) break;
    }
    while (n->right && end > begin) {
        size_t at = end - 1;
        while (at > begin && ((uint8_t)text[at] & 0xc0) == 0x80) at--;
        if (!utf8_scan((const uint8_t *)text + at, end - at, &cp) || !unicode_is_space(cp)) break;
        end = at;
    }
    return buffer_put(out, text + begin, end - begin, err);
}

static llm_status normalize(const struct normalizer *n, const char *text, size_t size, struct buffer *out,
                            struct llm_error *err)
{
    switch (n->kind) {
    case NORMALIZE_NFC:
        return put_unicode(text, size, UTF8PROC_COMPOSE, out, err);
    case NORMALIZE_NFD:
        return put_unicode(text, size, UTF8PROC_DECOMPOSE, out, err);
    case NORMALIZE_NFKC:
        return put_unicode(text, size, UTF8PROC_COMPOSE | UTF8PROC_COMPAT, out, err);
    case NORMALIZE_NFKD:
        return put_unicode(text, size, UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT, out, err);
    case NORMALIZE_LOWERCASE:
        return put_lower(text, size, out, err);
    case NORMALIZE_STRIP:
        return put_stripped(n, text, size, out, err);
    case NORMALIZE_REPLACE:
        return put_replaced(n, text, size, out, err);
    case NORMALIZE_PREPEND: {
        llm_status status = size ? buffer_put(out, n->a, n->a_size, err) : LLM_OK;
        return status ? status : buffer_put(out, text, size, err);
    }
    }
    return LLM_OK;
}

static int is_ascii(const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((uint8_t)s[i] >= 0x80) return 0;
    return 1;
}

llm_status hf_normalize(const struct hf_pipeline *hf, struct buffer normal[2], const char *text, size_t size,
                        const char **out, size_t *out_size, struct llm_error *err)
{
    int which = 0;
    for (int32_t i = 0; i < hf->n_normalizers; i++) {
        const struct normalizer *n = &hf->normalizers[i];
        if (n->kind <= NORMALIZE_NFKD && is_ascii(text, size)) continue;
        struct buffer *b = &normal[which ^= 1];
        b->size = 0;
        llm_status status = normalize(n, text, size, b, err);
        if (status) return status;
        text = b->data;
        size = b->size;
    }
    *out = text;
    *out_size = size;
    return LLM_OK;
}

/* ---- pre-tokenizers ------------------------------------------------------------------------------------ */

struct visit {
    struct hf_run *run;
    int32_t stage;
    int at_start;
};

static llm_status run_stage(struct hf_run *run, int32_t stage, const char *text, size_t size, int at_start,
                            struct llm_error *err);

static llm_status visit_piece(void *ud, const char *piece, size_t size, struct llm_error *err)
{
    struct visit *v = ud;
    int at_start = v->at_start;
    v->at_start = 0;
    return run_stage(v->run, v->stage + 1, piece, size, at_start, err);
}

static llm_status run_metaspace(struct hf_run *run, int32_t stage, const char *text, size_t size,
                                int at_start, struct llm_error *err)
{
    const struct stage *s = &run->hf->stages[stage];
    struct buffer *b = &run->buffers[stage];
    size_t n = strlen(s->replacement);
    struct normalizer replace = {.a = (char *)" ", .a_size = 1, .b = (char *)s->replacement, .b_size = n};
    int prepends = s->prepend == PREPEND_ALWAYS || (s->prepend == PREPEND_FIRST && at_start);
    int begins = (size && text[0] == ' ') || (size >= n && !memcmp(text, s->replacement, n));
    b->size = 0;
    llm_status status = prepends && !begins ? buffer_put(b, s->replacement, n, err) : LLM_OK;
    if (!status) status = put_replaced(&replace, text, size, b, err);
    if (status) return status;
    if (!s->splitter) return run_stage(run, stage + 1, b->data, b->size, at_start, err);
    struct visit v = {run, stage, at_start};
    return splitter_run(s->splitter, run->scratch[stage], b->data, b->size, visit_piece, &v, err);
}

static llm_status run_stage(struct hf_run *run, int32_t stage, const char *text, size_t size, int at_start,
                            struct llm_error *err)
{
    if (!size) return LLM_OK;
    if (stage == run->hf->n_stages) return run->fn(run->ud, text, size, err);
    const struct stage *s = &run->hf->stages[stage];
    struct buffer *b = &run->buffers[stage];
    llm_status status = LLM_OK;
    switch (s->kind) {
    case STAGE_SPLIT: {
        struct visit v = {run, stage, at_start};
        return splitter_run(s->splitter, run->scratch[stage], text, size, visit_piece, &v, err);
    }
    case STAGE_METASPACE:
        return run_metaspace(run, stage, text, size, at_start, err);
    case STAGE_PREFIX_SPACE:
        if (text[0] == ' ') return run_stage(run, stage + 1, text, size, at_start, err);
        b->size = 0;
        status = buffer_put(b, " ", 1, err);
        if (!status) status = buffer_put(b, text, size, err);
        break;
    case STAGE_BYTE_CHARS:
        b->size = 0;
        for (size_t i = 0; !status && i < size; i++) {
            char utf8[4];
            status = buffer_put(b, utf8, utf8_put(bpe_char_of_byte((uint8_t)text[i]), utf8), err);
        }
        break;
    }
    return status ? status : run_stage(run, stage + 1, b->data, b->size, at_start, err);
}

llm_status hf_pre_tokenize(struct hf_run *run, const char *text, size_t size, int at_start,
                           struct llm_error *err)
{
    return run_stage(run, 0, text, size, at_start, err);
}
