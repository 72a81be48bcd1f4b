#include "base/name_table.h"
#include "base/mem.h"

#include <string.h>
#include <xxhash.h>

enum { FIRST_SLOTS = 64 };

/* The slot that holds the name, or the free one where it belongs. */
static struct name_slot *slot_of(const struct name_table *table, const char *name, size_t bytes)
{
    size_t mask = table->n_slots - 1;
    for (size_t i = (size_t)XXH3_64bits(name, bytes);; i++) {
        struct name_slot *slot = &table->slots[i & mask];
        if (!slot->name || (slot->bytes == bytes && memcmp(slot->name, name, bytes) == 0)) return slot;
    }
}

static int grow(struct name_table *table)
{
    struct name_table bigger = {.n_slots = table->n_slots ? 2 * table->n_slots : FIRST_SLOTS, .n = table->n};
    bigger.slots = mem_array(bigger.n_slots, sizeof *bigger.slots);
    if (!bigger.slots) return 0;
    for (size_t i = 0; i < table->n_slots; i++) {
        const struct name_slot *old = &table->slots[i];
        if (old->name) *slot_of(&bigger, old->name, old->bytes) = *old;
    }
    mem_free(table->slots);
    *table = bigger;
    return 1;
}

void name_table_free(struct name_table *table)
{
    mem_free(table->slots);
    *table = (struct name_table){0};
}

int name_table_put(struct name_table *table, const char *name, size_t bytes, int64_t index)
{
    if (2 * (table->n + 1) > table->n_slots && !grow(table)) return -1;
    struct name_slot *slot = slot_of(table, name, bytes);
    if (slot->name) return 0;
    *slot = (struct name_slot){name, bytes, index};
    table->n++;
    return 1;
}

int64_t name_table_find(const struct name_table *table, const char *name, size_t bytes)
{
    if (table->n == 0) return -1;
    const struct name_slot *slot = slot_of(table, name, bytes);
    return slot->name ? slot->index : -1;
}
