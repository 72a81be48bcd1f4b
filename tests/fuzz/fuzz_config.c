/* Input: a config.json; then, after a zero byte if there is one, a generation_config.json. */

#include "fuzz.h"
#include "model/rope.h"

#include <math.h>
#include <string.h>

static void check_ids(const struct model_config *c)
{
    must(c->bos_token_id >= -1 && c->bos_token_id < c->vocab_size);
    must(c->pad_token_id >= -1 && c->pad_token_id < c->vocab_size);
    must(c->n_eos >= 0 && c->n_eos <= CONFIG_MAX_EOS);
    for (int32_t i = 0; i < c->n_eos; i++)
        must(c->eos_token_ids[i] >= 0 && c->eos_token_ids[i] < c->vocab_size);
}

static void check_shape(const struct model_config *c)
{
    must(c->vocab_size > 0 && c->hidden_size > 0 && c->ffn_size > 0 && c->max_position > 0);
    must(c->n_layers > 0 && c->n_layers <= CONFIG_MAX_LAYERS);
    must(c->n_heads > 0 && c->n_kv_heads > 0 && c->n_heads % c->n_kv_heads == 0);
    must(((int64_t)c->n_heads + 2 * (int64_t)c->n_kv_heads) * c->head_dim <= INT32_MAX);
    must(2 * (int64_t)c->ffn_size <= INT32_MAX);
    must(isfinite(c->attn_scale) && c->norm_eps >= 0);
    for (int32_t i = 0; i < c->n_layers; i++) must(config_layer_window(c, i) >= 0);
}

static void check_rope(const struct rope_config *rope)
{
    enum { N = 3 };
    must(rope->rotary_dim > 0 && rope->rotary_dim % 2 == 0);
    size_t n = (size_t)N * (size_t)rope->rotary_dim;
    float *table = malloc(n * sizeof *table);
    if (!table) return;
    must(rope_table_fill(rope, N, table, NULL) == LLM_OK);
    for (size_t i = 0; i < n; i++) must(isfinite(table[i]));
    free(table);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *json = (const char *)data, *zero = size ? memchr(json, 0, size) : NULL;
    size_t json_bytes = zero ? (size_t)(zero - json) : size;
    const char *generation = zero ? zero + 1 : NULL;
    size_t generation_bytes = zero ? size - json_bytes - 1 : 0;
    struct model_config c;
    struct llm_error err;
    if (config_from_json(json, json_bytes, generation, generation_bytes, &c, &err) == LLM_OK) {
        check_ids(&c);
        check_shape(&c);
        check_rope(&c.rope);
        config_free(&c);
    }
    mem_fail_at(failing_allocation(data, size));
    if (config_from_json(json, json_bytes, generation, generation_bytes, &c, &err) == LLM_OK) config_free(&c);
    mem_fail_at(0);
    return 0;
}
