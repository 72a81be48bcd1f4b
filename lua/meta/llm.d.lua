---@meta llm
-- Types of require "llm", for editors (Lua Language Server), and the source of docs/api.md and of help(name) at the
-- prompt. Every exported name is in lua/meta: a test compares.

---@class llm
---@field json llm.json
---@field table llm.table
---@field http llm.http
---@field task llm.task
---@field state table plain data that survives when the server's script is loaded anew
local llm = {}

---Options of llm.engine: vLLM's names. Sizes also as text: "2GiB", "32k".
---@class llm.EngineOptions
---@field model string GGUF file, Hugging Face directory, or id on the hub ("ORG/NAME", "ORG/NAME:Q4_K_M", "ORG/NAME/FILE.gguf")
---@field tokenizer? string path or id to take the tokenizer from
---@field revision? string branch, tag or commit of a model on the hub
---@field tokenizer_revision? string
---@field download_dir? string where models from the hub are kept
---@field hf_token? string for models that are not open to all
---@field skip_tokenizer_init? boolean token ids in, token ids out
---@field load_format? "auto"|"gguf"|"safetensors"|"dummy"|"null"
---@field null_step_ms? number load_format null: milliseconds that a step takes
---@field dtype? "auto"|"float32"|"float16"|"bfloat16" type of weights that are not quantized
---@field kv_cache_dtype? "auto"|"float32"|"float16"|"bfloat16"
---@field seed? integer of requests that bring none, and of dummy weights
---@field max_model_len? integer|string tokens, prompt and output
---@field max_num_seqs? integer sequences in one step
---@field max_num_batched_tokens? integer|string token budget of one step
---@field block_size? integer tokens in a KV page
---@field kv_cache_memory? integer|string bytes
---@field enable_prefix_caching? boolean
---@field enable_chunked_prefill? boolean
---@field scheduling_policy? "fcfs"|"priority"
---@field max_num_queued_reqs? integer
---@field max_logprobs? integer most that a request may ask for; -1: the vocabulary
---@field threads? integer
---@field step_time_target? number milliseconds
---@field device? string "auto", "cpu", "cuda", "cuda:1" …
---@field gpu_memory_utilization? number
---@field cpu_isa? "ref"|"avx2"|"avx512"
---@field tensor_parallel_size? 1
---@field pipeline_parallel_size? 1
---@field quantization? "auto"

---vLLM's SamplingParams.
---@class llm.SamplingParams
---@field n? integer sequences sampled from one prompt (1)
---@field temperature? number 0: greedy (1)
---@field top_p? number (0, 1] (1)
---@field top_k? integer 0 or -1: off (0)
---@field min_p? number [0, 1] (0)
---@field presence_penalty? number [-2, 2] (0)
---@field frequency_penalty? number [-2, 2] (0)
---@field repetition_penalty? number > 0 (1)
---@field seed? integer
---@field max_tokens? integer -1: up to max_model_len (16)
---@field min_tokens? integer (0)
---@field stop? string|string[]
---@field stop_token_ids? integer[]
---@field ignore_eos? boolean (false)
---@field include_stop_str_in_output? boolean (false)
---@field skip_special_tokens? boolean (true)
---@field detokenize? boolean (true)
---@field logprobs? integer alternatives a token; 0: the sampled one's only; -1: the vocabulary
---@field prompt_logprobs? integer the same for the prompt
---@field logit_bias? table<integer, number>
---@field allowed_token_ids? integer[]
---@field bad_words? string[]
---@field policy? string|llm.PolicyUse|(string|llm.PolicyUse)[] the policy that samples, or several
---@field policy_args? table<string, any> arguments of the policy, if there is one
---@field truncate_prompt_tokens? integer keep the last k tokens of the prompt

---@class llm.RequestOptions
---@field progress? boolean false: no progress bar; true: even if stderr is no terminal
---@field add_special_tokens? boolean what the tokenizer adds to a text prompt (true)
---@field truncate_prompt_tokens? integer
---@field priority? integer lower runs sooner, under the priority policy
---@field cache_salt? string prefixes are shared only among equal salts
---@field tenant? string whose share of the engine it takes
---@field timeout? number seconds after which it fails, waiting or running

---@alias llm.Prompt string|integer[]|{prompt: string}|{prompt_token_ids: integer[]}

---@class llm.Logprob
---@field logprob number
---@field rank integer 1: the likeliest token
---@field decoded_token? string

