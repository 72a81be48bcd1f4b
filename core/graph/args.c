#include "graph/args.h"

#include "base/mem.h"

#include <math.h>
#include <string.h>

/* ---- automata ------------------------------------------------------------------------------------------ */

static llm_status check_entries(const int32_t *list, size_t n, int32_t least, int32_t end, const char *what,
                                struct llm_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (list[i] < least || list[i] >= end)
            return llm_fail(err, LLM_EINVAL, "%s %zu of the automaton is %d; it must be from %d to %d", what,
                            i, list[i], least, end - 1);
    return LLM_OK;
}

llm_status graph_automaton_new(int32_t vocab_size, int32_t n_states, int32_t n_classes,
                               const int32_t *class_of, const int32_t *next, struct graph_automaton **out,
                               struct llm_error *err)
{
    if (vocab_size < 1 || n_states < 1 || n_classes < 1)
        return llm_fail(err, LLM_EINVAL, "an automaton needs a token, a state and a class at least");
    size_t cells = (size_t)n_states * (size_t)n_classes;
    llm_status status = check_entries(class_of, (size_t)vocab_size, 0, n_classes, "class", err);
    if (status == LLM_OK) status = check_entries(next, cells, -1, n_states, "transition", err);
    if (status != LLM_OK) return status;
    struct graph_automaton *a = mem_zalloc(sizeof *a);
    if (!a) goto fail;
    *a = (struct graph_automaton){1, vocab_size, n_states, n_classes, NULL, NULL};
    a->class_of = mem_array((size_t)vocab_size, sizeof *a->class_of);
    a->next = mem_array(cells, sizeof *a->next);
    if (!a->class_of || !a->next) goto fail;
    memcpy(a->class_of, class_of, (size_t)vocab_size * sizeof *class_of);
    memcpy(a->next, next, cells * sizeof *next);
    *out = a;
    return LLM_OK;
fail:
    graph_automaton_unref(a);
    return llm_fail(err, LLM_ENOMEM, "no memory for an automaton of %d states and %d classes", n_states,
                    n_classes);
}

void graph_automaton_ref(struct graph_automaton *a)
{
    __atomic_fetch_add(&a->refs, 1, __ATOMIC_RELAXED);
}

