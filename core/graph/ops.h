#ifndef LLM_GRAPH_OPS_H
#define LLM_GRAPH_OPS_H

/* The operations of the graph language: one table for the parser, the printer, the CPU interpreter and
 * whatever compiles graphs for a device. docs/graph.md has them in prose.
 *
 * Values are
 *   row        f32 [vocab], one number a token
 *   mask       a truth value a token
 *   num        f64, one number a sequence; where it meets a row it is rounded to f32 first
 *   bool       a truth value
 *   vec        f64 [1 .. GRAPH_MAX_VEC], a small array of state
 *   list, pairs, automaton: tables that a request's arguments bring
 *
 * X(name, result, operands, attribute)
 *   operands: r row, m mask, n num, v row or num, b mask or bool, a vec, l list, p pairs, A automaton,
 *             * one to GRAPH_MAX_ARGS nums
 *   result:   r row, m mask, n num, a vec, l list; V row if an operand is a row or a mask, else num;
 *             B mask if an operand is a row or a mask, else bool; P type of the parameter; S of the state
 *   attribute: what stands between the op and its operands
 *
 * Row arithmetic is f32, each operation rounded (no fused multiply-add), in the order of the nodes: a graph
 * gives the same bits with every instruction set. exp is within 2 ulp (0 below -87, inf above 88.72), log
 * within 2 ulp, tanh within 3e-7 absolute, pow(x, y) is exp(y log x), inf above e^87, on rows. Num arithmetic
 * is f64 by the C library. Comparisons with NaN are false. */

/* ---- inputs: no operands
 * logits      the row as it comes to the graph
 * index       the token's id, as a number
 * const       the number in the text
 * param       an argument of the request
 * state       a variable's value before this call
 * position    index in the sequence of the token to be chosen: n_prompt + n_output
 * vocab       tokens in a row
 * temperature, top_k, top_p, min_p: what the request asked for; top_k 0: off
 * ids         a list of token ids in the text
 * random      uniform in (0, 1): the first word of Philox (base/rng.h) of (seed, stream, position, site)
 * row_random  uniform in (0, 1) a token: as row_hash, its key the third and fourth word of that
 * counts      prompt: 1 for tokens the prompt has, else 0; output: how often the output has each
 */
#define GRAPH_INPUT_OPS(X)                                                                                   \
    X(logits, 'r', "", NONE)                                                                                 \
    X(index, 'r', "", NONE)                                                                                  \
    X(const, 'n', "", NUMBER)                                                                                \
    X(param, 'P', "", PARAM)                                                                                 \
    X(state, 'S', "", STATE)                                                                                 \
    X(position, 'n', "", NONE)                                                                               \
    X(n_prompt, 'n', "", NONE)                                                                               \
    X(n_output, 'n', "", NONE)                                                                               \
    X(vocab, 'n', "", NONE)                                                                                  \
    X(temperature, 'n', "", NONE)                                                                            \
    X(top_k, 'n', "", NONE)                                                                                  \
    X(top_p, 'n', "", NONE)                                                                                  \
    X(min_p, 'n', "", NONE)                                                                                  \
    X(ids, 'l', "", IDS)                                                                                     \
    X(random, 'n', "", SITE)                                                                                 \
    X(row_random, 'r', "", SITE)                                                                             \
    X(counts, 'r', "", REGION)

/* ---- element by element: on rows, or on nums alone
 * min, max    of a NaN and a number: the number
 * pow         C's on nums; on rows see above, NaN for x < 0
 * lt le eq    a < b, a <= b, a == b
 * where c a b a where c holds, else b
 */
#define GRAPH_ELEMENT_OPS(X)                                                                                 \
    X(neg, 'V', "v", NONE)                                                                                   \
    X(abs, 'V', "v", NONE)                                                                                   \
    X(exp, 'V', "v", NONE)                                                                                   \
    X(log, 'V', "v", NONE)                                                                                   \
    X(tanh, 'V', "v", NONE)                                                                                  \
    X(sqrt, 'V', "v", NONE)                                                                                  \
    X(floor, 'V', "v", NONE)                                                                                 \
    X(add, 'V', "vv", NONE)                                                                                  \
    X(sub, 'V', "vv", NONE)                                                                                  \
    X(mul, 'V', "vv", NONE)                                                                                  \
    X(div, 'V', "vv", NONE)                                                                                  \
    X(pow, 'V', "vv", NONE)                                                                                  \
    X(min, 'V', "vv", NONE)                                                                                  \
    X(max, 'V', "vv", NONE)                                                                                  \
    X(lt, 'B', "vv", NONE)                                                                                   \
    X(le, 'B', "vv", NONE)                                                                                   \
    X(eq, 'B', "vv", NONE)                                                                                   \
    X(and, 'B', "bb", NONE)                                                                                  \
    X(or, 'B', "bb", NONE)                                                                                   \
    X(not, 'B', "b", NONE)                                                                                   \
    X(where, 'V', "bvv", NONE)

