/* Batches of made-up sequences with all that a request can ask of sampling, and their rows and seats on a
 * device. Included by test_cuda_sampling.c. */

/* ---- numbers ------------------------------------------------------------------------------------------- */

static uint64_t random_state = 11;

static uint32_t random_bits(void)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

static int32_t random_below(int32_t n)
{
    return (int32_t)(random_bits() % (uint32_t)n);
}

static float random_float(void)
{
    return (float)random_bits() / 1073741824.0f - 1;
}

/* Spread like a model's with some -inf, nearly flat, few levels, one far above the rest, three above -inf,
 * all equal. */
static void fill_logits(float *x, int32_t n, int kind)
{
    for (int32_t i = 0; i < n; i++) {
        float g = random_float() + random_float() + random_float() + random_float();
        switch (kind) {
        case 0:
            x[i] = i % 97 == 1 ? -INFINITY : 4 * g;
            break;
        case 1:
            x[i] = 0.01f * g;
            break;
        case 2:
            x[i] = floorf(3 * g);
            break;
        case 3:
            x[i] = i == n / 3 ? 30 : g;
            break;
        case 4:
            x[i] = i == 0 || i == n / 2 || i == n - 1 ? g : -INFINITY;
            break;
        default:
            x[i] = 0.5f;
        }
    }
}

static void *on_device(size_t bytes)
{
    void *p = be->alloc(be, bytes);
    assert_non_null(p);
    return p;
}

static void put(void *to, const void *from, size_t bytes)
{
    if (bytes) assert_int_equal(be->device->upload(be, to, from, bytes), LLM_OK);
}

static void get(void *to, const void *from, size_t bytes)
{
    assert_int_equal(be->device->download(be, to, from, bytes), LLM_OK);
}

/* ---- sequences ----------------------------------------------------------------------------------------- */

/* What the host knows of a sequence, and its seat. */
struct sequence {
    struct llm_sampling params;
    int32_t tokens[MAX_LEN], n, n_prompt;
    int32_t allowed[MOST_LISTED], young[MOST_LISTED], words[4 * MOST_LISTED];
    struct llm_token_bias bias[MOST_LISTED];
    struct token_span bad[MOST_LISTED];
    int32_t n_bad, n_young;
    int counted;
    struct seat seat;
};

enum { ALLOWED = 1, BAD = 2, YOUNG = 4, BIAS = 8, PENALTIES = 16, HOOKED = 32, ALL = 63 };

/* Different tokens in any order. */
static int32_t some_tokens(int32_t *ids, int32_t most, int32_t vocab)
{
    int32_t n = 0;
    for (int32_t tries = 0; tries < 2 * most && n < most; tries++) {
        int32_t t = random_below(vocab), known = 0;
        for (int32_t i = 0; i < n; i++) known |= ids[i] == t;
        if (!known) ids[n++] = t;
    }
    return n;
}

/* Bad words of 1 to 4 tokens, half of them about to be completed. */
static void add_bad_words(struct sequence *s, int32_t vocab)
{
    int32_t *to = s->words;
    s->n_bad = 1 + random_below(MOST_LISTED - 1);
    for (int32_t i = 0; i < s->n_bad; i++) {
        int32_t n = 1 + random_below(4);
        for (int32_t k = 0; k < n; k++) {
            int32_t back = s->n - (n - 1) + k;
            to[k] = i % 2 && k + 1 < n && back >= 0 ? s->tokens[back] : random_below(vocab);
        }
        s->bad[i] = (struct token_span){to, n};
        to += n;
    }
}

