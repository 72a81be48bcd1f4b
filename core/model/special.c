#include "model/special.h"

#include "base/mem.h"
#include "model/utf8.h"

#include <stdlib.h>
#include <string.h>

struct entry {
    size_t begin, size; /* in blob */
    int32_t id;
    unsigned flags;
};

/* A byte trie; children of a node are a list in no order. */
struct node {
    int32_t child, sibling; /* -1: none */
    int32_t entry;          /* that ends here, -1: none */
    uint8_t byte;
};

struct special_set {
    enum special_order order;
    char *blob;
    size_t blob_size, blob_capacity;
    struct entry *entries;
    int32_t n_entries, capacity;
    struct node *nodes;
    int32_t n_nodes;
    int32_t root[256]; /* node by first byte */
};

llm_status special_open(enum special_order order, struct special_set **out, struct llm_error *err)
{
    *out = mem_zalloc(sizeof **out);
    if (!*out) return llm_fail(err, LLM_ENOMEM, "no memory for special tokens");
    (*out)->order = order;
    return LLM_OK;
}

void special_close(struct special_set *set)
{
    if (!set) return;
    mem_free(set->blob);
    mem_free(set->entries);
    mem_free(set->nodes);
    mem_free(set);
}

llm_status special_add(struct special_set *set, const char *text, size_t size, int32_t id, unsigned flags,
                       struct llm_error *err)
{
    if (!size) return LLM_OK;
    if (set->n_entries == set->capacity) {
        int32_t capacity = set->capacity ? set->capacity * 2 : 64;
        struct entry *entries = mem_grow(set->entries, (size_t)capacity, sizeof *entries);
        if (!entries) return llm_fail(err, LLM_ENOMEM, "no memory for %d special tokens", capacity);
        set->entries = entries;
        set->capacity = capacity;
    }
    if (size > set->blob_capacity - set->blob_size) {
        size_t capacity = set->blob_capacity * 2 + size + 1024;
        char *blob = mem_grow(set->blob, capacity, 1);
        if (!blob) return llm_fail(err, LLM_ENOMEM, "no memory for special tokens");
        set->blob = blob;
        set->blob_capacity = capacity;
    }
    memcpy(set->blob + set->blob_size, text, size);
    set->entries[set->n_entries++] = (struct entry){set->blob_size, size, id, flags};
    set->blob_size += size;
    return LLM_OK;
}

static int32_t find_child(const struct special_set *set, int32_t first, uint8_t byte)
{
    while (first >= 0 && set->nodes[first].byte != byte) first = set->nodes[first].sibling;
    return first;
}

llm_status special_seal(struct special_set *set, struct llm_error *err)
{
    /* at most one node a byte of text */
    set->nodes = mem_grow(NULL, set->blob_size, sizeof *set->nodes);
    if (!set->nodes || set->blob_size > INT32_MAX)
        return llm_fail(err, LLM_ENOMEM, "no memory for special tokens");
    memset(set->root, 0xff, sizeof set->root);
    for (int32_t i = 0; i < set->n_entries; i++) {
        const uint8_t *text = (const uint8_t *)set->blob + set->entries[i].begin;
        int32_t *first = &set->root[text[0]], node = -1;
        for (size_t k = 0; k < set->entries[i].size; k++) {
            node = find_child(set, *first, text[k]);
            if (node < 0) {
                node = set->n_nodes++;
                set->nodes[node] = (struct node){-1, *first, -1, text[k]};
                *first = node;
            }
            first = &set->nodes[node].child;
        }
        if (set->nodes[node].entry < 0) set->nodes[node].entry = i;
    }
    return LLM_OK;
}

/* Whether what ends at `at` and what begins there make one word, by Unicode's word characters as far as ASCII
 * and, beyond, anything that is no space. */
static int is_word(uint32_t cp)
{
    if (cp < 0x80) return cp == '_' || (cp >= '0' && cp <= '9') || ((cp | 32) >= 'a' && (cp | 32) <= 'z');
    return !unicode_is_space(cp);
}

