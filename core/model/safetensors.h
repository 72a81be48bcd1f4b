#ifndef LLM_MODEL_SAFETENSORS_H
#define LLM_MODEL_SAFETENSORS_H

/* The tensors of a safetensors file or of a directory of them (model.safetensors, or the shards listed in
 * model.safetensors.index.json), memory-mapped. Every offset, size and product is checked at open.
 * Format: huggingface/safetensors README. Immutable after open. */

#include "base/dtype.h"
#include "base/status.h"

struct safetensors;

/* path: a .safetensors file or a model directory. Errors: LLM_ENOENT (names the files looked for), LLM_EIO,
 * LLM_EFORMAT (names the file and tensor), LLM_EUNSUP (dtype, and those supported). */
llm_status safetensors_open(const char *path, struct safetensors **out, struct llm_error *err);
/* One file's bytes, borrowed until close. For the fuzzer. */
llm_status safetensors_open_memory(const void *data, size_t bytes, struct safetensors **out,
                                   struct llm_error *err);
void safetensors_close(struct safetensors *s);

int64_t safetensors_n_tensors(const struct safetensors *s);
const struct tensor *safetensors_tensor(const struct safetensors *s, int64_t i, const char **name);
const struct tensor *safetensors_find(const struct safetensors *s, const char *name); /* null: none */

#endif
