#include "model/bpe.h"

#include "base/mem.h"
#include "model/utf8.h"

#include <stdio.h>
#include <string.h>

enum {
    NO_SYMBOL = -1,
    NO_RANK = INT32_MAX,
    SHORT_PIECE = 48,  /* symbols; up to here a scan for the least rank beats a heap */
    DIRECT_CHARS = 512 /* characters below this are looked up in an array */
};

struct merge {
    int32_t left, right; /* symbols; left NO_SYMBOL: a free slot */
    int32_t rank, result;
};

struct bpe {
    struct strings *strings;
    int32_t n_vocab, n_merges, max_merges;
    struct bpe_options options;
    struct merge *merges; /* open addressing */
    uint32_t merge_mask;
    int32_t byte_symbol[256];          /* BPE_BYTES */
    int32_t char_symbol[DIRECT_CHARS]; /* BPE_CHARS */
    int32_t hex_token[256];            /* ids of <0x00> … <0xFF>, -1: none */
};

uint32_t bpe_char_of_byte(uint8_t b)
{
    /* The 68 bytes that are no visible Latin-1 character come, in order, at U+0100 and after. */
    if ((b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae) return b;
    if (b <= 0x20) return 0x100u + b;
    if (b <= 0xa0) return 0x100u + 0x21u + (b - 0x7fu);
    return 0x143;
}

int bpe_byte_of_char(uint32_t cp)
{
    if (cp < 0x100) return bpe_char_of_byte((uint8_t)cp) == cp ? (int)cp : -1;
    if (cp <= 0x120) return (int)(cp - 0x100);
    if (cp <= 0x142) return (int)(cp - 0x121 + 0x7f);
    return cp == 0x143 ? 0xad : -1;
}

llm_status token_list_push(struct token_list *list, int32_t id, struct llm_error *err)
{
    if (list->n == list->capacity) {
        size_t capacity = list->capacity ? list->capacity * 2 : 64;
        int32_t *ids = mem_grow(list->ids, capacity, sizeof *ids);
        if (!ids) return llm_fail(err, LLM_ENOMEM, "no memory for %zu token ids", capacity);
        list->ids = ids;
        list->capacity = capacity;
    }
    list->ids[list->n++] = id;
    return LLM_OK;
}

llm_status bpe_open(struct strings *strings, int32_t n_vocab, const struct bpe_options *options,
                    int64_t n_merges, struct bpe **out, struct llm_error *err)
{
    if (n_merges > INT32_MAX / 4) return llm_fail(err, LLM_EFORMAT, "%lld merges", (long long)n_merges);
    struct bpe *bpe = mem_zalloc(sizeof *bpe);
    uint32_t n_slots = 64;
    while (n_slots < n_merges + n_merges / 2) n_slots *= 2;
    if (bpe) bpe->merges = mem_alloc(n_slots * sizeof *bpe->merges);
    if (!bpe || !bpe->merges) {
        bpe_close(bpe);
        return llm_fail(err, LLM_ENOMEM, "no memory for %lld merges", (long long)n_merges);
    }
    bpe->strings = strings;
    bpe->n_vocab = n_vocab;
    bpe->max_merges = (int32_t)n_merges;
    bpe->options = *options;
    bpe->merge_mask = n_slots - 1;
    for (uint32_t i = 0; i < n_slots; i++) bpe->merges[i].left = NO_SYMBOL;
    *out = bpe;
    return LLM_OK;
}

void bpe_close(struct bpe *bpe)
{
    if (!bpe) return;
    mem_free(bpe->merges);
    mem_free(bpe);
}

static uint32_t merge_slot(const struct bpe *bpe, int32_t left, int32_t right)
{
    uint64_t h = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) * 0x9E3779B97F4A7C15u;
    return (uint32_t)(h >> 32) & bpe->merge_mask;
}

static const struct merge *find_merge(const struct bpe *bpe, int32_t left, int32_t right)
{
    if (left < 0 || right < 0) return NULL;
    for (uint32_t at = merge_slot(bpe, left, right);; at = (at + 1) & bpe->merge_mask) {
        const struct merge *m = &bpe->merges[at];
        if (m->left == left && m->right == right) return m;
        if (m->left == NO_SYMBOL) return NULL;
    }
}

static int32_t rank_of(const struct bpe *bpe, int32_t left, int32_t right)
{
    const struct merge *m = find_merge(bpe, left, right);
    return m ? m->rank : NO_RANK;
}

