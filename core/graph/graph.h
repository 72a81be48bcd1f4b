#ifndef LLM_GRAPH_GRAPH_H
#define LLM_GRAPH_GRAPH_H

/* Sampling policies as dataflow graphs: what a policy's `graph` function becomes when it is traced. This is
 * the IR as data, its text, and the CPU interpreter that defines what a graph means; a device compiles the
 * same nodes (ops.h) and is compared with this.
 *
 * The text is the interchange form: a line a declaration or node, in SSA, typed.
 *
 *   graph 1
 *   param start num 1.2 0 5              name, default, least, greatest; list, pairs, automaton: name only
 *   state mu num 10                      name, initial value
 *   state ring vec 3 0 0 0               name, length, initial values
 *   %0 row = logits
 *   %1 num = param start
 *   %2 row = div %0 %1
 *   %3 num = row_max %2
 *   store mu %3                          new value of a variable, at most one store each
 *   result row %2                        or: result token %n, a num
 *
 * Parsing what was printed gives the same graph, and printing that the same bytes. Text is untrusted input.
 *
 * A graph is immutable after graph_parse and may be used by any number of threads. Arguments, variables and
 * history belong to a sequence; scratch to a thread. graph_run allocates nothing. */

#include "base/status.h"
#include "graph/failure.h"
#include "graph/ops.h"

#include <stddef.h>
#include <stdint.h>

enum {
    GRAPH_MAX_ARGS = 6,
    GRAPH_MAX_NODES = 4096,
    GRAPH_MAX_PARAMS = 64,
    GRAPH_MAX_STATES = 64,
    GRAPH_MAX_NAME = 63,       /* bytes: a letter or _, then letters, digits, _ */
    GRAPH_MAX_VEC = 1024,      /* elements of one array */
    GRAPH_MAX_IDS = 65536,     /* token ids in the text of one graph */
    GRAPH_MAX_VOCAB = 1 << 24, /* ids are exact as f32 */
    GRAPH_MAX_SITE = 65535,
    GRAPH_MAX_REPEAT = 256
};

enum graph_type {
    GRAPH_ROW,
    GRAPH_MASK,
    GRAPH_NUM,
    GRAPH_BOOL,
    GRAPH_VEC,
    GRAPH_LIST,
    GRAPH_PAIRS,
    GRAPH_AUTOMATON,
    GRAPH_N_TYPES
};

/* "row", "mask", … */
const char *graph_type_name(enum graph_type type);

struct graph_node {
    enum graph_op op;
    enum graph_type type;
    int32_t n_args;
    int32_t args[GRAPH_MAX_ARGS]; /* nodes, each before this one */
    double number;                /* attributes: see enum graph_attribute */
    int32_t index, count;
    int32_t length; /* of a vec */
};

struct graph_param {
    char name[GRAPH_MAX_NAME + 1];
    enum graph_type type;        /* NUM, LIST, PAIRS, AUTOMATON */
    double initial, least, most; /* NUM: the default and what is allowed */
};

struct graph_state {
    char name[GRAPH_MAX_NAME + 1];
    enum graph_type type; /* NUM, VEC */
    int32_t length;       /* VEC; NUM: 1 */
    int32_t offset;       /* in a sequence's variables, and in graph.initial */
    int32_t store;        /* node that gives the new value; -1: it never changes */
};

enum graph_result { GRAPH_GIVES_ROW, GRAPH_GIVES_TOKEN };

struct graph {
    int32_t n_nodes, n_params, n_states, n_ids;
    struct graph_node *nodes;
    struct graph_param *params;
    struct graph_state *states;
    int32_t *ids;    /* of all ids nodes */
    double *initial; /* [n_variables] */
    int32_t n_variables;
    enum graph_result gives;
    int32_t result;    /* node */
    int uses_counts;   /* has a counts node: graph_call.counts spares it a pass over the history */
    int uses_history;  /* needs prompt and output */
    struct plan *plan; /* of the CPU interpreter */
};

/* Reads and checks a graph, and plans its passes; *out is the caller's, graph_free frees it. Errors:
 * LLM_EINVAL (line, what is wrong), LLM_ENOMEM. */
llm_status graph_parse(const char *text, size_t bytes, struct graph **out, struct llm_error *err);
void graph_free(struct graph *g); /* null: nothing */

/* The text, NUL-terminated, in *text for the caller to mem_free; *bytes (may be null) without the NUL.
 * Errors: LLM_ENOMEM. */
llm_status graph_dump(const struct graph *g, char **text, size_t *bytes, struct llm_error *err);

/* How the CPU runs it, for people: its passes over the row and what each keeps. As graph_dump. */
llm_status graph_explain(const struct graph *g, char **text, size_t *bytes, struct llm_error *err);

/* -1: there is none. */
int32_t graph_find_param(const struct graph *g, const char *name);

