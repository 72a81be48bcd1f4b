#ifndef LLM_ENGINE_SETTINGS_H
#define LLM_ENGINE_SETTINGS_H

/* The options of an engine and what a model allows become the engine's settings: defaults, checks, the size
 * of KV memory. Pure but for the machine's free memory, which is passed in. */

#include "engine/engine.h"

/* 1024, 24.0 KiB, 1.5 GiB …, for messages. */
struct size_text {
    char text[32];
};
struct size_text size_text(uint64_t bytes);

/* All but n_pages. model_max_len: positions the model has. Errors: LLM_EINVAL (which option, what it must
 * be). */
llm_status settings_limits(const struct llm_engine_options *options, int32_t model_max_len,
                           struct engine_config *out, struct llm_error *err);

/* out->n_pages. available: bytes of memory free to be used. Errors: LLM_EINVAL if one sequence of
 * max_model_len does not fit. */
llm_status settings_pages(const struct llm_engine_options *options, size_t page_bytes, uint64_t available,
                          struct engine_config *out, struct llm_error *err);

/* The dtype of KV memory. Errors: LLM_EINVAL. */
llm_status settings_kv_dtype(const struct llm_engine_options *options, enum llm_dtype *out,
                             struct llm_error *err);

/* Bytes that this process may still take, by the system's and the control group's account. */
uint64_t memory_available(void);

#endif
