#include "model/hf_pipeline.h"

#include "base/mem.h"

#include <string.h>

/* The structured parts of tokenizer.json. The names are those of Hugging Face's tokenizers library. */

static const char *type_of(const json_t *json)
{
    const char *type = json_string_value(json_object_get(json, "type"));
    return type ? type : "";
}

static int flag(const json_t *json, const char *key, int otherwise)
{
    const json_t *value = json_object_get(json, key);
    return json_is_boolean(value) ? json_is_true(value) : otherwise;
}

static char *copy_string(const json_t *json, size_t *size)
{
    *size = json_string_length(json);
    return mem_strndup(json_is_string(json) ? json_string_value(json) : "", *size);
}

/* ---- normalizer ---------------------------------------------------------------------------------------- */

static llm_status add_normalizer(struct hf_pipeline *hf, enum normalizer_kind kind, const json_t *a,
                                 const json_t *b, struct llm_error *err)
{
    if (hf->n_normalizers == HF_MAX_STAGES)
        return llm_fail(err, LLM_EUNSUP, "more than %d normalizers", HF_MAX_STAGES);
    struct normalizer *n = &hf->normalizers[hf->n_normalizers++];
    *n = (struct normalizer){.kind = kind, .left = 1, .right = 1};
    n->a = copy_string(a, &n->a_size);
    n->b = copy_string(b, &n->b_size);
    return n->a && n->b ? LLM_OK : llm_fail(err, LLM_ENOMEM, "no memory for a normalizer");
}

llm_status hf_read_normalizer(struct hf_pipeline *hf, const json_t *json, struct llm_error *err)
{
    static const struct {
        const char *name;
        enum normalizer_kind kind;
    } plain[] = {{"NFC", NORMALIZE_NFC},
                 {"NFD", NORMALIZE_NFD},
                 {"NFKC", NORMALIZE_NFKC},
                 {"NFKD", NORMALIZE_NFKD},
                 {"Lowercase", NORMALIZE_LOWERCASE}};
    if (!json || json_is_null(json)) return LLM_OK;
    const char *type = type_of(json);
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (!strcmp(type, plain[i].name)) return add_normalizer(hf, plain[i].kind, NULL, NULL, err);
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(json, "normalizers");
        llm_status status = LLM_OK;
        for (size_t i = 0; !status && i < json_array_size(list); i++)
            status = hf_read_normalizer(hf, json_array_get(list, i), err);
        return status;
    }
    if (!strcmp(type, "Prepend"))
        return add_normalizer(hf, NORMALIZE_PREPEND, json_object_get(json, "prepend"), NULL, err);
    if (!strcmp(type, "Replace")) {
        const json_t *pattern = json_object_get(json_object_get(json, "pattern"), "String");
        if (!pattern) return llm_fail(err, LLM_EUNSUP, "a Replace normalizer with a regular expression");
        return add_normalizer(hf, NORMALIZE_REPLACE, pattern, json_object_get(json, "content"), err);
    }
    if (!strcmp(type, "Strip")) {
        llm_status status = add_normalizer(hf, NORMALIZE_STRIP, NULL, NULL, err);
        if (status) return status;
        hf->normalizers[hf->n_normalizers - 1].left = flag(json, "strip_left", 1);
        hf->normalizers[hf->n_normalizers - 1].right = flag(json, "strip_right", 1);
        return LLM_OK;
    }
    return llm_fail(err, LLM_EUNSUP,
                    "normalizer \"%.60s\"; supported: Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Prepend, "
                    "Replace, Strip",
                    type);
}

/* ---- pre-tokenizer ------------------------------------------------------------------------------------- */

static struct stage *add_stage(struct hf_pipeline *hf, enum stage_kind kind, struct llm_error *err)
{
    if (hf->n_stages == HF_MAX_STAGES) {
        llm_fail(err, LLM_EUNSUP, "more than %d pre-tokenizers", HF_MAX_STAGES);
        return NULL;
    }
    struct stage *s = &hf->stages[hf->n_stages++];
    *s = (struct stage){.kind = kind};
    return s;
}

/* The splitter to add a rule to: the last stage's, so that consecutive rules share one. */
static struct splitter *current_splitter(struct hf_pipeline *hf, struct llm_error *err)
{
    if (hf->n_stages && hf->stages[hf->n_stages - 1].kind == STAGE_SPLIT)
        return hf->stages[hf->n_stages - 1].splitter;
    struct stage *s = add_stage(hf, STAGE_SPLIT, err);
    if (!s || splitter_open(&s->splitter, err)) return NULL;
    return s->splitter;
}

