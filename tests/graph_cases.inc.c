/* The graphs that graph_device.inc.c, which includes this, runs on a device: of every operation, with rows
 * and numbers at the edges; those of scripts/policies (tests/golden/graphs); and such as fail. */

/* ---- numbers ------------------------------------------------------------------------------------------- */

static uint64_t random_state = 11;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static float random_float(float low, float high)
{
    return low + (high - low) * (float)(random_bits() & 0xffffff) / (float)(1 << 24);
}

/* Logits of a kind: smooth, with ties, with much masked, nearly flat. */
static void random_logits(float *x, int32_t n, int kind)
{
    for (int32_t i = 0; i < n; i++) {
        float v = random_float(-4, 4) + random_float(-4, 4) + random_float(-4, 4);
        if (random_bits() % 200 == 0) v += 9;
        if (kind == 1) v = floorf(v * 4) / 4;
        if (kind == 2 && random_bits() % 3) v = -INFINITY;
        if (kind == 3) v = random_float(0, 0.01f);
        x[i] = v;
    }
    if (kind == 2) x[random_bits() % (uint32_t)n] = 3;
}

/* ---- graphs -------------------------------------------------------------------------------------------- */

struct builder {
    char text[1 << 15];
    size_t n;
    int nodes;
};

static void say(struct builder *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void say(struct builder *b, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    b->n += (size_t)vsnprintf(b->text + b->n, sizeof b->text - b->n, format, args);
    va_end(args);
    assert_true(b->n < sizeof b->text);
}

/* A node; operands -1: none. Returns its number. */
static int node(struct builder *b, const char *type_and_op, int x, int y, int z)
{
    char type[16];
    sscanf(type_and_op, "%15s", type);
    say(b, "%%%d %s = %s", b->nodes, type, type_and_op + strlen(type) + 1);
    if (x >= 0) say(b, " %%%d", x);
    if (y >= 0) say(b, " %%%d", y);
    if (z >= 0) say(b, " %%%d", z);
    say(b, "\n");
    return b->nodes++;
}

static int constant(struct builder *b, double v)
{
    char text[64];
    snprintf(text, sizeof text, "num const %.17g", v);
    return node(b, text, -1, -1, -1);
}

static void begin(struct builder *b)
{
    *b = (struct builder){0};
    say(b, "graph 1\n");
}

/* A row that shows them all: each in its stripes. */
static int stripes(struct builder *b, const int *rows, int n)
{
    int index = node(b, "row index", -1, -1, -1), result = rows[0];
    for (int i = 1; i < n; i++) {
        int of = constant(b, n), over = node(b, "row div", index, of, -1);
        int whole = node(b, "row floor", over, -1, -1), back = node(b, "row mul", whole, of, -1);
        int rest = node(b, "row sub", index, back, -1), mine = node(b, "mask eq", rest, constant(b, i), -1);
        result = node(b, "row where", mine, rows[i], result);
    }
    return result;
}

/* Failures are another test's: what is not finite becomes a number that tells. */
static int told(struct builder *b, int row)
{
    int big = constant(b, 3e38), nan = constant(b, -77), inf = constant(b, -88);
    int right = node(b, "mask eq", row, row, -1), low = node(b, "mask lt", row, big, -1);
    int some = node(b, "row where", right, row, nan), all = node(b, "mask not", right, -1, -1);
    return node(b, "row where", node(b, "mask or", low, all, -1), some, inf);
}

static void give(struct builder *b, const char *kind, int result)
{
    say(b, "result %s %%%d\n", kind, result);
}

static void functions(struct builder *b)
{
    static const char *const of_one[] = {"neg", "abs", "exp", "log", "tanh", "sqrt", "floor"};
    static const char *const of_two[] = {"add", "sub", "mul", "div", "pow", "min", "max"};
    int rows[64], n = 0;
    begin(b);
    int x = node(b, "row logits", -1, -1, -1), s = constant(b, 1.7);
    int y = node(b, "row mul", x, constant(b, 8.3), -1), z = node(b, "row abs", y, -1, -1);
    for (size_t i = 0; i < 7; i++) {
        char op[32];
        snprintf(op, sizeof op, "row %s", of_one[i]);
        rows[n++] = told(b, node(b, op, y, -1, -1));
        rows[n++] = told(b, node(b, op, x, -1, -1));
        snprintf(op, sizeof op, "row %s", of_two[i]);
        rows[n++] = told(b, node(b, op, z, x, -1));
        rows[n++] = told(b, node(b, op, x, s, -1));
        rows[n++] = told(b, node(b, op, s, x, -1));
    }
    give(b, "row", stripes(b, rows, n));
}

static void masks(struct builder *b)
{
    int rows[32], n = 0;
    begin(b);
    int x = node(b, "row logits", -1, -1, -1), s = constant(b, 1.5), zero = constant(b, 0);
    int y = node(b, "row floor", x, -1, -1), yes = node(b, "bool lt", zero, s, -1);
    int lt = node(b, "mask lt", y, x, -1), le = node(b, "mask le", x, s, -1),
        eq = node(b, "mask eq", y, x, -1);
    int and = node(b, "mask and", lt, le, -1), or = node(b, "mask or", eq, le, -1);
    int mixed = node(b, "mask and", yes, le, -1), not = node(b, "mask not", mixed, -1, -1);
    rows[n++] = node(b, "row where", lt, x, y);
    rows[n++] = node(b, "row where", le, x, s);
    rows[n++] = node(b, "row where", eq, s, x);
    rows[n++] = node(b, "row where", and, zero, s);
    rows[n++] = node(b, "row where", or, y, zero);
    rows[n++] = node(b, "row where", not, x, zero);
    rows[n++] = node(b, "row where", yes, x, y);
    rows[n++] = node(b, "row where", node(b, "mask lt", s, x, -1), s, zero);
    rows[n++] = node(b, "row where", node(b, "mask le", s, x, -1), s, zero);
    give(b, "row", stripes(b, rows, n));
}

/* Every reduction, each into a variable of its own; and a row. */
static void reductions(struct builder *b)
{
    static const char *const of_row[] = {"row_max", "row_min", "row_sum", "row_argmax"};
    int stored[48], n = 0;
    begin(b);
    say(b, "state s0 num 0\n");
    for (int i = 1; i < 30; i++) say(b, "state s%d num %d\n", i, i);
    int x = node(b, "row logits", -1, -1, -1), e = node(b, "row exp", x, -1, -1);
    int top = node(b, "num row_max", x, -1, -1), d = node(b, "row sub", x, top, -1);
    int w = node(b, "row exp", d, -1, -1);
    for (size_t i = 0; i < 4; i++) {
        char op[32];
        snprintf(op, sizeof op, "num %s", of_row[i]);
        stored[n++] = node(b, op, e, -1, -1);
        stored[n++] = node(b, op, w, -1, -1);
    }
    stored[n++] = node(b, "num row_argmax", x, -1, -1);
    stored[n++] = node(b, "num mask_count", node(b, "mask lt", x, constant(b, 0.5), -1), -1, -1);
    static const double ks[] = {1, 2, 3.9, 50, 400};
    for (size_t i = 0; i < 5; i++)
        stored[n++] =
            node(b, "num max", node(b, "num kth", x, constant(b, ks[i]), -1), constant(b, -1e30), -1);
    stored[n++] = node(b, "num kth", w, constant(b, 4), -1);
    static const double ps[] = {0, 0.1, 0.5, 0.9, 0.999};
    for (size_t i = 0; i < 5; i++) stored[n++] = node(b, "num quantile", w, w, constant(b, ps[i]));
    int even = node(b, "row index", -1, -1, -1);
    stored[n++] = node(b, "num quantile", even, w, constant(b, 0.3));
    int surprise = node(b, "row abs", node(b, "row sub", d, constant(b, -4), -1), -1, -1);
    stored[n++] = node(b, "num quantile", surprise, w, constant(b, 0.6));
    stored[n++] = node(b, "num gather", w, constant(b, 2.5), -1);
    int first = node(b, "num draw 0", w, -1, -1), second = node(b, "num draw 3", e, -1, -1);
    stored[n++] = first;
    stored[n++] = second;
    int total = node(b, "num row_sum", w, -1, -1);
    int result = node(b, "row div", d, total, -1);
    for (int i = 0; i < n; i++) say(b, "store s%d %%%d\n", i, stored[i]);
    give(b, "row", told(b, result));
}

static void numbers(struct builder *b)
{
    static const char *const inputs[] = {"position", "n_prompt", "n_output", "vocab",   "temperature",
                                         "top_k",    "top_p",    "min_p",    "random 7"};
    static const char *const of_two[] = {"add", "sub", "mul", "div", "pow", "min", "max"};
    int stored[64], n = 0;
    begin(b);
    say(b, "param x num 1.25 -10 10\n");
    for (int i = 0; i < 40; i++) say(b, "state s%d num 0.5\n", i);
    char op[64];
    for (size_t i = 0; i < 9; i++) {
        snprintf(op, sizeof op, "num %s", inputs[i]);
        stored[n++] = node(b, op, -1, -1, -1);
    }
    int x = node(b, "num param x", -1, -1, -1), s = node(b, "num state s3", -1, -1, -1);
    static const char *const of_one[] = {"neg", "abs", "exp", "log", "tanh", "sqrt", "floor"};
    for (size_t i = 0; i < 7; i++) {
        snprintf(op, sizeof op, "num %s", of_one[i]);
        stored[n++] = node(b, op, x, -1, -1);
        snprintf(op, sizeof op, "num %s", of_two[i]);
        stored[n++] = node(b, op, x, stored[0], -1);
    }
    int lt = node(b, "bool lt", x, s, -1), le = node(b, "bool le", s, x, -1),
        eq = node(b, "bool eq", x, x, -1);
    int both = node(b, "bool and", le, eq, -1), either = node(b, "bool or", lt, both, -1);
    int neither = node(b, "bool not", either, -1, -1);
    stored[n++] = node(b, "num where", lt, x, s);
    stored[n++] = node(b, "num where", both, x, s);
    stored[n++] = node(b, "num where", neither, x, s);
    stored[n++] = node(b, "num last", constant(b, 1), -1, -1);
    stored[n++] = node(b, "num last", constant(b, 150), -1, -1);
    stored[n++] = node(b, "num last", constant(b, 100000), -1, -1);
    stored[n++] = node(b, "num hash", x, stored[0], s);
    stored[n++] = constant(b, 12.5);
    stored[n++] = node(b, "num add", s, constant(b, 1), -1);
    int result = node(b, "num last", constant(b, 2), -1, -1);
    for (int i = 0; i < n; i++) say(b, "store s%d %%%d\n", i, stored[i]);
    give(b, "token", result);
}

static void tables(struct builder *b)
{
    int rows[32], n = 0;
    begin(b);
    say(b, "param list list\nparam pairs pairs\nparam dfa automaton\nparam window num 60 0 1000\n"
           "state at num 0\nstate v vec 5 1 2 3 4 5\nstate w vec 3 0 0 0\nstate seen num 0\n");
    int x = node(b, "row logits", -1, -1, -1), zero = constant(b, 0), one = constant(b, 1);
    int list = node(b, "list param list", -1, -1, -1), pairs = node(b, "pairs param pairs", -1, -1, -1);
    int dfa = node(b, "automaton param dfa", -1, -1, -1), window = node(b, "num param window", -1, -1, -1);
    int few = node(b, "list ids [1 3]", -1, -1, -1), none = node(b, "list ids []", -1, -1, -1);
    int many = node(b, "list ids [0 2 4 6 8 10 12 14 16 18 900 5000 100000]", -1, -1, -1);
    int at = node(b, "num state at", -1, -1, -1);
    int lists[] = {list, few, none, many};
    for (size_t i = 0; i < 4; i++)
        rows[n++] = node(b, "row where", node(b, "mask set", lists[i], -1, -1), one, x);
    rows[n++] = node(b, "row scatter", pairs, -1, -1);
    rows[n++] = node(b, "row recent", window, -1, -1);
    rows[n++] = node(b, "row recent", constant(b, 1e9), -1, -1);
    rows[n++] = node(b, "row repeats 20", window, none, -1);
    rows[n++] = node(b, "row repeats 3", constant(b, 1000), list, -1);
    rows[n++] = node(b, "row repeats 64", constant(b, 1000), few, -1);
    rows[n++] = node(b, "row row_hash", one, at, -1);
    rows[n++] = node(b, "row row_random 5", -1, -1, -1);
    rows[n++] = node(b, "row counts prompt", -1, -1, -1);
    rows[n++] = node(b, "row counts output", -1, -1, -1);
    rows[n++] = node(b, "row where", node(b, "mask accepts", dfa, at, -1), one, zero);
    rows[n++] = node(b, "row where", node(b, "mask accepts", dfa, constant(b, 99), -1), one, zero);
    int newest = node(b, "num last", one, -1, -1), next = node(b, "num step", dfa, at, newest);
    int v = node(b, "vec state v", -1, -1, -1), pushed = node(b, "vec push", v, newest, -1);
    int put = node(b, "vec put", pushed, constant(b, 2), at),
        lost = node(b, "vec put", put, constant(b, 9), at);
    int third = node(b, "num at", lost, constant(b, 3), -1);
    int w = node(b, "vec push", node(b, "vec state w", -1, -1, -1), third, -1);
    say(b, "store at %%%d\nstore v %%%d\nstore w %%%d\nstore seen %%%d\n", next, lost, w, third);
    give(b, "row", stripes(b, rows, n));
}

/* A sampler, to which gather, rank and counting tokens are added. */
static void sampler(struct builder *b)
{
    begin(b);
    say(b, "state rank num 0\n");
    int x = node(b, "row logits", -1, -1, -1), t = node(b, "num temperature", -1, -1, -1);
    int d = node(b, "row sub", x, node(b, "num row_max", x, -1, -1), -1);
    int inverse = node(b, "num div", constant(b, 1), node(b, "num max", t, constant(b, 1e-5), -1), -1);
    int w = node(b, "row exp", node(b, "row mul", d, inverse, -1), -1, -1), zero = constant(b, 0);
    int kth = node(b, "num kth", w, node(b, "num top_k", -1, -1, -1), -1);
    int least = node(b, "num max", node(b, "num min_p", -1, -1, -1), kth, -1);
    int kept = node(b, "row where", node(b, "mask le", least, w, -1), w, zero);
    int q = node(b, "num quantile", kept, kept, node(b, "num top_p", -1, -1, -1));
    int some = node(b, "row where", node(b, "mask le", q, kept, -1), kept, zero);
    int drawn = node(b, "num draw 0", some, -1, -1), own = node(b, "num gather", x, drawn, -1);
    int rank = node(b, "num mask_count", node(b, "mask lt", own, x, -1), -1, -1);
    say(b, "store rank %%%d\n", rank);
    give(b, "token", drawn);
}

static const char *const failures[] = {
    "%0 row = logits\n%1 num = const -1\n%2 row = mul %0 %1\n%3 row = abs %2\n%4 row = mul %3 %1\n%5 num = "
    "const 1\n"
    "%6 row = sub %4 %5\n%7 row = log %6\nresult row %7\n",
    "%0 row = logits\n%1 num = const inf\n%2 row = sub %0 %1\nresult row %2\n",
    "%0 row = logits\n%1 num = const -inf\n%2 row = sub %0 %1\nresult row %2\n",
    "%0 row = logits\n%1 num = const 100\n%2 row = sub %0 %1\n%3 num = draw 0 %2\nresult token %3\n",
    "%0 row = logits\n%1 row = index\n%2 row = sub %1 %1\n%3 num = draw 0 %2\nresult token %3\n",
    "%0 row = logits\n%1 row = index\n%2 num = const inf\n%3 row = add %1 %2\n%4 num = draw 0 %3\nresult "
    "token %4\n",
    "state s num 4\nstate t num 5\n%0 row = logits\n%1 num = const -1\n%2 num = log %1\n%3 num = const 2\n"
    "store s %3\nstore t %2\nresult row %0\n",
    "state s vec 3 1 2 3\n%0 row = logits\n%1 num = const -1\n%2 num = sqrt %1\n%3 vec = state s\n"
    "%4 vec = push %3 %2\n%5 num = row_argmax %0\nstore s %4\nresult token %5\n",
    "%0 num = const 1.5\nresult token %0\n",
    "%0 num = const -1\nresult token %0\n",
    "%0 num = vocab\nresult token %0\n",
    "%0 row = logits\n%1 num = const 0\n%2 num = gather %0 %1\n%3 num = const 2000000\n%4 num = gather %0 "
    "%3\n"
    "result token %4\n",
    "%0 row = logits\nresult row %0\n",
    "%0 num = const 3\nresult token %0\n",
};

/* ---- cases --------------------------------------------------------------------------------------------- */

struct test_case {
    char name[64];
    int32_t vocab_size;
    struct graph *g;
    struct device_graph *d;
    double tolerance; /* of variables, relative: for f64 functions of the C library */
    llm_status status;
    struct llm_error err;
};

static struct test_case cases[MOST_CASES];
static int n_cases;

static void add_case(const char *name, const char *text, int32_t vocab_size, double tolerance)
{
    struct llm_error err = {0};
    if (LEFT_OUT()) return;
    assert_true(n_cases < MOST_CASES);
    struct test_case *c = &cases[n_cases++];
    snprintf(c->name, sizeof c->name, "%s", name);
    c->vocab_size = vocab_size;
    c->tolerance = tolerance;
    if (graph_parse(text, strlen(text), &c->g, &err)) fail_msg("%s: %s\n%s", name, err.message, text);
}

static void add_built(const char *name, void (*build)(struct builder *b), int32_t vocab_size,
                      double tolerance)
{
    static struct builder b;
    build(&b);
    add_case(name, b.text, vocab_size, tolerance);
}

static void add_golden(const char *dir, const char *file)
{
    char path[1024];
    static char text[1 << 16];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    fclose(f);
    for (size_t i = 0; i < sizeof golden_sizes / sizeof *golden_sizes; i++)
        add_case(file, text, golden_sizes[i], 1e-13);
}

/* tests/golden/graphs: in a tree, or in a bundle beside the program. */
static void add_goldens(void)
{
    char dir[512] = TESTS_DIR "/golden/graphs";
    DIR *d = opendir(dir);
    ssize_t n = d ? 0 : readlink("/proc/self/exe", dir, sizeof dir - 40);
    if (!d && n > 0) {
        dir[n] = 0;
        strcpy(strrchr(dir, '/'), "/../tests/graphs");
        d = opendir(dir);
    }
    if (!d) fail_msg("the graphs of the policies are not at %s", dir);
    for (struct dirent *e; (e = readdir(d));)
        if (strstr(e->d_name, ".graph")) add_golden(dir, e->d_name);
    closedir(d);
}
