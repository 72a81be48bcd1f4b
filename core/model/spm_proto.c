#include "model/spm_proto.h"

#include "base/mem.h"

#include <string.h>

/* Field numbers of sentencepiece_model.proto. */
enum {
    MODEL_PIECES = 1,
    MODEL_TRAINER_SPEC = 2,
    MODEL_NORMALIZER_SPEC = 3,
    MODEL_DENORMALIZER_SPEC = 5,
    PIECE_TEXT = 1,
    PIECE_SCORE = 2,
    PIECE_TYPE = 3,
    TRAINER_MODEL_TYPE = 3,
    TRAINER_BYTE_FALLBACK = 35,
    TRAINER_UNK_ID = 40,
    TRAINER_BOS_ID = 41,
    TRAINER_EOS_ID = 42,
    TRAINER_PAD_ID = 43,
    NORMALIZER_CHARSMAP = 2,
    NORMALIZER_ADD_DUMMY_PREFIX = 3,
    NORMALIZER_REMOVE_EXTRA_SPACES = 4,
    NORMALIZER_ESCAPE_SPACES = 5,
    MODEL_TYPE_UNIGRAM = 1,
    MODEL_TYPE_BPE = 2
};

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 };

/* ---- writing ------------------------------------------------------------------------------------------- */

static llm_status put(struct spm_proto_writer *w, const void *s, size_t n, struct llm_error *err)
{
    if (n > w->capacity - w->size) {
        size_t capacity = w->capacity * 2 + n + 4096;
        char *data = mem_grow(w->data, capacity, 1);
        if (!data) return llm_fail(err, LLM_ENOMEM, "no memory for a SentencePiece model");
        w->data = data;
        w->capacity = capacity;
    }
    if (n) memcpy(w->data + w->size, s, n);
    w->size += n;
    return LLM_OK;
}

static size_t varint(uint64_t v, uint8_t out[10])
{
    size_t n = 0;
    for (; v >= 0x80; v >>= 7) out[n++] = (uint8_t)(v | 0x80);
    out[n++] = (uint8_t)v;
    return n;
}

/* A number field appended to a message under construction; returns the bytes written. Negative int32 values
 * are sign-extended to 64 bits, as protobuf wants. */
static size_t number_field(uint8_t *out, uint32_t field, int64_t value)
{
    size_t n = varint((uint64_t)field << 3 | WIRE_VARINT, out);
    return n + varint((uint64_t)value, out + n);
}

static llm_status put_bytes_field(struct spm_proto_writer *w, uint32_t field, size_t size,
                                  struct llm_error *err)
{
    uint8_t head[20];
    size_t n = varint((uint64_t)field << 3 | WIRE_BYTES, head);
    n += varint(size, head + n);
    return put(w, head, n, err);
}

llm_status spm_proto_add_piece(struct spm_proto_writer *w, const char *text, size_t size, float score,
                               int type, struct llm_error *err)
{
    uint8_t head[16], tail[16];
    size_t n_head = varint(PIECE_TEXT << 3 | WIRE_BYTES, head);
    n_head += varint(size, head + n_head);
    size_t n_tail = varint(PIECE_SCORE << 3 | WIRE_FIXED32, tail);
    memcpy(tail + n_tail, &score, 4); /* little-endian, as we are */
    n_tail += 4;
    n_tail += number_field(tail + n_tail, PIECE_TYPE, type);

    llm_status status = put_bytes_field(w, MODEL_PIECES, n_head + size + n_tail, err);
    if (!status) status = put(w, head, n_head, err);
    if (!status) status = put(w, text, size, err);
    return status ? status : put(w, tail, n_tail, err);
}

