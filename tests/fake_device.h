#ifndef FAKE_DEVICE_H
#define FAKE_DEVICE_H

/* The fake model (fake_model.h) on a device that samples: what is launched is queued, and runs in order when
 * the device pleases, at the latest when its mark is collected. Tokens are known, and KV memory is written,
 * only then. What an earlier step left is poisoned before a later one uses its mark, so that who reads a
 * place or a result at the wrong time finds no token. A step that is described wrongly, or finds a seat out
 * of step, fails with what is wrong. How tokens are chosen is in fake_seats.inc.c. */

#include "fake_model.h"

#include "engine/sampler.h"

#include <stdatomic.h>

struct fake_work; /* a step or a part of one, a copy of a page, queued */

struct fake_seat {
    struct seat seat;
    int32_t history[1024], n; /* n: tokens; -1: never filled */
    int32_t *allowed;         /* null: all */
    size_t n_allowed;
    double variables[SEAT_VARIABLES];
    float *work; /* [vocab_size] a hooked row */
};

struct fake_device {
    struct fake_model *model;
    int32_t max_seqs, n_seats;
    struct sampler sampler;
    struct graph_scratch *scratch;
    float *logits, *row, *backup;           /* [vocab_size] raw, as it becomes, before a forgiving graph */
    int32_t *last;                          /* [2 * max_seqs] places */
    struct sampled *rows[2];                /* [max_seqs] of a mark */
    struct sample_candidate *candidates[2]; /* [max_seqs, SAMPLE_MAX_CANDIDATES] at most */
    struct sample_logprob *logprobs[2];     /* [max_seqs, 1 + SAMPLE_MAX_LOGPROBS] at most */
    struct sample_logprob *scores[2];       /* [max_tokens, 1 + SAMPLE_MAX_LOGPROBS] at most */
    uint64_t *states;                       /* [max_seqs] hashes behind the rows of the last step */
    struct fake_seat *seats;                /* [n_seats] */
    float *tickets[EXCHANGE_TICKETS];       /* [vocab_size] */
    int fetched[EXCHANGE_TICKETS];          /* 1 + seat: fetched, not given back */
    int paused;                             /* 1 + mark of a step that waits for its hooks */
    int refuses_graphs;                     /* 1: compiles none; 2: has no memory for arguments */
    _Atomic int32_t n_graphs, n_args;       /* open */
    _Atomic uint64_t n_ids;
    struct device_graph *_Atomic closed_graphs;
    struct device_graph_args *_Atomic closed_args;
    int32_t n_fills, n_recovered, n_fetches, n_amended, n_listed;
    int32_t n_scored, n_raw; /* rows: that score prompts; that the host chose or scored for itself */
    int32_t *fed;            /* [max_tokens] */
    int32_t *written;        /* [n_pages * page_size] the step that wrote a slot last */
    int flying[2];           /* 1: launched, not collected */
    int raw_gone;            /* 1: the memory of the last step's logits has been used again */
    struct fake_work *first, **end;
    uint64_t luck;
    int32_t eagerness; /* of 100: chance that a piece of work runs before it must */
    int32_t fail_launch_after, fail_collect_after; /* calls; -1: never */
    _Atomic int32_t n_launched;
    int32_t n_ahead; /* of these while another flew */
    int32_t n_collected, n_run;
    int *closed_in_flight; /* null, or set to 1 if close comes while a step flies */
};

/* With as many seats as sequences. */
struct fake_device *fake_device_new(struct fake_model *m, int32_t max_seqs, int32_t eagerness, uint64_t seed);
/* Before the table is made. */
void fake_device_seats(struct fake_device *d, int32_t n_seats);
/* The table for engine_start, which takes the device and its model. */
struct engine_model fake_device_table(struct fake_device *d);

#endif