---@class llm.Sequence
---@field index integer from 0
---@field text string
---@field token_ids integer[]
---@field finish_reason "stop"|"length"|"abort"|"error"
---@field stop_reason? integer|string the stop token or string; nil: end of sequence, or not stopped
---@field logprobs? table<integer, llm.Logprob>[] a map from token id for each token
---@field cumulative_logprob? number if logprobs were asked for

---Times in seconds of the clock of llm.now.
---@class llm.Metrics
---@field arrival_time number
---@field scheduled_time? number
---@field first_token_time? number
---@field finished_time? number
---@field queue_time? number seconds
---@field time_to_first_token? number seconds
---@field e2e_latency? number seconds
---@field num_preemptions integer

---@class llm.Output
---@field prompt? string nil for a prompt of token ids
---@field prompt_token_ids integer[]
---@field prompt_logprobs? (table<integer, llm.Logprob>|false)[] the first is false: nothing predicts it
---@field outputs llm.Sequence[]
---@field metrics llm.Metrics
---@field num_cached_tokens integer of the prompt, found in the prefix cache

---@class llm.Delta
---@field text string whole UTF-8 characters
---@field token_ids integer[]
---@field text_ends? integer[] of several tokens: where in text each one's ends
---@field index integer of the sequence, from 0
---@field logprobs? table<integer, llm.Logprob>[]
---@field finish_reason? "stop"|"length"|"abort"
---@field stop_reason? integer|string

---@class llm.Engine
local Engine = {}

---@param prompts llm.Prompt|llm.Prompt[]
---@param params? llm.SamplingParams|llm.SamplingParams[] nil: the model's defaults
---@param options? llm.RequestOptions
---@return llm.Output[] # in the order of the prompts
function Engine:generate(prompts, params, options) end

---@param prompt llm.Prompt
---@param params? llm.SamplingParams
---@param options? llm.RequestOptions
---@return llm.Stream # an iterator of llm.Delta
function Engine:stream(prompt, params, options) end

---As stream, but an expected failure is nil, a message and a code ("EINVAL", "EFULL", "EFAILED" …).
---@param prompt llm.Prompt
---@param params? llm.SamplingParams
---@param options? llm.RequestOptions|{whole?: boolean} whole: one delta a sequence, when it has finished
---@return llm.Stream? stream, string? message, string? code
function Engine:try_stream(prompt, params, options) end

---The prompt that the model's chat template makes of messages; pass it on with add_special_tokens = false.
---@param messages {role: string, content: string}[]
---@param variables? table what else the template knows, such as add_generation_prompt
---@return string
function Engine:chat_prompt(messages, variables) end

---A text whose keys and values the engine keeps.
---@param prompt? llm.Prompt nil: an empty one
---@param options? {add_special_tokens?: boolean, priority?: integer, cache_salt?: string} of all requests on it
---@return llm.LiveSequence
function Engine:sequence(prompt, options) end

---@param text string
---@param options? {add_special_tokens?: boolean, parse_special?: boolean}
---@return integer[]
function Engine:tokenize(text, options) end

---@param ids integer[]
---@param options? {skip_special_tokens?: boolean}
---@return string
function Engine:detokenize(ids, options) end

---@return llm.Tokenizer? # nil if the model has none
function Engine:tokenizer() end

---@class llm.Info
---@field path string
---@field architecture string
---@field vocab_size integer
---@field hidden_size integer
---@field n_layers integer
---@field n_heads integer
---@field n_kv_heads integer
---@field head_dim integer
---@field max_model_len integer tokens
---@field block_size integer tokens in a KV page
---@field n_blocks integer
---@field weight_bytes integer read from memory by a decode step
---@field kv_bytes_per_token integer
---@field backend string
---@field isa? string
---@field threads integer
---@return llm.Info
function Engine:info() end

---@class llm.Stats
---@field n_running integer
---@field n_waiting integer
---@field n_blocks integer
---@field n_blocks_used integer
---@field n_blocks_peak integer
---@field n_blocks_pinned integer of those used, by pinned prefixes
---@field kv_waste_peak number share of slots in used pages that held no token, at the fullest step
---@field n_steps integer
---@field n_prompt_tokens integer
---@field n_output_tokens integer
---@field n_preemptions integer
---@field n_prefix_queries integer tokens
---@field n_prefix_hits integer tokens
---@field n_finished integer
---@field busy_seconds number inside steps
---@field wait_seconds number of that, spent waiting for a device
---@return llm.Stats
function Engine:stats() end