static void begin_sequence(struct sequence *s, int32_t vocab, int32_t n, unsigned what)
{
    struct llm_sampling *p = &s->params;
    memset(s, 0, sizeof *s);
    llm_sampling_init(p);
    s->n = n;
    s->n_prompt = 1 + random_below(n);
    for (int32_t i = 0; i < n; i++) s->tokens[i] = random_below(i % 2 ? vocab : vocab / 8 + 1);
    if (what & ALLOWED) {
        p->allowed_token_ids = s->allowed;
        p->n_allowed_token_ids = (size_t)some_tokens(s->allowed, MOST_LISTED, vocab);
    }
    if (what & BAD) add_bad_words(s, vocab);
    if (what & YOUNG) {
        s->n_young = some_tokens(s->young, 1 + random_below(10), vocab);
        p->min_tokens = s->n - s->n_prompt + 2;
    }
    if (what & BIAS) {
        int32_t ids[MOST_LISTED], m = some_tokens(ids, MOST_LISTED, vocab);
        for (int32_t i = 0; i < m; i++) s->bias[i] = (struct llm_token_bias){ids[i], 20 * random_float()};
        p->logit_bias = s->bias;
        p->n_logit_bias = (size_t)m;
    }
    if (what & PENALTIES) {
        static const float repetition[] = {1, 1.3f, 0.7f}, frequency[] = {0, 0.5f, -0.3f},
                           presence[] = {1.7f, 0};
        p->repetition_penalty = repetition[random_below(3)];
        p->frequency_penalty = frequency[random_below(3)];
        p->presence_penalty = presence[random_below(2)];
    }
    s->counted = sampler_counts_needed(p) || random_below(4) == 0;
}

/* The allowed tokens as bits, in `bits`. */
static void make_seat(struct sequence *s, uint32_t *bits, int32_t vocab)
{
    const struct llm_sampling *p = &s->params;
    struct seat *t = &s->seat;
    int32_t *w = t->words, n_ids = 0;
    *t = (struct seat){.flags = (p->n_allowed_token_ids ? SEAT_ALLOWED : 0) | (s->counted ? SEAT_COUNTED : 0),
                       .n_prompt = s->n_prompt,
                       .n_bias = (int32_t)p->n_logit_bias,
                       .n_young = s->n_young,
                       .n_bad_words = s->n_bad,
                       .min_tokens = p->min_tokens,
                       .repetition_penalty = p->repetition_penalty,
                       .frequency_penalty = p->frequency_penalty,
                       .presence_penalty = p->presence_penalty};
    for (int32_t i = 0; i < t->n_bias; i++) *w++ = s->bias[i].token;
    for (int32_t i = 0; i < t->n_bias; i++, w++) memcpy(w, &s->bias[i].bias, sizeof *w);
    for (int32_t i = 0; i < s->n_young; i++) *w++ = s->young[i];
    for (int32_t i = 0; i < s->n_bad; i++) *w++ = n_ids += s->bad[i].n;
    memcpy(w, s->words, sizeof *w * (size_t)n_ids);
    memset(bits, 0, sizeof *bits * (size_t)seat_bit_words(vocab));
    for (size_t i = 0; i < p->n_allowed_token_ids; i++)
        bits[p->allowed_token_ids[i] / 32] |= 1u << p->allowed_token_ids[i] % 32;
}

/* ---- a batch ------------------------------------------------------------------------------------------- */

/* Row i samples for sequence i, in seat n - 1 - i; the last two rows are one without a seat, and padding. */
struct batch {
    int32_t n, vocab;
    struct sequence *sequences; /* [n] */
    float *logits;              /* [n + 2, vocab] */
    struct sample_row *rows;
    struct sampled *out;
    struct sample_state *state;
    struct sample_candidate *candidates;
    struct sample_logprob *logprobs;
    int32_t *last;
    struct sample_args a; /* device */
    struct seat_fill *fills;
    struct sampler sampler;
    float *adjusted, *got;
};

static void *allocated(size_t n, size_t size)
{
    void *p = calloc(n, size);
    assert_non_null(p);
    return p;
}

