#include "engine/prefix.h"

#include "base/mem.h"

#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

struct prefix_entry {
    struct block_hash hash;
    int32_t page; /* -1: free */
};

llm_status prefix_init(struct prefix_table *t, int32_t n_pages, const uint8_t *secret, struct llm_error *err)
{
    uint32_t size = 16;
    while (size < 2 * (uint64_t)n_pages) size *= 2;
    t->entries = mem_array(size, sizeof *t->entries);
    if (!t->entries)
        return llm_fail(err, LLM_ENOMEM, "no memory for a prefix cache index of %d pages", n_pages);
    t->mask = size - 1;
    for (uint32_t i = 0; i < size; i++) t->entries[i].page = -1;
    if (secret)
        memcpy(t->secret, secret, sizeof t->secret);
    else if (getrandom(t->secret, sizeof t->secret, 0) != (ssize_t)sizeof t->secret) {
        prefix_deinit(t);
        return llm_fail(err, LLM_EIO, "the system gives no random numbers for the prefix cache's secret");
    }
    return LLM_OK;
}

void prefix_deinit(struct prefix_table *t)
{
    mem_free(t->entries);
    t->entries = NULL;
}

static struct block_hash digest(const struct prefix_table *t, const void *p, size_t bytes)
{
    XXH128_hash_t h = XXH3_128bits_withSecret(p, bytes, t->secret, sizeof t->secret);
    return (struct block_hash){h.low64, h.high64};
}

struct block_hash prefix_root(const struct prefix_table *t, const char *salt, size_t bytes)
{
    return digest(t, salt ? salt : "", salt ? bytes : 0);
}

struct block_hash prefix_next(const struct prefix_table *t, struct block_hash parent, const int32_t *tokens,
                              int32_t n)
{
    struct {
        struct block_hash parent;
        int32_t tokens[PREFIX_MAX_BLOCK];
    } block;
    size_t bytes = sizeof *tokens * (size_t)n;
    block.parent = parent;
    memcpy(block.tokens, tokens, bytes);
    return digest(t, &block, sizeof block.parent + bytes);
}

/* Where the hash is, or the free entry where it would go. */
static uint32_t probe(const struct prefix_table *t, struct block_hash hash)
{
    uint32_t i = (uint32_t)hash.low & t->mask;
    while (t->entries[i].page >= 0 &&
           (t->entries[i].hash.low != hash.low || t->entries[i].hash.high != hash.high))
        i = (i + 1) & t->mask;
    return i;
}

int32_t prefix_find(const struct prefix_table *t, struct block_hash hash)
{
    return t->entries[probe(t, hash)].page;
}

void prefix_insert(struct prefix_table *t, struct block_hash hash, int32_t page)
{
    t->entries[probe(t, hash)] = (struct prefix_entry){hash, page};
}

/* Entries after the hole move up into it where their probe path runs through it, so that no tombstones are
 * needed (Knuth, TAOCP 3, algorithm 6.4R). */
void prefix_remove(struct prefix_table *t, struct block_hash hash)
{
    uint32_t hole = probe(t, hash);
    if (t->entries[hole].page < 0) return;
    for (uint32_t i = (hole + 1) & t->mask; t->entries[i].page >= 0; i = (i + 1) & t->mask) {
        uint32_t home = (uint32_t)t->entries[i].hash.low & t->mask;
        if (((i - home) & t->mask) >= ((i - hole) & t->mask)) {
            t->entries[hole] = t->entries[i];
            hole = i;
        }
    }
    t->entries[hole].page = -1;
}