static llm_status intern(struct strings *strings, const char *s, size_t size, int32_t *symbol,
                         struct llm_error *err)
{
    *symbol = strings_find(strings, s, size);
    if (*symbol >= 0) return LLM_OK;
    *symbol = strings->n;
    return strings_add(strings, s, size, 1, err);
}

llm_status bpe_add_merge(struct bpe *bpe, const char *left, size_t left_size, const char *right,
                         size_t right_size, struct llm_error *err)
{
    if (bpe->n_merges == bpe->max_merges) return llm_fail(err, LLM_EINVAL, "more merges than announced");
    char joined_on_stack[256], *joined = joined_on_stack;
    if (left_size > SIZE_MAX - right_size) return llm_fail(err, LLM_ENOMEM, "merge too long");
    if (left_size + right_size > sizeof joined_on_stack) joined = mem_alloc(left_size + right_size);
    if (!joined) return llm_fail(err, LLM_ENOMEM, "no memory for a merge");
    memcpy(joined, left, left_size);
    memcpy(joined + left_size, right, right_size);

    struct merge m = {.rank = bpe->n_merges++};
    llm_status status = intern(bpe->strings, left, left_size, &m.left, err);
    if (!status) status = intern(bpe->strings, right, right_size, &m.right, err);
    if (!status) status = intern(bpe->strings, joined, left_size + right_size, &m.result, err);
    if (joined != joined_on_stack) mem_free(joined);
    if (status) return status;

    uint32_t at = merge_slot(bpe, m.left, m.right);
    while (bpe->merges[at].left != NO_SYMBOL) {
        const struct merge *other = &bpe->merges[at];
        if (other->left == m.left && other->right == m.right) {
            if (bpe->options.last_merge_wins) break;
            return LLM_OK;
        }
        at = (at + 1) & bpe->merge_mask;
    }
    bpe->merges[at] = m;
    return LLM_OK;
}

void bpe_seal(struct bpe *bpe)
{
    char text[8];
    for (int b = 0; b < 256; b++) {
        size_t size = utf8_put(bpe_char_of_byte((uint8_t)b), text);
        bpe->byte_symbol[b] = strings_find(bpe->strings, text, size);
        snprintf(text, sizeof text, "<0x%02X>", b);
        int32_t id = strings_find(bpe->strings, text, 6);
        bpe->hex_token[b] = id < bpe->n_vocab ? id : -1;
    }
    for (uint32_t cp = 0; cp < DIRECT_CHARS; cp++) {
        size_t size = utf8_put(cp, text);
        bpe->char_symbol[cp] = strings_find(bpe->strings, text, size);
    }
}

/* ---- one piece as symbols ------------------------------------------------------------------------------ */

/* A symbol of the piece. In the heap path, removed ones have length 0. */
struct unit {
    int32_t symbol;
    int32_t rank;       /* of the merge with the next one; NO_RANK: none */
    int32_t begin;      /* bytes, from the piece's start */
    int32_t prev, next; /* heap path; -1: none */
};

struct units {
    struct unit *at;
    int32_t n;
    struct unit on_stack[SHORT_PIECE];
};

static llm_status units_open(struct units *u, size_t size, struct llm_error *err)
{
    u->n = 0;
    u->at = u->on_stack;
    if (size <= SHORT_PIECE) return LLM_OK;
    u->at = mem_grow(NULL, size, sizeof *u->at);
    return u->at ? LLM_OK : llm_fail(err, LLM_ENOMEM, "no memory to encode a piece of %zu bytes", size);
}

static void units_close(struct units *u)
{
    if (u->at != u->on_stack) mem_free(u->at);
}

static void add_unit(struct units *u, int32_t symbol, size_t begin)
{
    u->at[u->n].symbol = symbol;
    u->at[u->n++].begin = (int32_t)begin;
}

static int all_hex(const struct bpe *bpe, const char *s, size_t size)
{
    for (size_t i = 0; i < size; i++)
        if (bpe->hex_token[(uint8_t)s[i]] < 0) return 0;
    return 1;
}

/* What a character without a token starts as, when its unknown token takes part in merging (Hugging Face). */
static void add_unknown(const struct bpe *bpe, struct units *u, const char *piece, size_t begin, size_t size)
{
    const struct bpe_options *o = &bpe->options;
    if (o->fallback != BPE_UNKNOWN_TOKEN) {
        add_unit(u, NO_SYMBOL, begin);
        return;
    }
    if (o->byte_fallback && all_hex(bpe, piece + begin, size)) {
        for (size_t i = 0; i < size; i++) add_unit(u, bpe->hex_token[(uint8_t)piece[begin + i]], begin + i);
        return;
    }
    if (o->unknown < 0) return;
    if (o->fuse_unknown && u->n && u->at[u->n - 1].symbol == o->unknown) return;
    add_unit(u, o->unknown, begin);
}