static void begin_batch(struct batch *b, int32_t n, int32_t vocab)
{
    size_t rows = (size_t)n + 2, v = (size_t)vocab;
    *b = (struct batch){.n = n, .vocab = vocab};
    assert_int_equal(sampler_init(&b->sampler, vocab, NULL), LLM_OK);
    b->sequences = allocated((size_t)n, sizeof *b->sequences);
    b->logits = allocated(rows * v, sizeof *b->logits);
    b->rows = allocated(rows, sizeof *b->rows);
    b->out = allocated(rows, sizeof *b->out);
    b->state = allocated(rows, sizeof *b->state);
    b->candidates = allocated(rows * SAMPLE_MAX_CANDIDATES, sizeof *b->candidates);
    b->logprobs = allocated(rows * (1 + SAMPLE_MAX_LOGPROBS), sizeof *b->logprobs);
    b->last = allocated(rows, sizeof *b->last);
    b->adjusted = allocated(v, sizeof *b->adjusted);
    b->got = allocated(v, sizeof *b->got);
    b->fills = on_device((size_t)n * sizeof *b->fills);
    b->a = (struct sample_args){
        .n = n + 2,
        .vocab_size = vocab,
        .rows = on_device(rows * sizeof *b->rows),
        .tokens = on_device(rows * sizeof *b->last),
        .logits = on_device(rows * v * sizeof *b->logits),
        .logits_stride = vocab,
        .seats = {.n = n,
                  .max_len = MAX_LEN,
                  .vocab_size = vocab,
                  .seat = on_device((size_t)n * sizeof(struct seat)),
                  .history = on_device((size_t)n * MAX_LEN * sizeof(int32_t)),
                  .counts = on_device((size_t)n * v * sizeof(uint32_t)),
                  .allowed = on_device((size_t)n * (size_t)seat_bit_words(vocab) * sizeof(uint32_t)),
                  .work = on_device((size_t)n * 2 * v * sizeof(float))},
        .state = on_device(rows * sizeof *b->state),
        .last = on_device(rows * sizeof *b->last),
        .out = on_device(rows * sizeof *b->out),
        .candidates = on_device(rows * SAMPLE_MAX_CANDIDATES * sizeof *b->candidates),
        .logprobs = on_device(rows * (1 + SAMPLE_MAX_LOGPROBS) * sizeof *b->logprobs)};
}

static void end_batch(struct batch *b)
{
    const void *device[] = {b->fills,        b->a.rows,          b->a.tokens,       b->a.logits,
                            b->a.seats.seat, b->a.seats.history, b->a.seats.counts, b->a.seats.allowed,
                            b->a.seats.work, b->a.state,         b->a.last,         b->a.out,
                            b->a.candidates, b->a.logprobs};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) be->free(be, (void *)device[i], 0);
    sampler_deinit(&b->sampler);
    free(b->sequences), free(b->logits), free(b->rows), free(b->out), free(b->state), free(b->candidates);
    free(b->logprobs), free(b->last), free(b->adjusted), free(b->got);
}

static int32_t seat_of(const struct batch *b, int32_t i)
{
    return b->n - 1 - i;
}

/* Fills the seats of these sequences anew: every `stride`-th from `first`. */
static void fill_seats(struct batch *b, int32_t first, int32_t stride)
{
    struct seat_fill fills[256];
    uint32_t *bits = allocated((size_t)seat_bit_words(b->vocab), sizeof *bits);
    const struct seats *s = &b->a.seats;
    int32_t n = 0;
    for (int32_t i = first; i < b->n; i += stride) {
        struct sequence *q = &b->sequences[i];
        size_t at = (size_t)seat_of(b, i), words = (size_t)seat_bit_words(b->vocab);
        make_seat(q, bits, b->vocab);
        put(s->seat + at, &q->seat, sizeof q->seat);
        put(s->history + at * MAX_LEN, q->tokens, sizeof *q->tokens * (size_t)q->n);
        put(s->allowed + at * words, bits, sizeof *bits * words);
        fills[n++] = (struct seat_fill){seat_of(b, i), q->n};
    }
    put(b->fills, fills, sizeof *fills * (size_t)n);
    assert_int_equal(be->device->sampling->fill_seats(be, b->fills, n, s), LLM_OK);
    free(bits);
}