---The sampling parameters that the model's authors recommend.
---@return llm.SamplingParams
function Engine:default_params() end

---Waits for something to happen to any request of this script.
---@param seconds? number at most so long (0.05)
---@return boolean # whether something did
function Engine:wait(seconds) end

---Forgets all cached prefixes.
function Engine:reset_prefix_cache() end

---Cancels what runs and frees the model. Harmless twice.
function Engine:close() end

---Loads a policy: a file's path, the name of one that comes with the program, or a name and its Lua text. Requests
---submitted from now on get it by its name. Raises if it does not load: what was there before goes on. In a task of the event
---loop (a handler) the others run while another thread loads it, compiler and all; a plain script blocks.
---@param source string
---@param text? string
---@param options? {deadline?: number, load_seconds?: number, memory?: number} seconds a call of a hook may take (0.1), and a load (1); bytes of its Lua state (256 MiB)
---@return string name, integer generation
function Engine:load_policy(source, text, options) end

---Makes the generation before serve again.
---@param name string
---@return integer generation
function Engine:rollback_policy(name) end

---Requests cannot ask for it any more.
---@param name string
function Engine:remove_policy(name) end

---@class llm.PolicyInfo
---@field name string
---@field generation integer counts from 1
---@field active boolean true: it is what requests get
---@field n_users integer requests that hold it
---@field n_requests integer
---@field n_calls integer of hooks and graphs
---@field n_failures integer
---@field seconds number in hooks, on the engine's thread
---@field on_host? string why the host runs its graph, though there is a GPU; nil: it need not
---@return llm.PolicyInfo[]
function Engine:policies() end

---The policy of requests that name none; nil: none. A function is called for each such request, before it is submitted, and
---returns policy and args, or nil for none.
---@param policy? string|(string|llm.PolicyUse)[]|fun(request: llm.PolicyChoice): (string|(string|llm.PolicyUse)[])?, table?
---@param args? table<string, any>
function Engine:default_policy(policy, args) end

---A request that names no policy. Not to be changed.
---@class llm.PolicyChoice
---@field prompt string|integer[]
---@field params llm.SamplingParams
---@field tenant? string
---@field priority? integer
---@field cache_salt? string

---@class llm.PolicyUse
---@field name string
---@field args? table<string, any>

---In the file of a policy: makes the policy. defaults: its parameters, with what they are where a request gives none.
---@param name string
---@param defaults? table<string, number|boolean|string|table>
---@return llm.Policy
function llm.policy(name, defaults) end

---What a policy's file fills in. Hooks that are absent cost nothing.
---@class llm.Policy
---@field name string
---@field defaults table<string, any>
---@field ranges? table<string, number[]> {least, greatest} of parameters that are numbers
---@field on_error? "fail"|"ignore" ignore: a hook that fails is left out for the rest of the sequence
---@field max_candidates? integer most that the candidates hook is given (256)
---@field help? string
---@field init? fun(req: llm.PolicyRequest) before the first token of a sequence
---@field logits? fun(row: llm.Row, req: llm.PolicyRequest) may change the row
---@field candidates? fun(c: llm.Candidates, req: llm.PolicyRequest): integer? the token to take; nil: no opinion
---@field graph? fun(g: llm.graph.Functions, logits: llm.graph.Value, p: table): llm.graph.Value traced once, when the file is loaded
---@field done? fun(req: llm.PolicyRequest)
---@field test? fun(t: llm.PolicyTrial) raises if something is wrong; runs at each load

---One sequence under one policy.
---@class llm.PolicyRequest
---@field state table the policy's own, empty at first
---@field params table<string, any> the defaults, and over them what the request gave
---@field graph table<string, any> set by init: parameters of the graph
---@field prompt integer[] tokens; [-1] is the last
---@field output integer[] tokens so far
---@field position integer of the token to be chosen, from 0
---@field index integer of the sequence in its request, from 0
---@field seed number
---@field random fun(self: llm.PolicyRequest, m?: integer, n?: integer): number as math.random, of (seed, index, position)

---@class llm.Candidate
---@field token integer
---@field prob number
---@field logprob number
---@field text string

