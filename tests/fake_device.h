#ifndef FAKE_DEVICE_H
#define FAKE_DEVICE_H

/* The fake model (fake_model.h) on a device that samples: what is launched is queued, and runs in order when
 * the device pleases, at the latest when its mark is collected. Tokens are known, and KV memory is written,
 * only then. What an earlier step left is poisoned before a later one uses its mark, so that who reads a
 * place or a result at the wrong time finds no token. A step that is described wrongly fails with what is
 * wrong. */

#include "fake_model.h"

#include "engine/sampler.h"

struct fake_work; /* a step or a copy of a page, queued */

struct fake_device {
    struct fake_model *model;
    int32_t max_seqs;
    struct sampler sampler;
    float *logits;           /* [vocab_size] */
    int32_t *last;           /* [2 * max_seqs] places */
    struct sampled *rows[2]; /* [max_seqs] of a mark */
    int32_t *fed;            /* [max_tokens] */
    int32_t *written;        /* [n_pages * page_size] the step that wrote a slot last */
    int flying[2];           /* 1: launched, not collected */
    struct fake_work *first, **end;
    uint64_t luck;
    int32_t eagerness; /* of 100: chance that a piece of work runs before it must */
    int32_t fail_launch_after, fail_collect_after; /* calls; -1: never */
    _Atomic int32_t n_launched;
    int32_t n_collected, n_run;
    int *closed_in_flight; /* null, or set to 1 if close comes while a step flies */
};

struct fake_device *fake_device_new(struct fake_model *m, int32_t max_seqs, int32_t eagerness, uint64_t seed);
/* The table for engine_start, which takes the device and its model. */
struct engine_model fake_device_table(struct fake_device *d);

#endif