static llm_status add_regex(struct hf_pipeline *hf, const char *pattern, enum split_behavior behavior,
                            int invert, struct llm_error *err)
{
    struct splitter *s = current_splitter(hf, err);
    return s     ? splitter_add_regex(s, pattern, strlen(pattern), behavior, invert, err)
           : err ? err->status
                 : LLM_ENOMEM;
}

static llm_status read_behavior(const json_t *json, enum split_behavior *out, struct llm_error *err)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext",
                                        "Contiguous"};
    const char *name = json_string_value(json_object_get(json, "behavior"));
    for (int i = 0; name && i < 5; i++) {
        if (strcmp(name, names[i])) continue;
        *out = (enum split_behavior)i;
        return LLM_OK;
    }
    return llm_fail(err, LLM_EFORMAT, "pre-tokenizer behavior \"%.60s\"", name ? name : "");
}

static llm_status read_split(struct hf_pipeline *hf, const json_t *json, struct llm_error *err)
{
    enum split_behavior behavior = SPLIT_ISOLATED;
    llm_status status = read_behavior(json, &behavior, err);
    if (status) return status;
    const json_t *pattern = json_object_get(json, "pattern");
    const json_t *regex = json_object_get(pattern, "Regex"), *string = json_object_get(pattern, "String");
    const json_t *text = json_is_string(regex) ? regex : string;
    if (!json_is_string(text)) return llm_fail(err, LLM_EFORMAT, "a Split pre-tokenizer without a pattern");
    struct splitter *s = current_splitter(hf, err);
    if (!s) return err ? err->status : LLM_ENOMEM;
    int invert = flag(json, "invert", 0);
    if (text == regex)
        return splitter_add_regex(s, json_string_value(text), json_string_length(text), behavior, invert,
                                  err);
    return splitter_add_literal(s, json_string_value(text), json_string_length(text), behavior, invert, err);
}

static llm_status read_byte_level(struct hf_pipeline *hf, const json_t *json, struct llm_error *err)
{
    static const char gpt2[] =
        "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";
    llm_status status = LLM_OK;
    if (flag(json, "add_prefix_space", 1) && !add_stage(hf, STAGE_PREFIX_SPACE, err)) return LLM_EUNSUP;
    if (flag(json, "use_regex", 1)) status = add_regex(hf, gpt2, SPLIT_ISOLATED, 0, err);
    if (!status && !add_stage(hf, STAGE_BYTE_CHARS, err)) return LLM_EUNSUP;
    return status;
}

static llm_status read_metaspace(struct hf_pipeline *hf, const json_t *json, struct llm_error *err)
{
    struct stage *s = add_stage(hf, STAGE_METASPACE, err);
    if (!s) return LLM_EUNSUP;
    const char *replacement = json_string_value(json_object_get(json, "replacement"));
    const char *scheme = json_string_value(json_object_get(json, "prepend_scheme"));
    if (!replacement || !*replacement || strlen(replacement) > 4)
        return llm_fail(err, LLM_EFORMAT, "a Metaspace pre-tokenizer whose replacement is not one character");
    strcpy(s->replacement, replacement);
    s->prepend = PREPEND_ALWAYS;
    if (scheme && !strcmp(scheme, "first")) s->prepend = PREPEND_FIRST;
    if ((scheme && !strcmp(scheme, "never")) || !flag(json, "add_prefix_space", 1))
        s->prepend = PREPEND_NEVER;
    if (!flag(json, "split", 1)) return LLM_OK;
    llm_status status = splitter_open(&s->splitter, err);
    if (status) return status;
    return splitter_add_literal(s->splitter, replacement, strlen(replacement), SPLIT_MERGED_WITH_NEXT, 0,
                                err);
}