---The likeliest of what is drawn from, in order. Valid within the hook.
---@class llm.Candidates
---@field [integer] llm.Candidate
---@field find fun(self: llm.Candidates, token: integer): integer? its place
---@field draw fun(self: llm.Candidates, u: number, n?: integer): integer the token at u in [0, 1) of the first n
---@field each fun(self: llm.Candidates): fun(): integer?, llm.Candidate?

---Logits by token id, from 0. Valid within the hook.
---@class llm.Row
---@field [integer] number
---@field ban fun(self: llm.Row, ids: integer[])
---@field keep fun(self: llm.Row, ids: integer[]) bans all others
---@field fill fun(self: llm.Row, logit: number)
---@field argmax fun(self: llm.Row): integer, number

---@class llm.PolicyTrial
---@field run fun(self: llm.PolicyTrial, options?: {prompt?: integer[], output?: integer[], args?: table, seed?: integer, index?: integer}): llm.PolicyTrialRun

---@class llm.PolicyTrialRun
---@field req llm.PolicyRequest
---@field push fun(self: llm.PolicyTrialRun, token: integer)
---@field logits fun(self: llm.PolicyTrialRun, list: number[]): table<integer, number>
---@field candidates fun(self: llm.PolicyTrialRun, list: number[][]): integer?
---@field graph fun(self: llm.PolicyTrialRun, list: number[], options?: table): integer|table<integer, number>
---@field done fun(self: llm.PolicyTrialRun)

---@class llm.Stream
---@field done boolean? true: there will be no more deltas
---@operator call: llm.Delta?
local Stream = {}

---The next delta, waiting for it; nil at the end.
---@return llm.Delta?
function Stream:next() end

---The next delta if it is already there.
---@return llm.Delta?
function Stream:poll() end

---@return {prompt_token_ids: integer[], num_cached_tokens: integer, metrics: llm.Metrics}
function Stream:info() end

---Cancels the request if it still runs.
function Stream:close() end

---A text whose keys and values the engine keeps: what is new is computed, when something needs it. #seq: tokens.
---@class llm.LiveSequence
---@operator len: integer
local LiveSequence = {}

---Adds text, token ids or one id at the end, not computed yet.
---@param what string|integer[]|integer
---@return llm.LiveSequence self
function LiveSequence:feed(what) end

---Computes what was fed, and returns when that is done.
---@return llm.LiveSequence self
function LiveSequence:compute() end

---Forgets the last n tokens.
---@param n integer
---@return llm.LiveSequence self
function LiveSequence:rewind(n) end

---Forgets all but the first n tokens.
---@param n integer
---@return llm.LiveSequence self
function LiveSequence:rewind_to(n) end

---Another one with the same text; pages are shared.
---@param n? integer so many, as a list
---@return llm.LiveSequence|llm.LiveSequence[]
function LiveSequence:fork(n) end

---@param options? {skip_special_tokens?: boolean}
---@return string
function LiveSequence:text(options) end

---@param from? integer number of the first token wanted (1)
---@return integer[]
function LiveSequence:tokens(from) end

---Generates, and extends the sequence by what the text shows.
---@param params? llm.SamplingParams nil: the model's defaults; n is 1
---@return llm.Sequence
function LiveSequence:generate(params) end

---The same as it comes. Until it has ended or is closed the sequence can do nothing else.
---@param params? llm.SamplingParams
---@return llm.SequenceStream # an iterator of llm.Delta
function LiveSequence:stream(params) end

---@class llm.Candidate
---@field token integer
---@field text string
---@field logprob number
---@field prob number
---@field rank integer 1: the likeliest

---What may come next, likeliest first; the list's fields token, text and logprob are what sampling picks, stops says
---whether that ends a text. The sequence stays as it is.
---@param params? llm.SamplingParams logprobs: how many (10); temperature is 0 if it is not given
---@return llm.Candidate[]|{token: integer, text: string, logprob: number, stops: boolean}
function LiveSequence:next(params) end

---Classifier-free guidance: each token is drawn from negative + scale * (text - negative) in log-probabilities, and
---extends both sequences.
---@param negative llm.Sequence another sequence of the same engine
---@param params? {scale?: number, max_tokens?: integer, ignore_eos?: boolean, temperature?: number, top_k?: integer, top_p?: number, min_p?: number, seed?: integer}
---@return fun(): token: integer?, text: string? # an iterator
function LiveSequence:guided(negative, params) end

