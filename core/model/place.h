#ifndef LLM_MODEL_PLACE_H
#define LLM_MODEL_PLACE_H

/* What a device needs of a model besides its linear layers: the embedding's rows, norm weights and biases,
 * copied into the device's memory. Used by weights.c only. */

#include "model/model.h"
#include "model/source.h"

/* Copies the embedding, or makes its random values there, and lets model->embedding point to it. The source
 * is not needed afterwards. Errors: LLM_ENOMEM, LLM_EFAILED. */
llm_status place_embedding(struct model *model, const struct source_tensor *s, struct llm_error *err);

/* Copies all norm weights and biases, and lets the layers point to the copies. Errors: as above. */
llm_status place_vectors(struct model *model, struct llm_error *err);

void place_free(struct model *model);

#endif
