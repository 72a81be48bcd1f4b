/* The text of a graph, which is untrusted: every count is bounded, every operand checked for its type. */

#include "graph/graph.h"

#include "base/mem.h"
#include "base/quote.h"
#include "graph/plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_BYTES = 63 };

struct word {
    const char *s;
    size_t n;
};

struct parser {
    const char *at, *end; /* of what is left of the line */
    const char *next;     /* line */
    const char *text_end;
    int32_t line;
    struct graph *g;
    int32_t nodes_room, ids_room, variables_room;
    int finished; /* the result line was there */
    struct llm_error *err;
};

#define FAIL(p, ...)                                                                                         \
    (llm_fail((p)->err, LLM_EINVAL, __VA_ARGS__), llm_fail_in((p)->err, "graph line %d", (p)->line),         \
     LLM_EINVAL)

static llm_status no_memory(struct parser *p)
{
    return llm_fail(p->err, LLM_ENOMEM, "no memory for a graph");
}

/* ---- words --------------------------------------------------------------------------------------------- */

static int next_line(struct parser *p)
{
    if (p->next >= p->text_end) return 0;
    const char *newline = memchr(p->next, '\n', (size_t)(p->text_end - p->next));
    p->at = p->next;
    p->end = newline ? newline : p->text_end;
    p->next = newline ? newline + 1 : p->text_end;
    p->line++;
    return 1;
}

/* Empty at the end of the line. A bracket is a word of its own. */
static struct word next_word(struct parser *p)
{
    while (p->at < p->end && (*p->at == ' ' || *p->at == '\t' || *p->at == '\r')) p->at++;
    struct word w = {p->at, 0};
    if (p->at < p->end && (*p->at == '[' || *p->at == ']')) {
        p->at++;
        w.n = 1;
        return w;
    }
    while (p->at < p->end && !memchr(" \t\r[]", *p->at, 5)) p->at++;
    w.n = (size_t)(p->at - w.s);
    return w;
}

static int is(struct word w, const char *s)
{
    return w.n == strlen(s) && memcmp(w.s, s, w.n) == 0;
}

static const char *quoted(struct quoted *q, struct word w)
{
    return w.n ? quote_bytes(q, w.s, w.n) : "the end of the line";
}

static llm_status expect_end(struct parser *p)
{
    struct quoted q;
    struct word w = next_word(p);
    return w.n ? FAIL(p, "%s is one word too many", quoted(&q, w)) : LLM_OK;
}

static int all_of(struct word w, const char *set)
{
    for (size_t i = 0; i < w.n; i++)
        if (!w.s[i] || !strchr(set, w.s[i])) return 0;
    return w.n > 0;
}

static llm_status read_number(struct parser *p, double *out)
{
    struct quoted q;
    struct word w = next_word(p);
    if (is(w, "inf") || is(w, "-inf")) {
        *out = w.s[0] == '-' ? -INFINITY : INFINITY;
        return LLM_OK;
    }
    char digits[NUMBER_BYTES + 1];
    if (w.n > NUMBER_BYTES || !all_of(w, "0123456789+-.eE")) return FAIL(p, "%s is no number", quoted(&q, w));
    memcpy(digits, w.s, w.n);
    digits[w.n] = 0;
    char *stop;
    *out = strtod(digits, &stop);
    return *stop || !isfinite(*out) ? FAIL(p, "%s is no number", quoted(&q, w)) : LLM_OK;
}

static llm_status read_whole(struct parser *p, const char *what, int32_t least, int32_t most, int32_t *out)
{
    double v;
    llm_status status = read_number(p, &v);
    if (status != LLM_OK) return status;
    if (v != floor(v) || v < least || v > most)
        return FAIL(p, "%s is %.14g; it must be a whole number from %d to %d", what, v, least, most);
    *out = (int32_t)v;
    return LLM_OK;
}