---How likely the model finds this continuation. The sequence stays as it is.
---@param what string|integer[]|integer
---@param k? integer alternatives for each token (0)
---@return {token_ids: integer[], logprobs: (table<integer, llm.Logprob>|false)[], total: number, mean: number}
function LiveSequence:score(what, k) end

---The same for the sequence's own tokens; the first one's is false.
---@param k? integer alternatives for each token (0)
---@return (table<integer, llm.Logprob>|false)[]
function LiveSequence:logprobs(k) end

---Takes a guess in one step: as many of these ids as greedy decoding would have given, and the token after them.
---@param ids integer[]
---@return integer accepted, integer? token # nil: the text ends there
function LiveSequence:verify(ids) end

---Frees its pages, and cancels what runs on it. Harmless twice.
function LiveSequence:close() end

---@class llm.SequenceStream
---@field done boolean? true: there will be no more deltas
---@operator call: llm.Delta?
local SequenceStream = {}

---The next delta, waiting for it; nil at the end.
---@return llm.Delta?
function SequenceStream:next() end

---The next delta if it is already there.
---@return llm.Delta?
function SequenceStream:poll() end

---@return {num_cached_tokens: integer, metrics: llm.Metrics}
function SequenceStream:info() end

---Ends it where it is: what was delivered stays in the sequence.
function SequenceStream:close() end

---A function that runs beside others (llm.spawn).
---@class llm.Program
---@field done boolean?
local Program = {}

---Waits for its end; returns what it returned, or raises its error.
---@return any ...
function Program:wait() end

---Makes its present and later waits raise a cancellation.
---@param reason? string
function Program:cancel(reason) end

---@class llm.Tokenizer
---@field path string
local Tokenizer = {}

---@param text string
---@param options? {add_special_tokens?: boolean, parse_special?: boolean}
---@return integer[]
function Tokenizer:encode(text, options) end

---Ids of a text that goes on where another one ended.
---@param text string
---@return integer[]
function Tokenizer:continue(text) end

---@param ids integer[]
---@param options? {skip_special_tokens?: boolean}
---@return string
function Tokenizer:decode(ids, options) end

---The token that the tokenizer puts first by itself.
---@return integer?
function Tokenizer:bos() end

---The text of one token as it reads inside a text.
---@param id integer
---@return string
function Tokenizer:token_text(id) end

---The bytes of one token, which may be part of a UTF-8 character; nil for control tokens and ids out of range.
---@param id integer
---@return string?
function Tokenizer:token_bytes(id) end

---The ids that end a turn.
---@return integer[]
function Tokenizer:end_tokens() end

---@return {vocab_size: integer, bos?: integer, eos?: integer, chat_template?: string}
function Tokenizer:info() end

function Tokenizer:close() end

---Runs functions, or f(item, i) for each item of a list, beside one another. If one raises, the others are canceled.
---@param list any[]
---@param f? fun(item: any, i: integer): any
---@param options? {limit?: integer} at most so many at a time
---@return any[] # their first results, in order
function llm.parallel(list, f, options) end

---A program that can be run as a script and served at a route.
---@class llm.Servable
---@field spec llm.OptionSpec
---@field run fun(engine: llm.Engine, args: table<string, any>, emit: fun(text: string)): any
local Servable = {}

---A handler of server:post: JSON arguments in, {text, result} out, or events with "stream": true.
---@param engine llm.Engine
---@return fun(request: llm.Request, response: llm.Response)
function Servable:handler(engine) end

---Checked and completed arguments, or nil and what is wrong.
---@param given table<string, any>
---@return table<string, any>? args, string? message
function Servable:arguments(given) end

---What it takes, for a list of programs.
---@return table
function Servable:describe() end

---Makes a program of a function. In the script that llmlua was started with it runs at once: with arguments from the
---command line, printing what is emitted, and the result.
---@param spec llm.OptionSpec
---@param run fun(engine: llm.Engine, args: table<string, any>, emit: fun(text: string)): any
---@return llm.Servable
function llm.program(spec, run) end

---Starts f(...) beside what runs. It ends with the program that started it.
---@param f fun(...): ...
---@return llm.Program
function llm.spawn(f, ...) end

---Opens a model. Raises if it cannot.
---@param options llm.EngineOptions
---@return llm.Engine
function llm.engine(options) end

