#define _GNU_SOURCE
#define PCRE2_CODE_UNIT_WIDTH 8
#include "model/pretokenize.h"

#include "base/mem.h"
#include "model/regex_dialect.h"
#include "model/utf8.h"

#include <pcre2.h>
#include <string.h>

enum rule_kind { RULE_REGEX, RULE_LITERAL, RULE_DIGITS_LOOSE, RULE_DIGITS_STRICT };

struct rule {
    enum rule_kind kind;
    enum split_behavior behavior;
    int invert;
    pcre2_code *code;
    int has_jit;
    char *literal;
    size_t literal_size;
};

struct splitter {
    struct rule rules[SPLITTER_MAX_RULES];
    int32_t n_rules;
};

struct splitter_scratch {
    pcre2_match_context *context;
    pcre2_match_data *match[SPLITTER_MAX_RULES]; /* one a rule: rules nest */
};

llm_status splitter_open(struct splitter **out, struct llm_error *err)
{
    *out = mem_zalloc(sizeof **out);
    return *out ? LLM_OK : llm_fail(err, LLM_ENOMEM, "no memory for a pre-tokenizer");
}

void splitter_close(struct splitter *s)
{
    if (!s) return;
    for (int32_t i = 0; i < s->n_rules; i++) {
        pcre2_code_free(s->rules[i].code);
        mem_free(s->rules[i].literal);
    }
    mem_free(s);
}

/* Null, with *err filled, if there are too many. */
static struct rule *new_rule(struct splitter *s, enum rule_kind kind, enum split_behavior behavior,
                             int invert, struct llm_error *err)
{
    if (s->n_rules == SPLITTER_MAX_RULES) {
        llm_fail(err, LLM_EUNSUP, "a pre-tokenizer of more than %d rules", SPLITTER_MAX_RULES);
        return NULL;
    }
    struct rule *rule = &s->rules[s->n_rules++];
    *rule = (struct rule){.kind = kind, .behavior = behavior, .invert = invert};
    return rule;
}

static llm_status compile(struct rule *rule, const char *pattern, struct llm_error *err)
{
    int code;
    PCRE2_SIZE offset;
    rule->code = pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED,
                               PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &code, &offset, NULL);
    if (!rule->code) {
        char why[160];
        pcre2_get_error_message(code, (PCRE2_UCHAR *)why, sizeof why);
        return llm_fail(err, LLM_EUNSUP, "pre-tokenizer pattern \"%.200s\": %s at offset %zu", pattern, why,
                        (size_t)offset);
    }
    /* without a just-in-time compiler (or memory it may execute) the interpreter does the same, slower */
    rule->has_jit = pcre2_jit_compile(rule->code, PCRE2_JIT_COMPLETE) == 0;
    return LLM_OK;
}

llm_status splitter_add_regex(struct splitter *s, const char *pattern, size_t size,
                              enum split_behavior behavior, int invert, struct llm_error *err)
{
    struct rule *rule = new_rule(s, RULE_REGEX, behavior, invert, err);
    if (!rule) return LLM_EUNSUP;
    char *translated;
    llm_status status = regex_translate(pattern, size, &translated, err);
    if (status) return status;
    status = compile(rule, translated, err);
    mem_free(translated);
    return status;
}

llm_status splitter_add_literal(struct splitter *s, const char *text, size_t size,
                                enum split_behavior behavior, int invert, struct llm_error *err)
{
    struct rule *rule = new_rule(s, RULE_LITERAL, behavior, invert, err);
    if (!rule) return LLM_EUNSUP;
    rule->literal = mem_strndup(text, size);
    rule->literal_size = size;
    return rule->literal ? LLM_OK : llm_fail(err, LLM_ENOMEM, "no memory for a pre-tokenizer");
}

llm_status splitter_add_digit_groups(struct splitter *s, int loose, struct llm_error *err)
{
    struct rule *rule = new_rule(s, loose ? RULE_DIGITS_LOOSE : RULE_DIGITS_STRICT, SPLIT_ISOLATED, 0, err);
    return !rule ? LLM_EUNSUP : compile(rule, loose ? "\\p{N}+" : "[0-9]+", err);
}