static int char_before_is_word(const char *text, size_t at)
{
    size_t begin = at;
    while (begin > 0 && at - begin < 4 && ((uint8_t)text[--begin] & 0xc0) == 0x80) continue;
    uint32_t cp;
    return at > 0 && utf8_scan((const uint8_t *)text + begin, at - begin, &cp) && is_word(cp);
}

static int char_after_is_word(const char *text, size_t size, size_t at)
{
    uint32_t cp;
    return at < size && utf8_scan((const uint8_t *)text + at, size - at, &cp) && is_word(cp);
}

/* ---- from left to right -------------------------------------------------------------------------------- */

static int32_t longest_at(const struct special_set *set, const char *text, size_t size, size_t at,
                          int parse_control)
{
    int32_t best = -1, node = set->root[(uint8_t)text[at]];
    for (size_t k = at; node >= 0;) {
        int32_t entry = set->nodes[node].entry;
        if (entry >= 0 && (parse_control || !(set->entries[entry].flags & SPECIAL_CONTROL))) best = entry;
        if (++k >= size) break;
        node = find_child(set, set->nodes[node].child, (uint8_t)text[k]);
    }
    return best;
}

static size_t skip_spaces_back(const char *text, size_t from, size_t at)
{
    while (at > from) {
        size_t begin = at - 1;
        while (begin > from && ((uint8_t)text[begin] & 0xc0) == 0x80) begin--;
        uint32_t cp;
        if (!utf8_scan((const uint8_t *)text + begin, at - begin, &cp) || !unicode_is_space(cp)) break;
        at = begin;
    }
    return at;
}

static size_t skip_spaces(const char *text, size_t size, size_t at)
{
    uint32_t cp;
    size_t length;
    while (at < size && (length = utf8_scan((const uint8_t *)text + at, size - at, &cp)) &&
           unicode_is_space(cp))
        at += length;
    return at;
}

static llm_status split_leftmost(const struct special_set *set, const char *text, size_t size,
                                 int parse_control, special_fn *fn, void *ud, struct llm_error *err)
{
    size_t done = 0;
    for (size_t at = 0; at < size;) {
        int32_t i = set->root[(uint8_t)text[at]] < 0 ? -1 : longest_at(set, text, size, at, parse_control);
        if (i < 0) {
            at++;
            continue;
        }
        const struct entry *e = &set->entries[i];
        size_t begin = at, end = at + e->size;
        at = end;
        if ((e->flags & SPECIAL_SINGLE_WORD) &&
            (char_before_is_word(text, begin) || char_after_is_word(text, size, end)))
            continue;
        if (begin < done) continue; /* its beginning was stripped with the token before */
        if (e->flags & SPECIAL_STRIP_LEFT) begin = skip_spaces_back(text, done, begin);
        if (e->flags & SPECIAL_STRIP_RIGHT) end = skip_spaces(text, size, end);
        llm_status status = begin > done ? fn(ud, text + done, begin - done, -1, err) : LLM_OK;
        if (!status) status = fn(ud, text + begin, end - begin, e->id, err);
        if (status) return status;
        done = end;
    }
    return done < size ? fn(ud, text + done, size - done, -1, err) : LLM_OK;
}

/* ---- longest first ------------------------------------------------------------------------------------- */

struct found {
    size_t begin, size; /* bytes of text */
    int32_t entry;
};

struct finds {
    struct found *at;
    size_t n, capacity;
};

static llm_status add_find(struct finds *f, size_t begin, size_t size, int32_t entry, struct llm_error *err)
{
    if (f->n == f->capacity) {
        size_t capacity = f->capacity ? f->capacity * 2 : 64;
        struct found *at = mem_grow(f->at, capacity, sizeof *at);
        if (!at) return llm_fail(err, LLM_ENOMEM, "no memory for %zu special tokens", capacity);
        f->at = at;
        f->capacity = capacity;
    }
    f->at[f->n++] = (struct found){begin, size, entry};
    return LLM_OK;
}