---Opens a tokenizer without the weights. Raises if it cannot.
---@param path string GGUF file, model directory, tokenizer.json, tokenizer.model, or id on the hub
---@return llm.Tokenizer
function llm.tokenizer(path) end

---A server of HTTP; see docs on serving for its routes, requests and responses.
---@class llm.Server
---@field on_error? fun(failure: any, request: llm.Request)
---@field on_started? fun(request: table)
---@field on_finished? fun(request: table, why: string, status: integer, body_bytes: integer)
local Server = {}

---Adds a handler; it may return a text or a table (JSON) in place of writing.
---@param method string
---@param path string "/plain", "/v1/models/:id", "/files/*rest"
---@param handler fun(request: llm.Request, response: llm.Response): string|table|nil
function Server:route(method, path, handler) end

---Adds a handler of GET.
---@param path string
---@param handler fun(request: llm.Request, response: llm.Response): string|table|nil
function Server:get(path, handler) end

---Adds a handler of POST.
---@param path string
---@param handler fun(request: llm.Request, response: llm.Response): string|table|nil
function Server:post(path, handler) end

---Adds a handler of PUT.
---@param path string
---@param handler fun(request: llm.Request, response: llm.Response): string|table|nil
function Server:put(path, handler) end

---Adds a handler of PATCH.
---@param path string
---@param handler fun(request: llm.Request, response: llm.Response): string|table|nil
function Server:patch(path, handler) end

---Adds a handler of DELETE.
---@param path string
---@param handler fun(request: llm.Request, response: llm.Response): string|table|nil
function Server:delete(path, handler) end

---Adds a handler of OPTIONS.
---@param path string
---@param handler fun(request: llm.Request, response: llm.Response): string|table|nil
function Server:options(path, handler) end

---Adds a layer around all routes.
---@param layer fun(request: llm.Request, response: llm.Response, next: fun(request: llm.Request, response: llm.Response))
function Server:use(layer) end

---Adds a self-test: it raises if something is wrong, before the server serves and before a script loaded anew does.
---@param test fun(server: llm.Server)
function Server:self_test(test) end

---Runs the self-tests; in a task.
function Server:run_self_tests() end

---Sends a request through layers and routes without a socket; in a task.
---@param method string
---@param path string
---@param options? {query?: string, headers?: table<string, string>, body?: string}
---@return {status: integer, headers: table<string, string>, body: string, broken: boolean}
function Server:probe(method, path, options) end

---@return integer|true? port, string? message
function Server:listen() end

---@return string "http://127.0.0.1:8000"
function Server:url() end

---Stops accepting, lets requests under way finish, then calls done.
---@param seconds? number at most; nil: as long as they take
---@param done? fun()
function Server:drain(seconds, done) end

---Serves until SIGINT or SIGTERM. A file that changed, SIGHUP and POST /admin/reload load the script anew.
---@param ready? fun() called when it listens, not in later loads
function Server:run(ready) end

---@return table connections and exchanges
function Server:stats() end

function Server:close() end

---Makes a server; it listens with listen() or run().
---@param options? table host, port (8000; 0: any), unix, ssl_certfile, ssl_keyfile, workers (1), shutdown_delay, shutdown_timeout, max_body, api_key, api_key_file, allow_attach (false: llmlua attach), signals (of a server in a C program) …
---@return llm.Server
function llm.server(options) end

