#include "model/spm.h"

#include "model/bpe.h"
#include "model/spm_proto.h"

#include <exception>
#include <memory>
#include <new>
#include <sentencepiece_processor.h>
#include <string>
#include <vector>

struct spm {
    sentencepiece::SentencePieceProcessor processor;
};

llm_status spm_open(const void *proto, size_t size, struct spm **out, struct llm_error *err)
{
    llm_status status = spm_proto_check(proto, size, err);
    if (status) return status;
    try {
        std::unique_ptr<spm> s(new spm);
        auto loaded = s->processor.LoadFromSerializedProto({static_cast<const char *>(proto), size});
        if (!loaded.ok())
            return llm_fail(err, LLM_EFORMAT, "SentencePiece does not take the model: %s", loaded.message());
        *out = s.release();
        return LLM_OK;
    } catch (const std::bad_alloc &) {
        return llm_fail(err, LLM_ENOMEM, "no memory for a SentencePiece model");
    } catch (const std::exception &e) {
        return llm_fail(err, LLM_EFORMAT, "SentencePiece does not take the model: %s", e.what());
    }
}

void spm_close(struct spm *spm)
{
    delete spm;
}

llm_status spm_encode(const struct spm *spm, const char *text, size_t size, struct token_list *out,
                      struct llm_error *err)
{
    try {
        std::vector<int> ids;
        auto done = spm->processor.Encode({text, size}, &ids);
        if (!done.ok()) return llm_fail(err, LLM_EFAILED, "SentencePiece: %s", done.message());
        for (int id : ids) {
            llm_status status = token_list_push(out, id, err);
            if (status) return status;
        }
        return LLM_OK;
    } catch (const std::bad_alloc &) {
        return llm_fail(err, LLM_ENOMEM, "no memory to tokenize %zu bytes", size);
    } catch (const std::exception &e) {
        return llm_fail(err, LLM_EFAILED, "SentencePiece: %s", e.what());
    }
}

int32_t spm_n_pieces(const struct spm *spm)
{
    return spm->processor.GetPieceSize();
}

const char *spm_piece(const struct spm *spm, int32_t id, size_t *size)
{
    const std::string &piece = spm->processor.IdToPiece(id);
    *size = piece.size();
    return piece.data();
}

enum spm_type spm_piece_type(const struct spm *spm, int32_t id)
{
    const auto &p = spm->processor;
    if (p.IsUnknown(id)) return SPM_UNKNOWN;
    if (p.IsControl(id)) return SPM_CONTROL;
    if (p.IsByte(id)) return SPM_BYTE;
    return p.IsUnused(id) ? SPM_UNUSED : SPM_NORMAL;
}

int32_t spm_bos(const struct spm *spm)
{
    return spm->processor.bos_id();
}

int32_t spm_eos(const struct spm *spm)
{
    return spm->processor.eos_id();
}

int32_t spm_unk(const struct spm *spm)
{
    return spm->processor.unk_id();
}
