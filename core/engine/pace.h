#ifndef LLM_ENGINE_PACE_H
#define LLM_ENGINE_PACE_H

/* How many prompt tokens a step may read so that those who decode in it wait no longer than a target: learnt
 * from the steps that were run. A budget of tokens alone makes the gap between a stream's tokens depend on
 * the machine and on the length of contexts. Engine thread only. */

#include <stdint.h>

enum { PACE_LEAST = 64 /* tokens of a step at least, however slow they are */, PACE_LEARN = 256 };

struct pace {
    double ns_a_token; /* of a step that reads prompts; 0: not known yet */
    int64_t last_done; /* ns: when the last step had run */
};

/* A step of n tokens was launched, and had run by `done`. Steps run one after the other. */
static inline void pace_learn(struct pace *p, int32_t n, int64_t launched, int64_t done)
{
    int64_t began = launched > p->last_done ? launched : p->last_done;
    p->last_done = done;
    if (n < PACE_LEARN || done <= began) return;
    double now = (double)(done - began) / n;
    p->ns_a_token = p->ns_a_token > 0 ? 0.7 * p->ns_a_token + 0.3 * now : now;
}

/* Tokens for the next step, at most `most`, when the next tokens of n_watched streams come out of it. */
static inline int32_t pace_budget(const struct pace *p, float target_ms, int32_t n_watched, int32_t most)
{
    if (!(target_ms > 0) || n_watched == 0 || !(p->ns_a_token > 0)) return most;
    double n = (double)target_ms * 1e6 / p->ns_a_token;
    int32_t least = n_watched + PACE_LEAST;
    if (n < least) n = least;
    return n < most ? (int32_t)n : most;
}

#endif