---require "llm.openai": the OpenAI API as handlers of a server, over an engine and the options of openai.options.
---@class llm.openai
---@field options llm.OptionEntry[] for llm.options
---@field completions fun(engine: llm.Engine, options?: table): function POST /v1/completions
---@field chat fun(engine: llm.Engine, options?: table): function POST /v1/chat/completions
---@field responses fun(engine: llm.Engine, options?: table): function POST /v1/responses
---@field messages fun(engine: llm.Engine, options?: table): function POST /v1/messages, Anthropic's API
---@field count_tokens fun(engine: llm.Engine, options?: table): function POST /v1/messages/count_tokens
---@field models fun(engine: llm.Engine, options?: table): function GET /v1/models, /v1/models/*id
---@field tokenize fun(engine: llm.Engine, options?: table): function
---@field detokenize fun(engine: llm.Engine, options?: table): function
---@field live fun(): function GET /health: the process is alive
---@field ready fun(engine: llm.Engine, server: llm.Server): function GET /ready: it should get requests
---@field version fun(): function
---@field load fun(engine: llm.Engine, server: llm.Server): function
---@field page fun(server: llm.Server, engine: llm.Engine, options?: table) adds the page at / with GET /admin/state (the engine's model, counters and KV pages) and GET and PUT /admin/file (the server's script, with a key)
---@field server_options fun(options: table): table what llm.server takes of them
---@field protect fun(server: llm.Server, options: table) adds access log, request ids, CORS, API keys, deadlines
---@field policies fun(engine: llm.Engine, options: table) loads the policies of the options, and again when files change
---@field deadline fun(seconds: number): function a layer

---Sends a request over HTTP; in a task the others run meanwhile. Any status is an answer.
---@param url string
---@param options? {method?: string, headers?: table<string, string>, body?: string, timeout?: number, connect_timeout?: number, idle_timeout?: number, max_body?: integer, unix?: string, stream?: boolean}
---@return {status: integer, headers: table<string, string>, body?: string}? reply, string? message
function llm.fetch(url, options) end

---The handler of GET /metrics: vLLM's metrics in Prometheus' text format.
---@param request table
---@param response table
function llm.metrics(request, response) end

---@class llm.OptionEntry
---@field name string
---@field type "string"|"path"|"boolean"|"integer"|"number"|"count"|"bytes"|"integers"|"strings"|"bias"
---@field help? string
---@field initial? any the value if it is not given
---@field default? string what --help says the default is
---@field choices? string[]
---@field min? number
---@field max? number
---@field alias? string[]
---@field many? boolean repeatable: a list
---@field collect? string repeatable: {name, value} goes into this list
---@field shown? string placeholder in --help
---@field required? boolean of a positional argument

---@class llm.OptionSpec
---@field [integer] llm.OptionEntry
---@field summary? string
---@field positional? llm.OptionEntry[]
---@field sampling? boolean true: sampling parameters too, in opts.sampling
---@field engine? boolean false: no engine options

---Parses a command line. --help and mistakes end the script.
---@param argv string[] arg
---@param spec? llm.OptionSpec
---@return table<string, any>
function llm.options(argv, spec) end

---Ends the script.
---@param code? integer exit code (0)
---@param message? string to stderr
function llm.exit(code, message) end

---f(...), or the end of the script with the message alone and exit code 1.
---@generic T
---@param f fun(...): T
---@return T
function llm.try(f, ...) end

---The number of this worker of a server (1 without --workers), and how many there are.
---@return integer number, integer n
function llm.worker() end


---@return string # such as "0.1.0"
function llm.version() end

---@return number # seconds of a clock that only goes forward
function llm.now() end

---@param seconds number
function llm.sleep(seconds) end

---@class llm.Progress
---@field update fun(self: llm.Progress, done: number, note?: string|fun(): string)
---@field finish fun(self: llm.Progress, done?: number, note?: string|fun(): string)

---A progress bar on stderr, if that is a terminal.
---@param label string
---@param total number
---@param enabled? boolean
---@return llm.Progress
function llm.progress(label, total, enabled) end

---@param threads? integer
---@return number # bytes a second read from memory
function llm.bandwidth(threads) end

---@return number? # most bytes this process ever had resident
function llm.peak_memory() end

---@param name? "stdin"|"stdout"|"stderr"
---@return boolean
function llm.isatty(name) end

---Lets scripts that come with requests call f as tools.NAME(…). Arguments and results are plain data; f may wait. Raises
---on a name that is none.
---@param name string
---@param f? fun(...): ... nil: takes the tool away
function llm.tool(name, f) end

---@class llm.json
---@field null any JSON's null
local json = {}

---Marks a table as an array: an empty one prints as [].
---@param t? table
---@return table
function json.array(t) end

---Marks a table as an object (keys are strings); order: keys that come first.
---@param t? table
---@param order? string[]
---@return table
function json.object(t, order) end

---s with U+FFFD for bytes that are not UTF-8.
---@param s string
---@return string
function json.utf8(s) end

---@param value any
---@param options? {indent?: boolean, keyorder?: string[]}
---@return string? text, string? message
function json.encode(value, options) end

---@param text string
---@param options? {null?: any}
---@return any value, string? message
function json.decode(text, options) end

---@class llm.table
local text_table = {}

---@param value any
---@return string # Lua source that reads like the value
function text_table.pretty(value) end

---@param header string[]
---@param rows (string|number)[][]
---@return string
function text_table.columns(header, rows) end

return llm