/* Fills variables [n_variables] of a new sequence. */
void graph_state_init(const struct graph *g, double *variables);

/* ---- arguments of a request ---------------------------------------------------------------------------- */

/* Values of the parameters: numbers begin at their defaults, tables empty. Immutable once a run uses it, and
 * then good for any thread. */
struct graph_args;

/* Borrows g until graph_args_free. vocab_size: of the rows. Errors: LLM_ENOMEM. */
llm_status graph_args_new(const struct graph *g, int32_t vocab_size, struct graph_args **out,
                          struct llm_error *err);
/* Copies everything, automata by reference. Errors: LLM_ENOMEM. */
llm_status graph_args_copy(const struct graph_args *from, struct graph_args **out, struct llm_error *err);
void graph_args_free(struct graph_args *args); /* null: nothing */

/* By index or name of the parameter (graph_find_param). Each replaces the value there was. Errors: LLM_EINVAL
 * (the parameter has another type, the value is out of its range or not finite, a token id is out of the
 * vocabulary), LLM_ENOMEM. */
llm_status graph_args_number(struct graph_args *args, int32_t param, double value, struct llm_error *err);
llm_status graph_args_list(struct graph_args *args, int32_t param, const int32_t *ids, size_t n,
                           struct llm_error *err);
llm_status graph_args_pairs(struct graph_args *args, int32_t param, const int32_t *ids, const float *values,
                            size_t n, struct llm_error *err);

/* A deterministic automaton over tokens, in classes: tokens that no state tells apart. Built once, shared by
 * reference count (from any thread). */
struct graph_automaton;

/* Copies class_of [vocab_size], each below n_classes, and next [n_states][n_classes], each below n_states,
 * -1: refused. The automaton begins in state 0. Errors: LLM_EINVAL, LLM_ENOMEM. */
llm_status graph_automaton_new(int32_t vocab_size, int32_t n_states, int32_t n_classes,
                               const int32_t *class_of, const int32_t *next, struct graph_automaton **out,
                               struct llm_error *err);
void graph_automaton_ref(struct graph_automaton *a);
void graph_automaton_unref(struct graph_automaton *a); /* null: nothing */

/* Takes a reference of its own. Errors: LLM_EINVAL (type; made for another vocabulary). */
llm_status graph_args_automaton(struct graph_args *args, int32_t param, struct graph_automaton *a,
                                struct llm_error *err);

/* ---- running ------------------------------------------------------------------------------------------- */

/* What a thread needs to run any graph: mapped memory that costs what is touched. */
struct graph_scratch;

/* isa: null: the best this machine has; "ref", "avx2", "avx512". Errors: LLM_EINVAL (vocab_size, an isa this
 * machine lacks), LLM_ENOMEM. */
llm_status graph_scratch_open(int32_t vocab_size, const char *isa, struct graph_scratch **out,
                              struct llm_error *err);
void graph_scratch_close(struct graph_scratch *s); /* null: nothing */
const char *graph_scratch_isa(const struct graph_scratch *s);

/* As struct token_count of engine/counts.h. */
struct graph_count {
    int32_t token;
    int32_t in_prompt; /* 0 or 1 */
    int32_t in_output; /* times */
};

/* One row of one sequence. */
struct graph_call {
    /* [vocab_size] logits. A graph that gives a row writes it here, and after a failure its contents are not
     * specified; one that gives a token only reads it. */
    float *row;
    double *variables; /* [n_variables]; changed only if the run succeeds. May be null if there are none */
    const struct graph_args *args;
    const int32_t *prompt, *output; /* tokens so far; ids in [0, vocab_size) */
    int32_t n_prompt, n_output;
    const struct graph_count *counts; /* distinct tokens of both, or null: counted from the above */
    int32_t n_counts;
    uint64_t seed; /* as for the sampler: base/rng.h */
    uint32_t stream;
    uint64_t position;               /* in the sequence, of the token to be chosen */
    float temperature, top_p, min_p; /* what the request asked for */
    int32_t top_k;                   /* 0 or -1: off */
    int32_t token;                   /* out: of a graph that gives one */
};

/* A pure function of the call and the graph, whatever the thread and the instruction set, to the bit.
 * Errors: LLM_EINVAL: the result row has NaN or +inf, or nothing above -inf; the token is no id; a variable
 * would become NaN; draw met bad weights. The message names the node. */
llm_status graph_run(const struct graph *g, struct graph_scratch *s, struct graph_call *call,
                     struct llm_error *err);

/* The numbers behind hash and row_hash, for a detector of watermarks: uniform in (0, 1) of the key and a
 * token, n <= GRAPH_MAX_ARGS; graph_hash is the one without a token. Numbers of a key are rounded down; those
 * beyond 2^53 and NaN count as 0. */
float graph_token_hash(const double *key, int32_t n, int32_t token);
float graph_hash(const double *key, int32_t n);

#endif