static llm_status find_all(const struct special_set *set, const char *text, size_t size, int parse_control,
                           struct finds *f, struct llm_error *err)
{
    for (size_t at = 0; at < size; at++) {
        int32_t node = set->root[(uint8_t)text[at]];
        for (size_t k = at; node >= 0;) {
            int32_t entry = set->nodes[node].entry;
            if (entry >= 0 && (parse_control || !(set->entries[entry].flags & SPECIAL_CONTROL))) {
                llm_status status = add_find(f, at, k + 1 - at, entry, err);
                if (status) return status;
            }
            if (++k >= size) break;
            node = find_child(set, set->nodes[node].child, (uint8_t)text[k]);
        }
    }
    return LLM_OK;
}

static int longer_then_earlier(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    if (x->size != y->size) return x->size > y->size ? -1 : 1;
    if (x->entry != y->entry) return x->entry < y->entry ? -1 : 1;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static int by_place(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static int is_c_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* Keeps the finds that do not overlap one before them. What is taken so far is never shorter than the next
 * find, so they overlap only if one of the find's ends is taken. */
static void choose(const struct special_set *set, const char *text, size_t size, struct finds *f,
                   uint8_t *taken)
{
    size_t n = 0;
    for (size_t i = 0; i < f->n; i++) {
        struct found *x = &f->at[i];
        if (taken[x->begin] || taken[x->begin + x->size - 1]) continue;
        memset(taken + x->begin, 1, x->size);
        unsigned flags = set->entries[x->entry].flags;
        if (flags & SPECIAL_STRIP_LEFT)
            for (size_t k = x->begin; k > 0 && !taken[k - 1] && is_c_space(text[k - 1]); k--)
                taken[k - 1] = 1;
        if (flags & SPECIAL_STRIP_RIGHT)
            for (size_t k = x->begin + x->size; k < size && !taken[k] && is_c_space(text[k]); k++)
                taken[k] = 1;
        f->at[n++] = *x;
    }
    f->n = n;
    qsort(f->at, n, sizeof *f->at, by_place);
}

static llm_status put_text(const char *text, size_t begin, size_t end, const uint8_t *taken, special_fn *fn,
                           void *ud, struct llm_error *err)
{
    while (begin < end && taken[begin]) begin++;
    while (begin < end && taken[end - 1]) end--;
    return begin < end ? fn(ud, text + begin, end - begin, -1, err) : LLM_OK;
}

static llm_status split_longest_first(const struct special_set *set, const char *text, size_t size,
                                      int parse_control, special_fn *fn, void *ud, struct llm_error *err)
{
    struct finds f = {0};
    uint8_t *taken = NULL;
    llm_status status = find_all(set, text, size, parse_control, &f, err);
    if (status) goto done;
    if (!f.n) {
        status = fn(ud, text, size, -1, err);
        goto done;
    }
    taken = mem_zalloc(size);
    if (!taken) {
        status = llm_fail(err, LLM_ENOMEM, "no memory to tokenize %zu bytes", size);
        goto done;
    }
    qsort(f.at, f.n, sizeof *f.at, longer_then_earlier);
    choose(set, text, size, &f, taken);
    size_t at = 0;
    for (size_t i = 0; !status && i < f.n; i++) {
        const struct found *x = &f.at[i];
        status = put_text(text, at, x->begin, taken, fn, ud, err);
        if (!status) status = fn(ud, text + x->begin, x->size, set->entries[x->entry].id, err);
        at = x->begin + x->size;
    }
    if (!status) status = put_text(text, at, size, taken, fn, ud, err);
done:
    mem_free(f.at);
    mem_free(taken);
    return status;
}

llm_status special_split(const struct special_set *set, const char *text, size_t size, int parse_control,
                         special_fn *fn, void *ud, struct llm_error *err)
{
    if (!size) return LLM_OK;
    if (!set->n_entries) return fn(ud, text, size, -1, err);
    if (set->order == SPECIAL_LEFTMOST) return split_leftmost(set, text, size, parse_control, fn, ud, err);
    return split_longest_first(set, text, size, parse_control, fn, ud, err);
}