llm_status spm_proto_finish_bpe(struct spm_proto_writer *w, int byte_fallback, int32_t unk_id,
                                struct llm_error *err)
{
    uint8_t trainer[96], normalizer[32];
    size_t n_trainer = number_field(trainer, TRAINER_MODEL_TYPE, MODEL_TYPE_BPE);
    n_trainer += number_field(trainer + n_trainer, TRAINER_BYTE_FALLBACK, byte_fallback != 0);
    n_trainer += number_field(trainer + n_trainer, TRAINER_UNK_ID, unk_id);
    n_trainer += number_field(trainer + n_trainer, TRAINER_BOS_ID, -1);
    n_trainer += number_field(trainer + n_trainer, TRAINER_EOS_ID, -1);
    n_trainer += number_field(trainer + n_trainer, TRAINER_PAD_ID, -1);
    size_t n_normalizer = number_field(normalizer, NORMALIZER_ADD_DUMMY_PREFIX, 0);
    n_normalizer += number_field(normalizer + n_normalizer, NORMALIZER_REMOVE_EXTRA_SPACES, 0);
    n_normalizer += number_field(normalizer + n_normalizer, NORMALIZER_ESCAPE_SPACES, 1);

    llm_status status = put_bytes_field(w, MODEL_TRAINER_SPEC, n_trainer, err);
    if (!status) status = put(w, trainer, n_trainer, err);
    if (!status) status = put_bytes_field(w, MODEL_NORMALIZER_SPEC, n_normalizer, err);
    return status ? status : put(w, normalizer, n_normalizer, err);
}

/* ---- reading ------------------------------------------------------------------------------------------- */

struct message {
    const uint8_t *at, *end;
};

struct field {
    uint32_t number;
    enum wire_type type;
    uint64_t value;      /* WIRE_VARINT, WIRE_FIXED32, WIRE_FIXED64 */
    struct message body; /* WIRE_BYTES */
};

static int read_varint(struct message *m, uint64_t *out)
{
    *out = 0;
    for (int shift = 0; shift < 64 && m->at < m->end; shift += 7) {
        uint8_t b = *m->at++;
        *out |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80) return 1;
    }
    return 0;
}

