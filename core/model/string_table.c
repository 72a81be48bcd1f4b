#include "model/string_table.h"

#include "base/mem.h"

#include <string.h>
#include <xxhash.h>

static uint32_t hash_of(const char *s, size_t size)
{
    return (uint32_t)XXH3_64bits(s, size);
}

static llm_status grow_slots(struct strings *t, uint32_t n_slots, struct llm_error *err)
{
    struct string_slot *slots = mem_alloc((size_t)n_slots * sizeof *slots);
    if (!slots) return llm_fail(err, LLM_ENOMEM, "no memory for a table of %u strings", n_slots);
    memset(slots, 0xff, (size_t)n_slots * sizeof *slots);
    for (uint32_t i = 0; t->slots && i <= t->slot_mask; i++) {
        if (t->slots[i].id < 0) continue;
        uint32_t at = t->slots[i].hash & (n_slots - 1);
        while (slots[at].id >= 0) at = (at + 1) & (n_slots - 1);
        slots[at] = t->slots[i];
    }
    mem_free(t->slots);
    t->slots = slots;
    t->slot_mask = n_slots - 1;
    return LLM_OK;
}

llm_status strings_open(struct strings *t, int32_t expected, struct llm_error *err)
{
    memset(t, 0, sizeof *t);
    uint32_t n_slots = 64;
    while (n_slots < (uint32_t)expected * 2u && n_slots < (1u << 30)) n_slots *= 2;
    t->begin = mem_array(64, sizeof *t->begin);
    t->capacity = 63;
    if (!t->begin) return llm_fail(err, LLM_ENOMEM, "no memory for a table of strings");
    llm_status status = grow_slots(t, n_slots, err);
    if (status) strings_close(t);
    return status;
}

void strings_close(struct strings *t)
{
    mem_free(t->blob);
    mem_free(t->begin);
    mem_free(t->slots);
    memset(t, 0, sizeof *t);
}

static llm_status make_room(struct strings *t, size_t size, struct llm_error *err)
{
    if (t->n == t->capacity) {
        if (t->capacity > INT32_MAX / 2) return llm_fail(err, LLM_EUNSUP, "more than 2^30 strings");
        size_t *begin = mem_grow(t->begin, (size_t)t->capacity * 2 + 1, sizeof *begin);
        if (!begin) return llm_fail(err, LLM_ENOMEM, "no memory for %d strings", t->capacity * 2);
        t->begin = begin;
        t->capacity *= 2;
    }
    if (size > t->blob_capacity - t->blob_size) {
        size_t capacity = t->blob_capacity + t->blob_capacity / 2 + size + 4096;
        char *blob = mem_grow(t->blob, capacity, 1);
        if (!blob) return llm_fail(err, LLM_ENOMEM, "no memory for %zu bytes of strings", capacity);
        t->blob = blob;
        t->blob_capacity = capacity;
    }
    if ((uint32_t)t->n_hashed * 3u / 2u >= t->slot_mask) return grow_slots(t, (t->slot_mask + 1) * 2, err);
    return LLM_OK;
}

/* The number of the string with this content, or -1 with *at the free slot where it belongs. */
static int32_t find_slot(const struct strings *t, const char *s, size_t size, uint32_t hash, uint32_t *at)
{
    for (*at = hash & t->slot_mask; t->slots[*at].id >= 0; *at = (*at + 1) & t->slot_mask) {
        if (t->slots[*at].hash != hash) continue;
        size_t other_size;
        const char *other = strings_at(t, t->slots[*at].id, &other_size);
        if (other_size == size && !memcmp(other, s, size)) break;
    }
    return t->slots[*at].id;
}

llm_status strings_add(struct strings *t, const char *s, size_t size, int findable, struct llm_error *err)
{
    llm_status status = make_room(t, size, err);
    if (status) return status;
    int32_t id = t->n++;
    if (size) memcpy(t->blob + t->blob_size, s, size);
    t->blob_size += size;
    t->begin[id + 1] = t->blob_size;
    if (!findable) return LLM_OK;

    uint32_t hash = hash_of(s, size), at;
    if (find_slot(t, s, size, hash, &at) >= 0) return LLM_OK;
    t->slots[at] = (struct string_slot){hash, id};
    t->n_hashed++;
    return LLM_OK;
}

int32_t strings_find(const struct strings *t, const char *s, size_t size)
{
    uint32_t at;
    return find_slot(t, s, size, hash_of(s, size), &at);
}