static llm_status read_name(struct parser *p, char *out)
{
    struct quoted q;
    struct word w = next_word(p);
    int good = w.n <= GRAPH_MAX_NAME &&
               all_of(w, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789") &&
               !(w.s[0] >= '0' && w.s[0] <= '9');
    if (!good)
        return FAIL(p, "%s is no name: at most %d letters, digits and _, not a digit first", quoted(&q, w),
                    GRAPH_MAX_NAME);
    memcpy(out, w.s, w.n);
    out[w.n] = 0;
    return LLM_OK;
}

static llm_status read_type(struct parser *p, enum graph_type *out)
{
    struct quoted q;
    struct word w = next_word(p);
    for (int32_t t = 0; t < GRAPH_N_TYPES; t++) {
        if (!is(w, graph_type_name((enum graph_type)t))) continue;
        *out = (enum graph_type)t;
        return LLM_OK;
    }
    return FAIL(p, "%s is no type", quoted(&q, w));
}

/* %12: a node before this line. */
static llm_status read_node(struct parser *p, int32_t *out)
{
    struct quoted q;
    struct word w = next_word(p);
    struct word digits = {w.s + 1, w.n - 1};
    if (w.n < 2 || w.n > 6 || w.s[0] != '%' || !all_of(digits, "0123456789"))
        return FAIL(p, "%s is no node; one reads %%12", quoted(&q, w));
    int32_t v = 0;
    for (size_t i = 0; i < digits.n; i++) v = v * 10 + (digits.s[i] - '0');
    if (v >= p->g->n_nodes) return FAIL(p, "%s comes before it is made", quoted(&q, w));
    *out = v;
    return LLM_OK;
}

/* Room for n elements of `size` bytes in *list, which has *room. */
static llm_status grow(struct parser *p, void **list, int32_t *room, int32_t n, size_t size)
{
    if (n <= *room) return LLM_OK;
    int32_t more = *room ? 2 * *room : 64;
    if (more < n) more = n;
    void *bigger = mem_grow(*list, (size_t)more, size);
    if (!bigger) return no_memory(p);
    *list = bigger;
    *room = more;
    return LLM_OK;
}

/* ---- declarations -------------------------------------------------------------------------------------- */

static int32_t find_state(const struct graph *g, const char *name)
{
    for (int32_t i = 0; i < g->n_states; i++)
        if (strcmp(g->states[i].name, name) == 0) return i;
    return -1;
}

static llm_status parse_param(struct parser *p)
{
    struct graph *g = p->g;
    if (g->n_params == GRAPH_MAX_PARAMS) return FAIL(p, "more than %d parameters", GRAPH_MAX_PARAMS);
    struct graph_param *param = &g->params[g->n_params];
    *param = (struct graph_param){.least = -INFINITY, .most = INFINITY};
    llm_status status = read_name(p, param->name);
    if (status == LLM_OK) status = read_type(p, &param->type);
    if (status != LLM_OK) return status;
    if (graph_find_param(g, param->name) >= 0) return FAIL(p, "there are two parameters %s", param->name);
    if (param->type == GRAPH_NUM) {
        status = read_number(p, &param->initial);
        if (status == LLM_OK) status = read_number(p, &param->least);
        if (status == LLM_OK) status = read_number(p, &param->most);
        if (status != LLM_OK) return status;
        if (!isfinite(param->initial) || param->initial < param->least || param->initial > param->most)
            return FAIL(p, "the default of %s is %.14g; it must be from %.14g to %.14g", param->name,
                        param->initial, param->least, param->most);
    } else if (param->type != GRAPH_LIST && param->type != GRAPH_PAIRS && param->type != GRAPH_AUTOMATON) {
        return FAIL(p, "a parameter is a num, a list, pairs or an automaton, not a %s",
                    graph_type_name(param->type));
    }
    g->n_params++;
    return expect_end(p);
}

static llm_status parse_state(struct parser *p)
{
    struct graph *g = p->g;
    if (g->n_states == GRAPH_MAX_STATES) return FAIL(p, "more than %d variables", GRAPH_MAX_STATES);
    struct graph_state *state = &g->states[g->n_states];
    *state = (struct graph_state){.length = 1, .offset = g->n_variables, .store = -1};
    llm_status status = read_name(p, state->name);
    if (status == LLM_OK) status = read_type(p, &state->type);
    if (status != LLM_OK) return status;
    if (find_state(g, state->name) >= 0) return FAIL(p, "there are two variables %s", state->name);
    if (state->type == GRAPH_VEC) {
        status = read_whole(p, "the length", 1, GRAPH_MAX_VEC, &state->length);
        if (status != LLM_OK) return status;
    } else if (state->type != GRAPH_NUM) {
        return FAIL(p, "a variable is a num or a vec, not a %s", graph_type_name(state->type));
    }
    int32_t n = g->n_variables + state->length;
    status = grow(p, (void **)&g->initial, &p->variables_room, n, sizeof *g->initial);
    for (int32_t i = g->n_variables; status == LLM_OK && i < n; i++) status = read_number(p, &g->initial[i]);
    if (status != LLM_OK) return status;
    g->n_variables = n;
    g->n_states++;
    return expect_end(p);
}

/* ---- nodes --------------------------------------------------------------------------------------------- */

static llm_status parse_ids(struct parser *p, struct graph_node *node)
{
    struct graph *g = p->g;
    struct quoted q;
    struct word w = next_word(p);
    if (!is(w, "[")) return FAIL(p, "%s in place of [", quoted(&q, w));
    node->index = g->n_ids;
    for (;;) {
        const char *here = p->at;
        if (is(next_word(p), "]")) break;
        p->at = here;
        if (g->n_ids == GRAPH_MAX_IDS) return FAIL(p, "more than %d token ids in a graph", GRAPH_MAX_IDS);
        llm_status status = grow(p, (void **)&g->ids, &p->ids_room, g->n_ids + 1, sizeof *g->ids);
        if (status == LLM_OK) status = read_whole(p, "a token id", 0, GRAPH_MAX_VOCAB - 1, &g->ids[g->n_ids]);
        if (status != LLM_OK) return status;
        g->n_ids++;
    }
    node->count = g->n_ids - node->index;
    return LLM_OK;
}

static llm_status parse_attribute(struct parser *p, struct graph_node *node)
{
    struct graph *g = p->g;
    char name[GRAPH_MAX_NAME + 1];
    llm_status status;
    struct quoted q;
    switch (graph_op_table[node->op].attribute) {
    case GRAPH_ATTR_NONE:
        return LLM_OK;
    case GRAPH_ATTR_NUMBER:
        return read_number(p, &node->number);
    case GRAPH_ATTR_PARAM:
        if ((status = read_name(p, name)) != LLM_OK) return status;
        node->index = graph_find_param(g, name);
        return node->index < 0 ? FAIL(p, "there is no parameter %s", name) : LLM_OK;
    case GRAPH_ATTR_STATE:
        if ((status = read_name(p, name)) != LLM_OK) return status;
        node->index = find_state(g, name);
        return node->index < 0 ? FAIL(p, "there is no variable %s", name) : LLM_OK;
    case GRAPH_ATTR_SITE:
        return read_whole(p, "the site", 0, GRAPH_MAX_SITE, &node->index);
    case GRAPH_ATTR_MAX:
        return read_whole(p, "the longest repeat", 1, GRAPH_MAX_REPEAT, &node->index);
    case GRAPH_ATTR_REGION: {
        struct word w = next_word(p);
        node->index = is(w, "output");
        return node->index || is(w, "prompt") ? LLM_OK
                                              : FAIL(p, "%s is neither prompt nor output", quoted(&q, w));
    }
    case GRAPH_ATTR_IDS:
        return parse_ids(p, node);
    }
    return LLM_OK;
}

static int type_fits(char letter, enum graph_type type)
{
    switch (letter) {
    case 'r':
        return type == GRAPH_ROW;
    case 'm':
        return type == GRAPH_MASK;
    case 'n':
    case '*':
        return type == GRAPH_NUM;
    case 'v':
        return type == GRAPH_ROW || type == GRAPH_NUM;
    case 'b':
        return type == GRAPH_MASK || type == GRAPH_BOOL;
    case 'a':
        return type == GRAPH_VEC;
    case 'l':
        return type == GRAPH_LIST;
    case 'p':
        return type == GRAPH_PAIRS;
    case 'A':
        return type == GRAPH_AUTOMATON;
    }
    return 0;
}

static const char *letter_name(char letter)
{
    switch (letter) {
    case 'r':
        return "a row";
    case 'm':
        return "a mask";
    case 'v':
        return "a row or a num";
    case 'b':
        return "a mask or a bool";
    case 'a':
        return "a vec";
    case 'l':
        return "a list";
    case 'p':
        return "pairs";
    case 'A':
        return "an automaton";
    }
    return "a num";
}

static llm_status parse_operands(struct parser *p, struct graph_node *node)
{
    const struct graph_op_info *op = &graph_op_table[node->op];
    int any = op->operands[0] == '*';
    int32_t n = any ? GRAPH_MAX_ARGS : (int32_t)strlen(op->operands);
    for (int32_t i = 0; i < n; i++) {
        const char *here = p->at;
        if (any && i > 0 && !next_word(p).n) break;
        p->at = here;
        int32_t arg;
        llm_status status = read_node(p, &arg);
        if (status != LLM_OK) return status;
        char letter = any ? 'n' : op->operands[i];
        if (!type_fits(letter, p->g->nodes[arg].type))
            return FAIL(p, "operand %d of %s is a %s; it must be %s", i + 1, op->name,
                        graph_type_name(p->g->nodes[arg].type), letter_name(letter));
        node->args[node->n_args++] = arg;
    }
    return LLM_OK;
}

static void infer_type(const struct graph *g, struct graph_node *node)
{
    int wide = 0;
    for (int32_t i = 0; i < node->n_args; i++) {
        const struct graph_node *arg = &g->nodes[node->args[i]];
        wide |= arg->type == GRAPH_ROW || arg->type == GRAPH_MASK;
        if (arg->type == GRAPH_VEC) node->length = arg->length;
    }
    switch (graph_op_table[node->op].result) {
    case 'r':
        node->type = GRAPH_ROW;
        break;
    case 'm':
        node->type = GRAPH_MASK;
        break;
    case 'n':
        node->type = GRAPH_NUM;
        break;
    case 'l':
        node->type = GRAPH_LIST;
        break;
    case 'a':
        node->type = GRAPH_VEC;
        break;
    case 'V':
        node->type = wide ? GRAPH_ROW : GRAPH_NUM;
        break;
    case 'B':
        node->type = wide ? GRAPH_MASK : GRAPH_BOOL;
        break;
    case 'P':
        node->type = g->params[node->index].type;
        break;
    case 'S':
        node->type = g->states[node->index].type;
        node->length = g->states[node->index].length;
        break;
    }
}

/* %3 row = add %1 %2, after the number. */
static llm_status parse_node(struct parser *p, struct word number)
{
    struct graph *g = p->g;
    struct quoted q;
    char expected[16];
    snprintf(expected, sizeof expected, "%%%d", g->n_nodes);
    if (!is(number, expected))
        return FAIL(p, "%s in place of %s, the next node", quoted(&q, number), expected);
    if (g->n_nodes == GRAPH_MAX_NODES) return FAIL(p, "more than %d nodes", GRAPH_MAX_NODES);
    enum graph_type type;
    llm_status status = read_type(p, &type);
    if (status != LLM_OK) return status;
    struct word w = next_word(p);
    if (!is(w, "=")) return FAIL(p, "%s in place of =", quoted(&q, w));
    w = next_word(p);
    int32_t op = 0;
    while (op < GRAPH_N_OPS && !is(w, graph_op_table[op].name)) op++;
    if (op == GRAPH_N_OPS) return FAIL(p, "%s is no operation", quoted(&q, w));
    struct graph_node node = {.op = (enum graph_op)op};
    status = parse_attribute(p, &node);
    if (status == LLM_OK) status = parse_operands(p, &node);
    if (status != LLM_OK) return status;
    infer_type(g, &node);
    if (node.type != type)
        return FAIL(p, "%s gives a %s here, not a %s", graph_op_table[op].name, graph_type_name(node.type),
                    graph_type_name(type));
    status = grow(p, (void **)&g->nodes, &p->nodes_room, g->n_nodes + 1, sizeof *g->nodes);
    if (status != LLM_OK) return status;
    g->nodes[g->n_nodes++] = node;
    return expect_end(p);
}

/* ---- the ends ------------------------------------------------------------------------------------------ */

static llm_status parse_store(struct parser *p)
{
    struct graph *g = p->g;
    char name[GRAPH_MAX_NAME + 1];
    int32_t value = 0;
    llm_status status = read_name(p, name);
    if (status == LLM_OK) status = read_node(p, &value);
    if (status != LLM_OK) return status;
    int32_t i = find_state(g, name);
    if (i < 0) return FAIL(p, "there is no variable %s", name);
    struct graph_state *state = &g->states[i];
    const struct graph_node *node = &g->nodes[value];
    if (state->store >= 0) return FAIL(p, "%s is stored twice", name);
    if (node->type != state->type || (node->type == GRAPH_VEC && node->length != state->length))
        return FAIL(p, "the value stored in %s has another type or length", name);
    state->store = value;
    return expect_end(p);
}

static llm_status parse_result(struct parser *p)
{
    struct graph *g = p->g;
    struct quoted q;
    struct word w = next_word(p);
    if (!is(w, "row") && !is(w, "token"))
        return FAIL(p, "the result is %s; it must be a row or a token", quoted(&q, w));
    g->gives = is(w, "row") ? GRAPH_GIVES_ROW : GRAPH_GIVES_TOKEN;
    enum graph_type wanted = g->gives == GRAPH_GIVES_ROW ? GRAPH_ROW : GRAPH_NUM;
    llm_status status = read_node(p, &g->result);
    if (status != LLM_OK) return status;
    if (g->nodes[g->result].type != wanted)
        return FAIL(p, "the result is a %s; it must be a %s", graph_type_name(g->nodes[g->result].type),
                    graph_type_name(wanted));
    p->finished = 1;
    return expect_end(p);
}

static llm_status parse_line(struct parser *p)
{
    struct quoted q;
    struct word w = next_word(p);
    if (!w.n) return LLM_OK;
    if (p->finished) return FAIL(p, "something comes after the result");
    if (w.s[0] == '%') return parse_node(p, w);
    if (is(w, "param")) return parse_param(p);
    if (is(w, "state")) return parse_state(p);
    if (is(w, "store")) return parse_store(p);
    if (is(w, "result")) return parse_result(p);
    return FAIL(p, "%s begins no line of a graph", quoted(&q, w));
}

static void note_uses(struct graph *g)
{
    for (int32_t i = 0; i < g->n_nodes; i++) {
        enum graph_op op = g->nodes[i].op;
        g->uses_counts |= op == GRAPH_OP_counts;
        g->uses_history |= op == GRAPH_OP_recent || op == GRAPH_OP_last || op == GRAPH_OP_repeats;
    }
    g->uses_history |= g->uses_counts;
}

llm_status graph_parse(const char *text, size_t bytes, struct graph **out, struct llm_error *err)
{
    struct parser p = {.next = text, .text_end = text + bytes, .err = err};
    struct graph *g = p.g = mem_zalloc(sizeof *g);
    llm_status status = LLM_ENOMEM;
    if (!g) return no_memory(&p);
    g->params = mem_array(GRAPH_MAX_PARAMS, sizeof *g->params);
    g->states = mem_array(GRAPH_MAX_STATES, sizeof *g->states);
    if (!g->params || !g->states) {
        status = no_memory(&p);
        goto fail;
    }
    next_line(&p);
    if (!is(next_word(&p), "graph") || !is(next_word(&p), "1") || next_word(&p).n) {
        status = FAIL(&p, "a graph begins with the line: graph 1");
        goto fail;
    }
    while (next_line(&p)) {
        status = parse_line(&p);
        if (status != LLM_OK) goto fail;
    }
    if (!p.finished) {
        status = FAIL(&p, "the graph ends without a result");
        goto fail;
    }
    note_uses(g);
    status = plan_make(g, &g->plan, err);
    if (status != LLM_OK) goto fail;
    *out = g;
    return LLM_OK;
fail:
    graph_free(g);
    return status;
}
