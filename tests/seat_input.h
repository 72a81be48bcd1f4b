#ifndef SEAT_INPUT_H
#define SEAT_INPUT_H

/* What a seat (kernels/sampling.h) and a row say, as the engine's sampler and the interpreter of graphs are
 * told it: for devices that are imitated on the CPU, and to compare others with. */

#include "engine/sampler.h"
#include "graph/graph.h"
#include "kernels/sampling.h"

#include <string.h>

struct seat_input {
    struct llm_sampling p;
    struct sample_input in;
    struct llm_token_bias bias[SEAT_WORDS / 2];
    struct token_span bad[SEAT_WORDS];
};

static inline void seat_input_row(struct seat_input *q, const struct sample_row *r)
{
    llm_sampling_init(&q->p);
    q->p.temperature = r->temperature;
    q->p.top_k = r->top_k;
    q->p.top_p = r->top_p;
    q->p.min_p = r->min_p;
    q->in =
        (struct sample_input){.params = &q->p, .seed = r->seed, .stream = r->stream, .position = r->position};
}

/* Its numbers and lists, which must outlive q; not what it allows, nor its counts. */
static inline void seat_input_seat(struct seat_input *q, const struct seat *t)
{
    const int32_t *at = t->words, *ends;
    for (int32_t i = 0; i < t->n_bias; i++) q->bias[i].token = *at++;
    for (int32_t i = 0; i < t->n_bias; i++) memcpy(&q->bias[i].bias, at++, sizeof *at);
    q->p.logit_bias = q->bias;
    q->p.n_logit_bias = (size_t)t->n_bias;
    q->p.min_tokens = t->min_tokens;
    q->p.repetition_penalty = t->repetition_penalty;
    q->p.frequency_penalty = t->frequency_penalty;
    q->p.presence_penalty = t->presence_penalty;
    q->in.end_tokens = at;
    q->in.n_end_tokens = t->n_young;
    ends = at + t->n_young;
    at = ends + t->n_bad_words;
    for (int32_t i = 0; i < t->n_bad_words; i++) {
        int32_t begin = i ? ends[i - 1] : 0;
        q->bad[i] = (struct token_span){at + begin, ends[i] - begin};
    }
    q->in.bad_words = q->bad;
    q->in.n_bad_words = t->n_bad_words;
}

/* The run of a graph on a row of a sequence that has n_history tokens, the first n_prompt its prompt's. */
static inline struct graph_call seat_input_graph(const struct sample_row *r, float *row,
                                                 const int32_t *history, int32_t n_prompt, int32_t n_history)
{
    return (struct graph_call){.row = row,
                               .prompt = history,
                               .n_prompt = n_prompt,
                               .output = history + n_prompt,
                               .n_output = n_history - n_prompt,
                               .seed = r->seed,
                               .stream = r->stream,
                               .position = r->position,
                               .temperature = r->temperature,
                               .top_p = r->top_p,
                               .min_p = r->min_p,
                               .top_k = r->top_k};
}

#endif
