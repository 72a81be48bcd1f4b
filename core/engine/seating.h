#ifndef LLM_ENGINE_SEATING_H
#define LLM_ENGINE_SEATING_H

/* Who sits where on a device that samples (kernels/sampling.h). An output that asks for more than plain
 * sampling gets a seat when the device first samples for it, and keeps it until it ends; only one that waits,
 * set back, may lose it to one that runs. The host keeps what a seat is filled from; it does not follow the
 * variables of graphs while they are on the device.
 *
 * A seat is in step while every token since it was filled was made through it. One that is not is filled anew
 * before it is used. Engine thread only, but for seating_need. */

#include "engine/request.h"
#include "kernels/sampling.h"

struct llm_engine;

/* length: of the sequence, tokens on their way included, with which the seat is in step; -1: with none. */
struct seat_holder {
    struct output *output; /* null: nobody */
    int32_t length;
};

struct seating {
    int32_t n, n_free;
    struct seat_holder *holders; /* [n] */
    int32_t *free;               /* [n_free], of n */
    /* scratch, for telling a seat what it is for */
    struct seat *seat;
    double variables[SEAT_VARIABLES];
};

/* Errors: LLM_ENOMEM. */
llm_status seating_init(struct seating *s, int32_t n, struct llm_error *err);
void seating_deinit(struct seating *s);

/* Who can make the tokens of a request, whose chain is set. Any thread. */
enum sampled_by seating_need(const struct llm_engine *e, const struct llm_request *r);

/* 1 if the output has a seat now; 0: there is none, or no memory for what it needs on the device. */
int seating_take(struct llm_engine *e, struct output *o);
/* Its seat, if it has one, is free. What was launched with it may still run. */
void seating_leave(struct seating *s, struct output *o);

int seating_is_in_step(const struct seating *s, const struct output *o);
/* Fills the seat of an output, all of whose tokens are known, for the launch with this mark. */
llm_status seating_fill(struct llm_engine *e, struct output *o, int mark, struct llm_error *err);
/* The device makes the next token through the seat. */
void seating_launched(struct seating *s, const struct output *o);

/* Fills links [SAMPLE_MAX_ROUNDS] with the graphs of an output's chain. Returns how many; the rest is 0. */
int32_t seating_links(const struct llm_engine *e, const struct output *o, struct graph_link *links,
                      const struct device_graph **graphs);

#endif
