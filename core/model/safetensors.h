#ifndef LLM_MODEL_SAFETENSORS_H
#define LLM_MODEL_SAFETENSORS_H

/* The tensors of a safetensors file or of a directory of them (model.safetensors, or the shards listed in
 * model.safetensors.index.json), memory-mapped. Every offset, size and product is checked at open.
 * Format: huggingface/safetensors README. Immutable after open.
 *
 * Shown are tensors of F32, F16, BF16 and I32 with at most four dims. Files also hold others that a model may
 * not need (I64 position ids, BOOL masks), so those do not make open fail: find has no such tensor, and
 * safetensors_explain_missing says why. */

#include "base/dtype.h"
#include "base/status.h"

struct safetensors;

/* path: a .safetensors file or a model directory. Errors: LLM_ENOENT (names the files looked for), LLM_EIO,
 * LLM_ENOMEM, LLM_EFORMAT (names the file and tensor), LLM_EUNSUP (only pytorch_model.bin is there). */
llm_status safetensors_open(const char *path, struct safetensors **out, struct llm_error *err);
/* One file's bytes, borrowed until close. For tests and the fuzzer. */
llm_status safetensors_open_memory(const void *data, size_t bytes, struct safetensors **out,
                                   struct llm_error *err);
void safetensors_close(struct safetensors *s);

/* Tensors, in file order, 0 <= i < n. A scalar is shown as a vector of one. data is aligned to the element
 * size. All pointers live until close. */
int64_t safetensors_n_tensors(const struct safetensors *s);
const struct tensor *safetensors_tensor(const struct safetensors *s, int64_t i, const char **name);
const struct tensor *safetensors_find(const struct safetensors *s, const char *name); /* null: none */

/* For a caller whose find gave null: fills *err with the reason and returns it. LLM_EFORMAT: the files have
 * no tensor of this name; LLM_EUNSUP: they have, but its dtype or number of dims is not supported. */
llm_status safetensors_explain_missing(const struct safetensors *s, const char *name, struct llm_error *err);

#endif