llm_status splitter_scratch_open(const struct splitter *s, struct splitter_scratch **out,
                                 struct llm_error *err)
{
    struct splitter_scratch *scratch = mem_zalloc(sizeof *scratch);
    if (!scratch) return llm_fail(err, LLM_ENOMEM, "no memory to tokenize");
    scratch->context = pcre2_match_context_create(NULL);
    int complete = scratch->context != NULL;
    for (int32_t i = 0; i < s->n_rules; i++) {
        scratch->match[i] = pcre2_match_data_create(1, NULL); /* the whole match is all we ask for */
        complete &= scratch->match[i] != NULL;
    }
    if (!complete) {
        splitter_scratch_close(scratch);
        return llm_fail(err, LLM_ENOMEM, "no memory to tokenize");
    }
    /* every pattern in use is linear in its match; the limits guard against those that are not */
    pcre2_set_match_limit(scratch->context, 200 * 1000 * 1000);
    pcre2_set_heap_limit(scratch->context, 512 * 1024); /* KiB */
    *out = scratch;
    return LLM_OK;
}

void splitter_scratch_close(struct splitter_scratch *scratch)
{
    if (!scratch) return;
    for (int i = 0; i < SPLITTER_MAX_RULES; i++) pcre2_match_data_free(scratch->match[i]);
    pcre2_match_context_free(scratch->context);
    mem_free(scratch);
}

/* ---- running ------------------------------------------------------------------------------------------- */

struct run {
    const struct splitter *splitter;
    struct splitter_scratch *scratch;
    piece_fn *fn;
    void *ud;
};

/* The first match at or after `from`; 0: none. */
static llm_status find_next(const struct run *run, int32_t level, const char *text, size_t size, size_t from,
                            int *found, size_t *begin, size_t *end, struct llm_error *err)
{
    const struct rule *rule = &run->splitter->rules[level];
    *found = 0;
    if (rule->kind == RULE_LITERAL) {
        const char *at = memmem(text + from, size - from, rule->literal, rule->literal_size);
        if (!at) return LLM_OK;
        *found = 1;
        *begin = (size_t)(at - text);
        *end = *begin + rule->literal_size;
        return LLM_OK;
    }
    pcre2_match_data *match = run->scratch->match[level];
    pcre2_match_context *context = run->scratch->context;
    int rc = PCRE2_ERROR_JIT_STACKLIMIT;
    if (rule->has_jit)
        rc = pcre2_jit_match(rule->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK, match, context);
    /* the interpreter keeps its backtracking points on the heap: no pattern exhausts its stack */
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)
        rc = pcre2_match(rule->code, (PCRE2_SPTR)text, size, from, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match,
                         context);
    if (rc == PCRE2_ERROR_NOMATCH) return LLM_OK;
    if (rc < 0) {
        char why[160];
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)why, sizeof why);
        return llm_fail(err, LLM_EFAILED, "pre-tokenizing failed at byte %zu of %zu: %s", from, size, why);
    }
    const PCRE2_SIZE *range = pcre2_get_ovector_pointer(match);
    *found = 1;
    *begin = range[0];
    *end = range[1];
    return LLM_OK;
}

static llm_status split(const struct run *run, int32_t level, const char *text, size_t size,
                        struct llm_error *err);

static llm_status pass_on(const struct run *run, int32_t level, const char *text, size_t begin, size_t end,
                          struct llm_error *err)
{
    return begin < end ? split(run, level + 1, text + begin, end - begin, err) : LLM_OK;
}

static llm_status split_isolated(const struct run *run, int32_t level, const char *text, size_t size,
                                 struct llm_error *err)
{
    size_t done = 0, from = 0, begin, end;
    llm_status status;
    for (int found; !(status = find_next(run, level, text, size, from, &found, &begin, &end, err));) {
        if (!found) return pass_on(run, level, text, done, size, err);
        if ((status = pass_on(run, level, text, done, begin, err))) return status;
        if ((status = pass_on(run, level, text, begin, end, err))) return status;
        done = end;
        from = end > begin ? end : end + utf8_lead_length(end < size ? (uint8_t)text[end] : 0);
        if (from > size) return pass_on(run, level, text, done, size, err);
    }
    return status;
}

static size_t skip_chars(const char *text, size_t at, size_t n)
{
    while (n--) at += utf8_lead_length((uint8_t)text[at]);
    return at;
}

static size_t count_chars(const char *text, size_t begin, size_t end)
{
    size_t n = 0;
    for (; begin < end; n++) begin += utf8_lead_length((uint8_t)text[begin]);
    return n;
}