/* 1: a field; 0: the end; -1: malformed. */
static int next_field(struct message *m, struct field *f)
{
    uint64_t tag;
    if (m->at == m->end) return 0;
    if (!read_varint(m, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1fffffff) return -1;
    f->number = (uint32_t)(tag >> 3);
    f->type = (enum wire_type)(tag & 7);
    f->value = 0;
    size_t left = (size_t)(m->end - m->at), fixed = f->type == WIRE_FIXED64 ? 8 : 4;
    switch (f->type) {
    case WIRE_VARINT:
        return read_varint(m, &f->value) ? 1 : -1;
    case WIRE_FIXED32:
    case WIRE_FIXED64:
        if (left < fixed) return -1;
        memcpy(&f->value, m->at, fixed);
        m->at += fixed;
        return 1;
    case WIRE_BYTES:
        if (!read_varint(m, &f->value) || f->value > (size_t)(m->end - m->at)) return -1;
        f->body = (struct message){m->at, m->at + f->value};
        m->at += f->value;
        return 1;
    }
    return -1;
}

/* The precompiled character map: a 32-bit size, a double-array trie of that size, replacement strings. The
 * library follows the trie without looking at its bounds, so we look at them for every unit:
 * github.com/s-yata/darts-clone describes the packing. */
static llm_status check_charsmap(struct message m, struct llm_error *err)
{
    size_t size = (size_t)(m.end - m.at);
    if (!size) return LLM_OK;
    uint32_t trie_size;
    if (size < 4) return llm_fail(err, LLM_EFORMAT, "character map of %zu bytes", size);
    memcpy(&trie_size, m.at, 4);
    if (trie_size > size - 4 || trie_size % 1024 || !trie_size)
        return llm_fail(err, LLM_EFORMAT, "character map of %zu bytes holds a trie of %u", size, trie_size);
    const uint8_t *trie = m.at + 4, *strings = trie + trie_size;
    size_t n_units = trie_size / 4, n_strings = size - 4 - trie_size;
    if (!n_strings || strings[n_strings - 1])
        return llm_fail(err, LLM_EFORMAT, "the character map's last string has no end");
    for (size_t i = 0; i < n_units; i++) {
        uint32_t unit;
        memcpy(&unit, trie + 4 * i, 4);
        if (unit >> 31) { /* a leaf: where its replacement starts */
            if ((unit & 0x7fffffff) >= n_strings)
                return llm_fail(err, LLM_EFORMAT, "character map: string at %u of %zu", unit & 0x7fffffff,
                                n_strings);
            continue;
        }
        size_t offset = (size_t)(unit >> 10) << ((unit & (1u << 9)) >> 6);
        if (((i ^ offset) | 0xff) >= n_units)
            return llm_fail(err, LLM_EFORMAT, "character map: unit %zu leads out of the trie", i);
    }
    return LLM_OK;
}

static llm_status check_normalizer(struct message m, struct llm_error *err)
{
    struct field f;
    int rc;
    while ((rc = next_field(&m, &f)) > 0) {
        if (f.number != NORMALIZER_CHARSMAP || f.type != WIRE_BYTES) continue;
        llm_status status = check_charsmap(f.body, err);
        if (status) return status;
    }
    return rc < 0 ? llm_fail(err, LLM_EFORMAT, "malformed normalizer_spec") : LLM_OK;
}

static llm_status check_trainer(struct message m, struct llm_error *err)
{
    struct field f;
    int rc;
    while ((rc = next_field(&m, &f)) > 0)
        if (f.number == TRAINER_MODEL_TYPE && f.value != MODEL_TYPE_UNIGRAM && f.value != MODEL_TYPE_BPE)
            return llm_fail(err, LLM_EUNSUP, "SentencePiece model type %llu; supported: unigram (1), BPE (2)",
                            (unsigned long long)f.value);
    return rc < 0 ? llm_fail(err, LLM_EFORMAT, "malformed trainer_spec") : LLM_OK;
}

/* Byte pieces must be named <0x00> to <0xFF>; the library stops the process at others. */
static llm_status check_piece(struct message m, int64_t index, struct llm_error *err)
{
    struct field f;
    struct message text = {0};
    uint64_t type = 1;
    int rc;
    while ((rc = next_field(&m, &f)) > 0) {
        if (f.number == PIECE_TEXT && f.type == WIRE_BYTES) text = f.body;
        if (f.number == PIECE_TYPE && f.type == WIRE_VARINT) type = f.value;
    }
    if (rc < 0 || !text.at || text.at == text.end)
        return llm_fail(err, LLM_EFORMAT, "malformed piece %lld", (long long)index);
    if (memchr(text.at, 0, (size_t)(text.end - text.at)))
        return llm_fail(err, LLM_EFORMAT, "piece %lld holds a NUL", (long long)index);
    if (type == 6 && (text.end - text.at != 6 || memcmp(text.at, "<0x", 3)))
        return llm_fail(err, LLM_EFORMAT, "byte piece %lld has no name like <0x0A>", (long long)index);
    return LLM_OK;
}

llm_status spm_proto_check(const void *proto, size_t size, struct llm_error *err)
{
    struct message m = {proto, (const uint8_t *)proto + size};
    struct field f;
    int64_t n_pieces = 0;
    int rc;
    while ((rc = next_field(&m, &f)) > 0) {
        if (f.type != WIRE_BYTES) continue;
        llm_status status = LLM_OK;
        if (f.number == MODEL_PIECES) status = check_piece(f.body, n_pieces++, err);
        if (f.number == MODEL_TRAINER_SPEC) status = check_trainer(f.body, err);
        if (f.number == MODEL_NORMALIZER_SPEC || f.number == MODEL_DENORMALIZER_SPEC)
            status = check_normalizer(f.body, err);
        if (status) return status;
    }
    if (rc < 0 || !n_pieces)
        return llm_fail(err, LLM_EFORMAT, "not a SentencePiece model: no protobuf message with pieces");
    return LLM_OK;
}

int spm_proto_adds_dummy_prefix(const void *proto, size_t size)
{
    struct message m = {proto, (const uint8_t *)proto + size};
    struct field f, g;
    int adds = 1; /* the proto's default */
    while (next_field(&m, &f) > 0) {
        if (f.number != MODEL_NORMALIZER_SPEC || f.type != WIRE_BYTES) continue;
        while (next_field(&f.body, &g) > 0)
            if (g.number == NORMALIZER_ADD_DUMMY_PREFIX) adds = g.value != 0;
    }
    return adds;
}