/* ---- from a row to a num
 * row_max, row_min   NaN elements do not count; -inf, inf if there is no other
 * row_sum     each block of 512 in 16 f32 lanes, then lanes and blocks in order in f64
 * row_argmax  lowest id of the largest; 0 if all are NaN or -inf
 * mask_count  tokens of which it holds
 * kth x k     k-th largest element, k rounded down; -inf if k < 1 or k > vocab. NaN counts as -inf
 * quantile x w p   the largest v such that the w >= 0 of the tokens with x >= v sum to at least p times
 *             the sum of w; tokens with w = 0 do not count. p <= 0: the largest x. p >= 1: -inf
 * gather x i  element i (rounded down); NaN if there is none
 * draw w      a token, with probability w / sum w: the first at which the running sum passes u of the sum.
 *             u: 53 bits of Philox as for random; site 0 is the sampler's own number. NaN, a
 *             negative weight, or no weight above 0: the run fails
 */
#define GRAPH_REDUCE_OPS(X)                                                                                  \
    X(row_max, 'n', "r", NONE)                                                                               \
    X(row_min, 'n', "r", NONE)                                                                               \
    X(row_sum, 'n', "r", NONE)                                                                               \
    X(row_argmax, 'n', "r", NONE)                                                                            \
    X(mask_count, 'n', "m", NONE)                                                                            \
    X(kth, 'n', "rn", NONE)                                                                                  \
    X(quantile, 'n', "rrn", NONE)                                                                            \
    X(gather, 'n', "rn", NONE)                                                                               \
    X(draw, 'n', "r", SITE)

/* ---- token lists, history, hashes, automata
 * set l       mask of the list's tokens
 * scatter p   row: the sum of the pairs' values a token, 0 elsewhere
 * recent w    row: how often each token is among the last w of prompt and output
 * last i      the i-th token from the end of prompt and output, 1 = the newest; -1 if there is none
 * repeats max w l   row: for each token t, the longest suffix of the history (at most max tokens, none of
 *             them in l, within the last w tokens) that occurs earlier in it followed by t; 0 if none
 * hash a ..   uniform in (0, 1), a function of the nums (rounded down to integers) alone
 * row_hash    the same a token: of (the nums, token id)
 * step A s t  the state after token t in state s: -1 if it is refused, or s or t are out of range
 * accepts A s mask of the tokens that state s allows; none if s is out of range
 * at a i      element i of an array, from 1; NaN if there is none
 * put a i x   the array with element i replaced; as it was if there is none
 * push a x    the array moved down by one (the first drops out), x at its end
 */
#define GRAPH_TABLE_OPS(X)                                                                                   \
    X(set, 'm', "l", NONE)                                                                                   \
    X(scatter, 'r', "p", NONE)                                                                               \
    X(recent, 'r', "n", NONE)                                                                                \
    X(last, 'n', "n", NONE)                                                                                  \
    X(repeats, 'r', "nl", MAX)                                                                               \
    X(hash, 'n', "*", NONE)                                                                                  \
    X(row_hash, 'r', "*", NONE)                                                                              \
    X(step, 'n', "Ann", NONE)                                                                                \
    X(accepts, 'm', "An", NONE)                                                                              \
    X(at, 'n', "an", NONE)                                                                                   \
    X(put, 'a', "ann", NONE)                                                                                 \
    X(push, 'a', "an", NONE)

#define GRAPH_OPS(X)                                                                                         \
    GRAPH_INPUT_OPS(X)                                                                                       \
    GRAPH_ELEMENT_OPS(X)                                                                                     \
    GRAPH_REDUCE_OPS(X)                                                                                      \
    GRAPH_TABLE_OPS(X)

enum graph_op {
#define X(name, result, operands, attribute) GRAPH_OP_##name,
    GRAPH_OPS(X)
#undef X
        GRAPH_N_OPS
};

enum graph_attribute {
    GRAPH_ATTR_NONE,
    GRAPH_ATTR_NUMBER, /* number */
    GRAPH_ATTR_PARAM,  /* index in params; its name in the text */
    GRAPH_ATTR_STATE,  /* index in states; its name in the text */
    GRAPH_ATTR_SITE,   /* index: 0 .. GRAPH_MAX_SITE */
    GRAPH_ATTR_MAX,    /* index: 1 .. GRAPH_MAX_REPEAT */
    GRAPH_ATTR_REGION, /* index: 0 prompt, 1 output */
    GRAPH_ATTR_IDS     /* index: of the first in graph.ids; count. In the text: [1 2 3] */
};

struct graph_op_info {
    const char *name;
    char result;
    const char *operands;
    enum graph_attribute attribute;
};

extern const struct graph_op_info graph_op_table[GRAPH_N_OPS];

#endif
