// Greedy continuation by llama.cpp, for make_smollm2.py: reads prompts, one a line, writes a line a prompt:
// "prompt_ids | ids | seconds | margins": of each step the token of the largest logit, that of the second largest
// and the difference of the two.
// Usage: llama_greedy MODEL N_TOKENS < prompts

#include "llama.h"

#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

static void die(const char *what)
{
    std::fprintf(stderr, "llama_greedy: %s\n", what);
    std::exit(1);
}

static std::vector<llama_token> tokenize(const llama_vocab *vocab, const std::string &text)
{
    std::vector<llama_token> ids(text.size() + 8);
    int n = llama_tokenize(vocab, text.data(), (int)text.size(), ids.data(), (int)ids.size(), true, true);
    if (n < 1) die("cannot tokenize a prompt");
    ids.resize(n);
    return ids;
}

static void continue_prompt(llama_context *ctx, const llama_vocab *vocab, const std::string &text, int n_tokens)
{
    std::vector<llama_token> prompt = tokenize(vocab, text), batch = prompt, out, seconds;
    std::vector<float> margins;
    llama_memory_clear(llama_get_memory(ctx), true);
    while ((int)out.size() < n_tokens) {
        if (llama_decode(ctx, llama_batch_get_one(batch.data(), (int)batch.size()))) die("decode failed");
        const float *logits = llama_get_logits_ith(ctx, -1);
        int best = 0, second = -1;
        for (int i = 1; i < llama_vocab_n_tokens(vocab); i++) {
            if (logits[i] > logits[best]) {
                second = best;
                best = i;
            } else if (second < 0 || logits[i] > logits[second]) {
                second = i;
            }
        }
        out.push_back(best);
        seconds.push_back(second);
        margins.push_back(logits[best] - logits[second]);
        batch.assign(1, best);
    }
    for (llama_token id : prompt) std::printf("%d ", id);
    std::printf("|");
    for (llama_token id : out) std::printf(" %d", id);
    std::printf("|");
    for (llama_token id : seconds) std::printf(" %d", id);
    std::printf("|");
    for (float margin : margins) std::printf(" %.4f", margin);
    std::printf("\n");
}

int main(int argc, char **argv)
{
    if (argc != 3) die("usage: llama_greedy MODEL N_TOKENS < prompts");
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    llama_model *model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (!model) die("cannot load the model");
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 1024;
    params.n_threads = params.n_threads_batch = 2;
    llama_context *ctx = llama_init_from_model(model, params);
    if (!ctx) die("cannot make a context");
    for (std::string line; std::getline(std::cin, line);) {
        std::string text; // "\n" spells a newline
        for (size_t i = 0; i < line.size(); i++) {
            if (line.compare(i, 2, "\\n") == 0) {
                text += '\n';
                i++;
            } else {
                text += line[i];
            }
        }
        continue_prompt(ctx, llama_model_get_vocab(model), text, std::atoi(argv[2]));
    }
    llama_free(ctx);
    llama_model_free(model);
}
