#ifndef LLM_MODEL_SPM_PROTO_H
#define LLM_MODEL_SPM_PROTO_H

/* SentencePiece's ModelProto in protobuf wire format (sentencepiece_model.proto): writing one for a
 * vocabulary that came in another file, and checking one before the library sees it. */

#include "base/status.h"

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

struct spm_proto_writer {
    char *data; /* owned: mem_free */
    size_t size, capacity;
};

/* Pieces are numbered in the order in which they are added; type as in enum spm_type of spm.h. Errors:
 * LLM_ENOMEM. */
llm_status spm_proto_add_piece(struct spm_proto_writer *w, const char *text, size_t size, float score,
                               int type, struct llm_error *err);
/* Ends a BPE model that takes text as it is, but for spaces, which become U+2581. */
llm_status spm_proto_finish_bpe(struct spm_proto_writer *w, int byte_fallback, int32_t unk_id,
                                struct llm_error *err);

/* Whether this is a ModelProto whose tables the library can follow without leaving them. Errors:
 * LLM_EFORMAT. */
llm_status spm_proto_check(const void *proto, size_t size, struct llm_error *err);
/* Whether encoding puts a space before a text, and whether runs of spaces shrink (normalizer_spec). */
int spm_proto_adds_dummy_prefix(const void *proto, size_t size);

#ifdef __cplusplus
}
#endif
#endif
