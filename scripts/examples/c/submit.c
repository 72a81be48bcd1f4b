/* Submits two prompts to one engine and prints what comes, as it comes: llmlua.h alone, no Lua.
 *   cc submit.c $(pkg-config --cflags --libs llmlua) && ./a.out MODEL
 */

#include <llmlua.h>
#include <stdio.h>
#include <string.h>

static const char *const prompts[] = {"The capital of France is", "Water boils at a temperature of"};
enum { N_PROMPTS = 2 };

static int fail(const struct llm_error *err)
{
    fprintf(stderr, "submit: %s\n", err->message);
    return 1;
}

/* Both are batched from here on; `user` tells their events apart. */
static llm_status submit_all(struct llm_client *client, struct llm_request **requests, struct llm_error *err)
{
    for (int i = 0; i < N_PROMPTS; i++) {
        struct llm_request_spec spec;
        llm_request_spec_init(&spec);
        spec.prompt = prompts[i];
        spec.prompt_bytes = strlen(prompts[i]);
        spec.stream = 1;
        spec.user = (void *)prompts[i];
        spec.sampling.temperature = 0;
        spec.sampling.max_tokens = 16;
        llm_status status = llm_submit(client, &spec, &requests[i], err);
        if (status != LLM_OK) return status;
    }
    return LLM_OK;
}

/* A program with an event loop watches llm_client_fd instead of waiting. */
static llm_status print_events(struct llm_client *client, struct llm_error *err)
{
    int left = N_PROMPTS;
    while (left > 0) {
        llm_status status = llm_wait(client, -1);
        struct llm_event event;
        while (status == LLM_OK && llm_next(client, &event) == LLM_OK) {
            if (event.finish == LLM_FINISH_ERROR)
                return llm_fail(err, LLM_EFAILED, "%s", event.error->message);
            printf("%s |%.*s\n", (const char *)event.user, (int)event.text_bytes, event.text);
            if (event.request_done) left--;
        }
        if (status != LLM_OK) return llm_fail(err, status, "the engine has failed");
    }
    return LLM_OK;
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: submit MODEL\n");
        return 2;
    }
    struct llm_error err;
    struct llm_engine_options options;
    struct llm_engine *engine;
    struct llm_client *client;
    struct llm_request *requests[N_PROMPTS] = {NULL};

    llm_engine_options_init(&options);
    options.model = argv[1];
    options.max_model_len = 2048;
    if (llm_engine_open(&options, &engine, &err) != LLM_OK) return fail(&err);
    llm_status status = llm_client_open(engine, &client, &err);
    if (status == LLM_OK) {
        status = submit_all(client, requests, &err);
        if (status == LLM_OK) status = print_events(client, &err);
        llm_client_close(client); /* releases requests, finished or not */
    }
    llm_engine_close(engine);
    return status == LLM_OK ? 0 : fail(&err);
}