static void cut_into_units(const struct bpe *bpe, const char *piece, size_t size, struct units *u)
{
    if (bpe->options.unit == BPE_BYTES) {
        for (size_t i = 0; i < size; i++) {
            int32_t symbol = bpe->byte_symbol[(uint8_t)piece[i]];
            if (symbol >= 0)
                add_unit(u, symbol, i);
            else
                add_unknown(bpe, u, piece, i, 1);
        }
        return;
    }
    for (size_t i = 0, length; i < size; i += length) {
        length = utf8_lead_length((uint8_t)piece[i]);
        if (length > size - i) length = size - i;
        uint32_t cp;
        int32_t symbol;
        if (length <= 2 && utf8_scan((const uint8_t *)piece + i, length, &cp) && cp < DIRECT_CHARS)
            symbol = bpe->char_symbol[cp];
        else
            symbol = strings_find(bpe->strings, piece + i, length);
        if (symbol >= 0)
            add_unit(u, symbol, i);
        else
            add_unknown(bpe, u, piece, i, length);
    }
}

/* ---- merging ------------------------------------------------------------------------------------------- */

static void merge_short(const struct bpe *bpe, struct units *u)
{
    struct unit *at = u->at;
    int32_t n = u->n;
    for (int32_t i = 0; i + 1 < n; i++) at[i].rank = rank_of(bpe, at[i].symbol, at[i + 1].symbol);
    while (n > 1) {
        int32_t best = 0;
        for (int32_t i = 1; i + 1 < n; i++)
            if (at[i].rank < at[best].rank) best = i;
        if (at[best].rank == NO_RANK) break;
        at[best].symbol = find_merge(bpe, at[best].symbol, at[best + 1].symbol)->result;
        n--;
        memmove(&at[best + 1], &at[best + 2], (size_t)(n - best - 1) * sizeof *at);
        at[best].rank = best + 1 < n ? rank_of(bpe, at[best].symbol, at[best + 1].symbol) : NO_RANK;
        if (best) at[best - 1].rank = rank_of(bpe, at[best - 1].symbol, at[best].symbol);
    }
    u->n = n;
}

/* A binary heap of (rank, position) packed into 64 bits, so that its order is that of the numbers. Entries
 * are never removed when they go stale: one whose rank is no longer its unit's is skipped. */
struct heap {
    uint64_t *at;
    size_t n;
};