void graph_automaton_unref(struct graph_automaton *a)
{
    if (!a || __atomic_sub_fetch(&a->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
    mem_free(a->class_of);
    mem_free(a->next);
    mem_free(a);
}

/* ---- arguments ----------------------------------------------------------------------------------------- */

static void clear(struct graph_value *v)
{
    mem_free(v->ids);
    mem_free(v->values);
    graph_automaton_unref(v->automaton);
    *v = (struct graph_value){.number = v->number};
}

llm_status graph_args_new(const struct graph *g, int32_t vocab_size, struct graph_args **out,
                          struct llm_error *err)
{
    struct graph_args *a = mem_zalloc(sizeof *a + (size_t)g->n_params * sizeof *a->values);
    if (!a) return llm_fail(err, LLM_ENOMEM, "no memory for the arguments of a graph");
    a->graph = g;
    a->vocab_size = vocab_size;
    for (int32_t i = 0; i < g->n_params; i++) a->values[i].number = g->params[i].initial;
    *out = a;
    return LLM_OK;
}

void graph_args_free(struct graph_args *args)
{
    if (!args) return;
    for (int32_t i = 0; i < args->graph->n_params; i++) clear(&args->values[i]);
    mem_free(args);
}

static llm_status check_type(const struct graph_args *args, int32_t param, enum graph_type type,
                             struct llm_error *err)
{
    if (param < 0 || param >= args->graph->n_params)
        return llm_fail(err, LLM_EINVAL, "the graph has no such parameter");
    const struct graph_param *p = &args->graph->params[param];
    if (p->type == type) return LLM_OK;
    return llm_fail(err, LLM_EINVAL, "%s is a %s, not a %s", p->name, graph_type_name(p->type),
                    graph_type_name(type));
}

llm_status graph_args_number(struct graph_args *args, int32_t param, double value, struct llm_error *err)
{
    llm_status status = check_type(args, param, GRAPH_NUM, err);
    if (status != LLM_OK) return status;
    const struct graph_param *p = &args->graph->params[param];
    if (!isfinite(value) || value < p->least || value > p->most)
        return llm_fail(err, LLM_EINVAL, "%s is %.14g; it must be from %.14g to %.14g", p->name, value,
                        p->least, p->most);
    args->values[param].number = value;
    return LLM_OK;
}

/* Copies ids and, unless it is null, values. */
static llm_status set_table(struct graph_args *args, int32_t param, const int32_t *ids, const float *values,
                            size_t n, struct llm_error *err)
{
    const char *name = args->graph->params[param].name;
    for (size_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= args->vocab_size)
            return llm_fail(err, LLM_EINVAL, "%s has token %d; the vocabulary has %d tokens, from 0", name,
                            ids[i], args->vocab_size);
        if (values && !isfinite(values[i]))
            return llm_fail(err, LLM_EINVAL, "%s has a value for token %d that is not finite", name, ids[i]);
    }
    if (n > INT32_MAX) return llm_fail(err, LLM_EINVAL, "%s has too many tokens", name);
    struct graph_value v = {.n = (int32_t)n};
    v.ids = mem_array(n ? n : 1, sizeof *v.ids);
    if (values) v.values = mem_array(n ? n : 1, sizeof *v.values);
    if (!v.ids || (values && !v.values)) {
        clear(&v);
        return llm_fail(err, LLM_ENOMEM, "no memory for %zu tokens of %s", n, name);
    }
    if (n) memcpy(v.ids, ids, n * sizeof *ids);
    if (n && values) memcpy(v.values, values, n * sizeof *values);
    clear(&args->values[param]);
    args->values[param] = v;
    return LLM_OK;
}

llm_status graph_args_list(struct graph_args *args, int32_t param, const int32_t *ids, size_t n,
                           struct llm_error *err)
{
    llm_status status = check_type(args, param, GRAPH_LIST, err);
    return status != LLM_OK ? status : set_table(args, param, ids, NULL, n, err);
}

llm_status graph_args_pairs(struct graph_args *args, int32_t param, const int32_t *ids, const float *values,
                            size_t n, struct llm_error *err)
{
    static const float none;
    llm_status status = check_type(args, param, GRAPH_PAIRS, err);
    return status != LLM_OK ? status : set_table(args, param, ids, values ? values : &none, n, err);
}

llm_status graph_args_automaton(struct graph_args *args, int32_t param, struct graph_automaton *a,
                                struct llm_error *err)
{
    llm_status status = check_type(args, param, GRAPH_AUTOMATON, err);
    if (status != LLM_OK) return status;
    if (a->vocab_size != args->vocab_size)
        return llm_fail(err, LLM_EINVAL, "%s is an automaton over %d tokens; the vocabulary has %d",
                        args->graph->params[param].name, a->vocab_size, args->vocab_size);
    graph_automaton_ref(a);
    clear(&args->values[param]);
    args->values[param].automaton = a;
    return LLM_OK;
}

llm_status graph_args_copy(const struct graph_args *from, struct graph_args **out, struct llm_error *err)
{
    struct graph_args *a = NULL;
    llm_status status = graph_args_new(from->graph, from->vocab_size, &a, err);
    for (int32_t i = 0; status == LLM_OK && i < from->graph->n_params; i++) {
        const struct graph_value *v = &from->values[i];
        a->values[i].number = v->number;
        if (v->automaton) status = graph_args_automaton(a, i, v->automaton, err);
        if (v->ids) status = set_table(a, i, v->ids, v->values, (size_t)v->n, err);
    }
    if (status != LLM_OK) {
        graph_args_free(a);
        return status;
    }
    *out = a;
    return LLM_OK;
}
