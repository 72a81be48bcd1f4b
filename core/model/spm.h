#ifndef LLM_MODEL_SPM_H
#define LLM_MODEL_SPM_H

/* The SentencePiece library behind a C interface. spm.cc is the only C++ here, and lets no exception out.
 * Immutable after open; encode may run on any thread. */

#include "base/status.h"
#include "model/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

struct spm;

enum spm_type { SPM_NORMAL = 1, SPM_UNKNOWN, SPM_CONTROL, SPM_USER_DEFINED, SPM_UNUSED, SPM_BYTE };

/* A serialized ModelProto, not kept. It is checked here first, as the library trusts its tables. Errors:
 * LLM_EFORMAT, LLM_ENOMEM. */
llm_status spm_open(const void *proto, size_t size, struct spm **out, struct llm_error *err);
void spm_close(struct spm *spm);

/* Appends the ids of a text. Errors: LLM_EFAILED, LLM_ENOMEM. */
llm_status spm_encode(const struct spm *spm, const char *text, size_t size, struct token_list *out,
                      struct llm_error *err);

int32_t spm_n_pieces(const struct spm *spm);
/* Borrowed until close. */
const char *spm_piece(const struct spm *spm, int32_t id, size_t *size);
enum spm_type spm_piece_type(const struct spm *spm, int32_t id);
int32_t spm_bos(const struct spm *spm); /* -1: none */
int32_t spm_eos(const struct spm *spm);
int32_t spm_unk(const struct spm *spm);

#ifdef __cplusplus
}
#endif
#endif
