/* Input: a header's JSON, a zero byte, the data; it is given its length. And the same bytes as a whole file.
 */

#include "fuzz.h"
#include "model/safetensors.h"

#include <string.h>

static void check(const void *data, size_t size)
{
    struct llm_error err;
    struct safetensors *s = NULL;
    if (safetensors_open_memory(data, size, &s, &err) != LLM_OK) return;
    for (int64_t i = 0; i < safetensors_n_tensors(s); i++) {
        const char *name;
        const struct tensor *t = safetensors_tensor(s, i, &name);
        must(safetensors_find(s, name) == t);
        must(t->n_dims >= 1 && t->n_dims <= 4);
        must((uintptr_t)t->data % (uintptr_t)dtype_table[t->dtype].bytes == 0);
        touch(t->data, dtype_bytes(t->dtype, tensor_count(t)));
    }
    must(safetensors_explain_missing(s, "no such tensor", &err) != LLM_OK);
    safetensors_close(s);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    uint64_t header = zero ? (uint64_t)(zero - data) : size;
    size_t rest = zero ? size - (size_t)header - 1 : 0, total = 8 + (size_t)header + rest;
    uint8_t *file = malloc(total);
    if (!file) return 0;
    memcpy(file, &header, 8);
    if (size > 0) memcpy(file + 8, data, (size_t)header);
    if (rest > 0) memcpy(file + 8 + header, zero + 1, rest);
    check(file, total);
    check(data, size);

    struct llm_error err;
    struct safetensors *s = NULL;
    mem_fail_at(failing_allocation(data, size));
    (void)safetensors_open_memory(file, total, &s, &err);
    mem_fail_at(0);
    safetensors_close(s);
    free(file);
    return 0;
}
