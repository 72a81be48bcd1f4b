// Token ids of a corpus by llama.cpp: the original that GGUF vocabularies are compared with.
//
// usage: llama_ids VOCAB.gguf CORPUS      prints a line of ids for each record of CORPUS (see
// make_corpus.py); blocks of 50 records alternate between plain text and text with special tokens added and
// parsed. Built by make_tokenizers.py against a libllama.

#include "llama.h"

#include <cstdint>
#include <cstdio>
#include <vector>

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_model_params params = llama_model_default_params();
    params.vocab_only = true;
    llama_model *model = llama_model_load_from_file(argv[1], params);
    FILE *corpus = fopen(argv[2], "rb");
    if (!model || !corpus) return 1;
    const llama_vocab *vocab = llama_model_get_vocab(model);
    std::vector<char> text;
    std::vector<llama_token> ids;
    uint32_t size;
    for (int i = 0; fread(&size, 4, 1, corpus) == 1; i++) {
        text.resize(size + 1);
        ids.resize(size + 16);
        if (fread(text.data(), 1, size, corpus) != size) return 1;
        bool special = i / 50 % 2;
        int n = llama_tokenize(vocab, text.data(), int(size), ids.data(), int(ids.size()), special, special);
        if (n < 0) return 1;
        for (int k = 0; k < n; k++) printf(k ? " %d" : "%d", ids[k]);
        putchar('\n');
    }
    llama_model_free(model);
    fclose(corpus);
    return 0;
}
