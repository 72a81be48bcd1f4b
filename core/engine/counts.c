#include "engine/counts.h"

uint32_t counts_slots_for(int32_t n)
{
    uint32_t size = 4;
    while (size < 2 * (uint64_t)(uint32_t)n) size *= 2;
    return size;
}

void counts_init(struct token_counts *c, struct token_count *list, int32_t *slots, int32_t n)
{
    *c = (struct token_counts){.list = list, .slots = slots, .mask = counts_slots_for(n) - 1};
}

static struct token_count *entry(struct token_counts *c, int32_t token)
{
    uint32_t i = (uint32_t)token * 0x9E3779B1u;
    for (i ^= i >> 15;; i++) {
        int32_t *slot = &c->slots[i & c->mask];
        if (*slot == 0) {
            c->list[c->n] = (struct token_count){.token = token};
            *slot = ++c->n;
        }
        if (c->list[*slot - 1].token == token) return &c->list[*slot - 1];
    }
}

void counts_add_prompt(struct token_counts *c, int32_t token)
{
    entry(c, token)->in_prompt = 1;
}

void counts_add_output(struct token_counts *c, int32_t token)
{
    entry(c, token)->in_output++;
}