llm_status hf_read_pre_tokenizer(struct hf_pipeline *hf, const json_t *json, struct llm_error *err)
{
    if (!json || json_is_null(json)) return LLM_OK;
    const char *type = type_of(json);
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(json, "pretokenizers");
        llm_status status = LLM_OK;
        for (size_t i = 0; !status && i < json_array_size(list); i++)
            status = hf_read_pre_tokenizer(hf, json_array_get(list, i), err);
        return status;
    }
    if (!strcmp(type, "ByteLevel")) return read_byte_level(hf, json, err);
    if (!strcmp(type, "Split")) return read_split(hf, json, err);
    if (!strcmp(type, "Metaspace")) return read_metaspace(hf, json, err);
    if (!strcmp(type, "Digits"))
        return add_regex(hf, flag(json, "individual_digits", 0) ? "\\p{N}" : "\\p{N}+", SPLIT_ISOLATED, 0,
                         err);
    if (!strcmp(type, "WhitespaceSplit")) return add_regex(hf, "\\s", SPLIT_REMOVED, 0, err);
    if (!strcmp(type, "Whitespace")) return add_regex(hf, "\\w+|[^\\w\\s]+", SPLIT_REMOVED, 1, err);
    if (!strcmp(type, "Punctuation")) {
        enum split_behavior behavior = SPLIT_ISOLATED;
        llm_status status = json_object_get(json, "behavior") ? read_behavior(json, &behavior, err) : LLM_OK;
        return status ? status : add_regex(hf, "[!-/:-@\\[-`{-~\\p{P}]", behavior, 0, err);
    }
    return llm_fail(err, LLM_EUNSUP,
                    "pre-tokenizer \"%.60s\"; supported: Sequence, ByteLevel, Split, Metaspace, Digits, "
                    "Punctuation, Whitespace, WhitespaceSplit",
                    type);
}

/* ---- post-processor ------------------------------------------------------------------------------------ */

static llm_status add_affix(int32_t *ids, int32_t *n, const json_t *id, struct llm_error *err)
{
    if (!json_is_integer(id) || json_integer_value(id) < 0 || json_integer_value(id) > INT32_MAX)
        return llm_fail(err, LLM_EFORMAT, "a post-processor's token without an id");
    if (*n == HF_MAX_AFFIX)
        return llm_fail(err, LLM_EUNSUP, "a post-processor that adds more than %d tokens", HF_MAX_AFFIX);
    ids[(*n)++] = (int32_t)json_integer_value(id);
    return LLM_OK;
}

static llm_status read_template(struct hf_pipeline *hf, const json_t *json, struct llm_error *err)
{
    const json_t *parts = json_object_get(json, "single"), *tokens = json_object_get(json, "special_tokens");
    int behind = 0;
    llm_status status = LLM_OK;
    for (size_t i = 0; !status && i < json_array_size(parts); i++) {
        const json_t *part = json_array_get(parts, i);
        if (json_object_get(part, "Sequence")) {
            behind = 1;
            continue;
        }
        const char *name = json_string_value(json_object_get(json_object_get(part, "SpecialToken"), "id"));
        const json_t *ids = name ? json_object_get(json_object_get(tokens, name), "ids") : NULL;
        if (!json_is_array(ids))
            return llm_fail(err, LLM_EFORMAT, "template token \"%.60s\" has no ids", name ? name : "");
        for (size_t k = 0; !status && k < json_array_size(ids); k++)
            status = behind ? add_affix(hf->after, &hf->n_after, json_array_get(ids, k), err)
                            : add_affix(hf->before, &hf->n_before, json_array_get(ids, k), err);
    }
    return status;
}

llm_status hf_read_post_processor(struct hf_pipeline *hf, const json_t *json, struct llm_error *err)
{
    if (!json || json_is_null(json)) return LLM_OK;
    const char *type = type_of(json);
    if (!strcmp(type, "ByteLevel")) return LLM_OK; /* only moves offsets */
    if (!strcmp(type, "TemplateProcessing")) return read_template(hf, json, err);
    if (!strcmp(type, "RobertaProcessing") || !strcmp(type, "BertProcessing")) {
        llm_status status =
            add_affix(hf->before, &hf->n_before, json_array_get(json_object_get(json, "cls"), 1), err);
        return status
                   ? status
                   : add_affix(hf->after, &hf->n_after, json_array_get(json_object_get(json, "sep"), 1), err);
    }
    if (!strcmp(type, "Sequence")) {
        const json_t *list = json_object_get(json, "processors");
        llm_status status = LLM_OK;
        for (size_t i = 0; !status && i < json_array_size(list); i++)
            status = hf_read_post_processor(hf, json_array_get(list, i), err);
        return status;
    }
    return llm_fail(err, LLM_EUNSUP,
                    "post-processor \"%.60s\"; supported: Sequence, ByteLevel, TemplateProcessing, "
                    "RobertaProcessing, BertProcessing",
                    type);
}
