#ifndef LLM_BASE_NAME_TABLE_H
#define LLM_BASE_NAME_TABLE_H

/* A hash table from names to indices: open addressing, linear probing, at most half full. Names are borrowed
 * and must outlive the table. Not thread-safe while it is being filled; any thread may look up afterwards. */

#include <stddef.h>
#include <stdint.h>

struct name_slot {
    const char *name; /* null: free */
    size_t bytes;
    int64_t index;
};

struct name_table {
    struct name_slot *slots; /* [n_slots], a power of two; null while empty */
    size_t n_slots, n;
};

/* A zeroed struct is an empty table. */
void name_table_free(struct name_table *table);

/* Adds name -> index. Returns 1, 0 if the name was there already (nothing changes), -1 without memory. */
int name_table_put(struct name_table *table, const char *name, size_t bytes, int64_t index);

/* The index of a name, -1: not there. */
int64_t name_table_find(const struct name_table *table, const char *name, size_t bytes);

#endif
