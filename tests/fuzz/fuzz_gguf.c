/* Input: a GGUF file. */

#include "fuzz.h"
#include "model/config.h"
#include "model/gguf_file.h"

static void check_metadata(const struct gguf *g)
{
    for (size_t i = 0; i < g->n_kvs; i++) {
        const struct gguf_kv *kv = &g->kvs[i];
        touch(kv->key.data, kv->key.size);
        touch(kv->text.data, kv->text.size);
        touch(kv->scalar, gguf_scalar_bytes(kv->type));
        const struct gguf_array *a = &kv->array;
        for (uint64_t j = 0; a->strings && j < a->n; j++) touch(a->strings[j].data, a->strings[j].size);
        if (a->n > 0) {
            (void)gguf_array_float(a, a->n - 1);
            (void)gguf_array_int(a, a->n - 1);
        }
        must(name_table_find(&g->keys, kv->key.data, kv->key.size) == (int64_t)i);
    }
}

static void check_tensors(const struct gguf *g)
{
    for (int64_t i = 0; i < gguf_n_tensors(g); i++) {
        const char *name;
        const struct tensor *t = gguf_tensor(g, i, &name);
        must(gguf_find(g, name) == t);
        must(t->n_dims >= 1 && t->n_dims <= 4 && tensor_count(t) > 0);
        must((uintptr_t)t->data % 8 == 0);
        touch(t->data, dtype_bytes(t->dtype, tensor_count(t)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct llm_error err;
    struct gguf *g = NULL;
    if (gguf_open_memory(data, size, &g, &err) == LLM_OK) {
        struct model_config config;
        check_metadata(g);
        check_tensors(g);
        if (config_from_gguf(g, &config, &err) == LLM_OK) config_free(&config);
        gguf_close(g);
    }
    g = NULL;
    mem_fail_at(failing_allocation(data, size));
    (void)gguf_open_memory(data, size, &g, &err);
    mem_fail_at(0);
    gguf_close(g);
    return 0;
}