static void heap_push(struct heap *h, uint64_t value)
{
    size_t i = h->n++;
    while (i && h->at[(i - 1) / 2] > value) {
        h->at[i] = h->at[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    h->at[i] = value;
}

static uint64_t heap_pop(struct heap *h)
{
    uint64_t top = h->at[0], last = h->at[--h->n];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < h->n; i = child) {
        if (child + 1 < h->n && h->at[child + 1] < h->at[child]) child++;
        if (h->at[child] >= last) break;
        h->at[i] = h->at[child];
    }
    h->at[i] = last;
    return top;
}

static void rank_pair(const struct bpe *bpe, struct units *u, struct heap *h, int32_t i)
{
    struct unit *a = &u->at[i];
    a->rank = a->next < 0 ? NO_RANK : rank_of(bpe, a->symbol, u->at[a->next].symbol);
    if (a->rank != NO_RANK) heap_push(h, (uint64_t)a->rank << 32 | (uint32_t)i);
}

static llm_status merge_long(const struct bpe *bpe, struct units *u, struct llm_error *err)
{
    /* n - 1 pairs at first, and each of at most n - 1 merges makes two more */
    struct heap h = {mem_grow(NULL, (size_t)u->n * 3, sizeof *h.at), 0};
    if (!h.at) return llm_fail(err, LLM_ENOMEM, "no memory to encode a piece of %d symbols", u->n);
    struct unit *at = u->at;
    for (int32_t i = 0; i < u->n; i++) {
        at[i].prev = i - 1;
        at[i].next = i + 1 < u->n ? i + 1 : -1;
    }
    for (int32_t i = 0; i + 1 < u->n; i++) rank_pair(bpe, u, &h, i);
    while (h.n) {
        uint64_t top = heap_pop(&h);
        int32_t i = (int32_t)(uint32_t)top;
        if (at[i].rank != (int32_t)(top >> 32)) continue;
        int32_t gone = at[i].next;
        at[i].symbol = find_merge(bpe, at[i].symbol, at[gone].symbol)->result;
        at[i].next = at[gone].next;
        if (at[gone].next >= 0) at[at[gone].next].prev = i;
        at[gone].rank = NO_RANK;
        rank_pair(bpe, u, &h, i);
        if (at[i].prev >= 0) rank_pair(bpe, u, &h, at[i].prev);
    }
    mem_free(h.at);
    int32_t n = 0;
    for (int32_t i = 0; i >= 0;) {
        int32_t next = at[i].next;
        at[n++] = at[i];
        i = next;
    }
    u->n = n;
    return LLM_OK;
}

/* ---- ids ----------------------------------------------------------------------------------------------- */

/* A symbol that is no token: `s` is its text, in the vocabulary's spelling. */
static llm_status put_fallback(const struct bpe *bpe, const char *s, size_t size, struct token_list *out,
                               struct llm_error *err)
{
    if (bpe->options.fallback == BPE_UNKNOWN_TOKEN) {
        int32_t id = bpe->options.unknown;
        return id >= 0 ? token_list_push(out, id, err) : LLM_OK;
    }
    for (size_t i = 0; i < size; i++) {
        int32_t id;
        if (bpe->options.fallback == BPE_HEX_BYTES) {
            id = bpe->hex_token[(uint8_t)s[i]];
        } else {
            id = strings_find(bpe->strings, s + i, 1);
            if (id >= bpe->n_vocab) id = -1;
        }
        llm_status status = id >= 0 ? token_list_push(out, id, err) : LLM_OK;
        if (status) return status;
    }
    return LLM_OK;
}

static llm_status put_ids(const struct bpe *bpe, const char *piece, size_t size, const struct units *u,
                          struct token_list *out, struct llm_error *err)
{
    for (int32_t i = 0; i < u->n; i++) {
        int32_t symbol = u->at[i].symbol;
        llm_status status;
        if (symbol >= 0 && symbol < bpe->n_vocab) {
            status = token_list_push(out, symbol, err);
        } else if (symbol >= 0) {
            size_t text_size;
            const char *text = strings_at(bpe->strings, symbol, &text_size);
            status = put_fallback(bpe, text, text_size, out, err);
        } else if (bpe->options.unit == BPE_BYTES) {
            char text[4];
            size_t text_size = utf8_put(bpe_char_of_byte((uint8_t)piece[u->at[i].begin]), text);
            status = put_fallback(bpe, text, text_size, out, err);
        } else {
            size_t begin = (size_t)u->at[i].begin;
            size_t end = i + 1 < u->n ? (size_t)u->at[i + 1].begin : size;
            status = put_fallback(bpe, piece + begin, end - begin, out, err);
        }
        if (status) return status;
    }
    return LLM_OK;
}

/* The token that a whole piece spells, -1: none. */
static int32_t whole_token(const struct bpe *bpe, const char *piece, size_t size)
{
    if (bpe->options.unit == BPE_CHARS) {
        int32_t id = strings_find(bpe->strings, piece, size);
        return id < bpe->n_vocab ? id : -1;
    }
    char text[2048]; /* no vocabulary has longer tokens than half of this */
    if (size > sizeof text / 2) return -1;
    size_t n = 0;
    for (size_t i = 0; i < size; i++) n += utf8_put(bpe_char_of_byte((uint8_t)piece[i]), text + n);
    int32_t id = strings_find(bpe->strings, text, n);
    return id < bpe->n_vocab ? id : -1;
}

llm_status bpe_encode(const struct bpe *bpe, const char *piece, size_t size, struct token_list *out,
                      struct llm_error *err)
{
    if (bpe->options.ignore_merges) {
        int32_t id = whole_token(bpe, piece, size);
        if (id >= 0) return token_list_push(out, id, err);
    }
    struct units u;
    llm_status status = units_open(&u, size, err);
    if (status) return status;
    cut_into_units(bpe, piece, size, &u);
    if (u.n <= SHORT_PIECE)
        merge_short(bpe, &u);
    else
        status = merge_long(bpe, &u, err);
    if (!status) status = put_ids(bpe, piece, size, &u, out, err);
    units_close(&u);
    return status;
}