static llm_status split_digits(const struct run *run, int32_t level, const char *text, size_t size,
                               struct llm_error *err)
{
    int loose = run->splitter->rules[level].kind == RULE_DIGITS_LOOSE;
    size_t done = 0, begin, end = 0;
    llm_status status;
    for (int found; !(status = find_next(run, level, text, size, end, &found, &begin, &end, err));) {
        if (!found) return pass_on(run, level, text, done, size, err);
        size_t n = count_chars(text, begin, end), first = n % 3 ? n % 3 : 3;
        size_t cut = skip_chars(text, begin, first);
        if (!loose && done < begin && (n % 3 == 0)) {
            /* the lookahead of this rule matches at the run's start only if a whole number of groups follows
             */
            if ((status = pass_on(run, level, text, done, begin, err))) return status;
            done = begin;
        }
        for (; loose ? done < end : cut < end; cut = skip_chars(text, cut, 3)) {
            if ((status = pass_on(run, level, text, done, cut, err))) return status;
            done = cut;
            if (cut == end) break;
        }
    }
    return status;
}

/* The behaviours that are not SPLIT_ISOLATED, in general form: parts are looked at one by one, each either a
 * match or what lies between two, and joined or dropped. */
struct joiner {
    const struct run *run;
    int32_t level;
    const char *text;
    enum split_behavior behavior;
    size_t begin, end; /* the piece in hand */
    int has_piece, last_was_match;
};

static llm_status flush(struct joiner *j, struct llm_error *err)
{
    if (!j->has_piece) return LLM_OK;
    j->has_piece = 0;
    return pass_on(j->run, j->level, j->text, j->begin, j->end, err);
}

static llm_status take_part(struct joiner *j, size_t begin, size_t end, int is_match, struct llm_error *err)
{
    if (begin == end) return LLM_OK;
    int joins = 0;
    switch (j->behavior) {
    case SPLIT_ISOLATED:
    case SPLIT_REMOVED:
        break;
    case SPLIT_CONTIGUOUS:
        joins = is_match == j->last_was_match;
        break;
    case SPLIT_MERGED_WITH_PREVIOUS:
        joins = is_match && !j->last_was_match;
        break;
    case SPLIT_MERGED_WITH_NEXT:
        joins = !is_match && j->last_was_match;
        break;
    }
    llm_status status = LLM_OK;
    if (j->has_piece && joins) {
        j->end = end;
    } else if (!(status = flush(j, err)) && !(j->behavior == SPLIT_REMOVED && is_match)) {
        j->begin = begin;
        j->end = end;
        j->has_piece = 1;
    }
    j->last_was_match = is_match;
    return status;
}

static llm_status split_joining(const struct run *run, int32_t level, const char *text, size_t size,
                                struct llm_error *err)
{
    const struct rule *rule = &run->splitter->rules[level];
    struct joiner j = {.run = run, .level = level, .text = text, .behavior = rule->behavior};
    size_t done = 0, from = 0, begin, end;
    int found = 1;
    llm_status status = LLM_OK;
    while (!status && found && from <= size) {
        if ((status = find_next(run, level, text, size, from, &found, &begin, &end, err)) || !found) break;
        if ((status = take_part(&j, done, begin, rule->invert, err))) break;
        status = take_part(&j, begin, end, !rule->invert, err);
        done = end;
        from = end > begin ? end : end + utf8_lead_length(end < size ? (uint8_t)text[end] : 0);
    }
    if (!status) status = take_part(&j, done, size, rule->invert, err);
    return status ? status : flush(&j, err);
}

static llm_status split(const struct run *run, int32_t level, const char *text, size_t size,
                        struct llm_error *err)
{
    if (level == run->splitter->n_rules) return run->fn(run->ud, text, size, err);
    const struct rule *rule = &run->splitter->rules[level];
    if (rule->kind == RULE_DIGITS_LOOSE || rule->kind == RULE_DIGITS_STRICT)
        return split_digits(run, level, text, size, err);
    if (rule->behavior == SPLIT_ISOLATED) return split_isolated(run, level, text, size, err);
    return split_joining(run, level, text, size, err);
}

llm_status splitter_run(const struct splitter *s, struct splitter_scratch *scratch, const char *text,
                        size_t size, piece_fn *fn, void *ud, struct llm_error *err)
{
    struct run run = {s, scratch, fn, ud};
    return size ? split(&run, 0, text, size, err) : LLM_OK;
}