static const struct {
    float temperature, top_p, min_p;
    int32_t top_k;
} ways[] = {{0, 1, 0, 0},          {1, 1, 0, 0},    {0.7f, 0.9f, 0, 0},  {1, 1, 0, 50},
            {1, 0.95f, 0, 50},     {2, 0.5f, 0, 0}, {0.5f, 1, 0.05f, 0}, {1, 0.8f, 0.01f, 7},
            {1, 1, 0, 256},        {1, 1, 0, 300},  {5, 0.99f, 0, 3000}, {1, 1e-4f, 0, 0},
            {0.8f, 0.95f, 0, 256}, {1, 1, 0, 1}};

/* The rows of the next step, with any way to choose. */
static void make_rows(struct batch *b, int step)
{
    static const int32_t candidates[] = {0, 1, 40, 256, 2, 100, 255, 17}, logprobs[] = {5, -1, 0, 1, 64, 20};
    int32_t *tokens = allocated((size_t)b->n + 2, sizeof *tokens);
    for (int32_t i = 0; i < b->n + 2; i++) {
        int seated = i < b->n, w = random_below(sizeof ways / sizeof *ways);
        struct sequence *q = seated ? &b->sequences[i] : NULL;
        int32_t k = logprobs[random_below(6)];
        b->rows[i] = (struct sample_row){.row = b->n + 1 - i,
                                         .slot = i == b->n + 1 ? -1 : (i + 3) % (b->n + 1),
                                         .top_k = ways[w].top_k,
                                         .temperature = ways[w].temperature,
                                         .top_p = ways[w].top_p,
                                         .min_p = ways[w].min_p,
                                         .stream = (uint32_t)i,
                                         .seed = (uint64_t)step * 77 + 3,
                                         .position = q ? (uint64_t)q->n : 9,
                                         .n_logprobs = k < b->vocab ? k : b->vocab,
                                         .seat = q ? seat_of(b, i) : -1,
                                         .flags = i % 3 == 0 ? SAMPLE_HOOKED : 0,
                                         .n_candidates = candidates[random_below(8)]};
        tokens[b->rows[i].row] = q ? q->tokens[q->n - 1] : 0;
        fill_logits(b->logits + (size_t)i * (size_t)b->vocab, b->vocab, random_below(N_KINDS));
    }
    put((void *)b->a.rows, b->rows, sizeof *b->rows * (size_t)(b->n + 2));
    put((void *)b->a.tokens, tokens, sizeof *tokens * (size_t)(b->n + 2));
    put((void *)b->a.logits, b->logits, sizeof *b->logits * (size_t)(b->n + 2) * (size_t)b->vocab);
    free(tokens);
}

/* All stages, and what they leave. */
static void run_stages(struct batch *b)
{
    const struct sampling_ops *s = be->device->sampling;
    size_t n = (size_t)b->n + 2;
    memset(b->out, 0xa5, n * sizeof *b->out);
    memset(b->candidates, 0xa5, n * SAMPLE_MAX_CANDIDATES * sizeof *b->candidates);
    memset(b->logprobs, 0xa5, n * (1 + SAMPLE_MAX_LOGPROBS) * sizeof *b->logprobs);
    put(b->a.out, b->out, n * sizeof *b->out);
    put(b->a.candidates, b->candidates, n * SAMPLE_MAX_CANDIDATES * sizeof *b->candidates);
    put(b->a.logprobs, b->logprobs, n * (1 + SAMPLE_MAX_LOGPROBS) * sizeof *b->logprobs);
    assert_int_equal(s->adjust(be, &b->a), LLM_OK);
    assert_int_equal(s->check(be, &b->a), LLM_OK);
    assert_int_equal(s->sample(be, &b->a), LLM_OK);
    assert_int_equal(s->candidates(be, &b->a), LLM_OK);
    assert_int_equal(s->logprobs(be, &b->a), LLM_OK);
    get(b->out, b->a.out, n * sizeof *b->out);
    get(b->state, b->a.state, n * sizeof *b->state);
    get(b->candidates, b->a.candidates, n * SAMPLE_MAX_CANDIDATES * sizeof *b->candidates);
    get(b->logprobs, b->a.logprobs, n * (1 + SAMPLE_MAX_LOGPROBS) * sizeof *b->logprobs);
    get(b->last, b->a.last, n * sizeof *b->last);
}
