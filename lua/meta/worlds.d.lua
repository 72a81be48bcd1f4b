---@meta llm.worlds
-- Where scripts run that are not the program's: what they see of the library. And templates.

---`llm` in the file of a policy, which runs beside the engine.
---@class llm.PolicyLibrary
---@field vocab_size integer
---@field json llm.json
---@field table llm.table
---@field graph llm.graph
local policy_library = {}

---Makes the policy of this file.
---@param name string
---@param defaults? table<string, number|boolean|string|table>
---@return llm.Policy
function policy_library.policy(name, defaults) end

---Makes the scheduler of this file, in place of a policy.
---@param functions {on_arrival?: fun(req: table), on_finish?: fun(req: table), on_preempt?: fun(list: table[]), name?: string}
---@return table
function policy_library.scheduler(functions) end

---The engine's tokenizer. Raises if the model has none.
---@return llm.Tokenizer
function policy_library.tokenizer() end

---The text of one token as it reads inside a text.
---@param id integer
---@return string
function policy_library.token_text(id) end

---@return number # seconds of a clock that only goes forward
function policy_library.now() end

---@return string
function policy_library.version() end

---The globals of a script that comes with a request (--allow-client-scripts), beside string, table, math, bit, coroutine
---and the basic functions.
---@class llm.ClientScript
---@field request {prompt?: string, messages?: table[], args: table, params: llm.SamplingParams}
---@field engine llm.ClientEngine
---@field tools table<string, fun(...): ...> what the server's script has registered with llm.tool
---@field json {encode: fun(value: any): string, decode: fun(text: string): any}
local client_script = {}

---A piece of the answer; with `stream` it is sent at once.
---@param text string
function client_script.emit(text) end

---Goes into the answer's script.output.
---@param ... any
function client_script.print(...) end

---The engine as a client's script sees it.
---@class llm.ClientEngine
local ClientEngine = {}

---@param prompts llm.Prompt|llm.Prompt[]
---@param params? llm.SamplingParams over the request's own
---@return llm.Output[]
function ClientEngine:generate(prompts, params) end

---@param messages {role: string, content: string}[]
---@param params? llm.SamplingParams
---@return llm.Output
function ClientEngine:chat(messages, params) end

---@param prompt llm.Prompt
---@param params? llm.SamplingParams
---@return fun(): llm.Delta?
function ClientEngine:stream(prompt, params) end

---@param text string
---@return integer[]
function ClientEngine:tokenize(text) end

---@param ids integer[]
---@return string
function ClientEngine:detokenize(ids) end

---@return llm.Info
function ClientEngine:info() end

---require "llm.template": chat templates, as transformers' apply_chat_template makes them (docs/templates.md).
---@class llm.template
---@field none any a template's None
local template = {}

---Renders a chat template.
---@param source string
---@param options table messages (required), tools, documents, add_generation_prompt, continue_final_message, bos_token and any other variables of the template
---@param limits? {max_steps?: integer, max_output?: integer, now?: number}
---@return string? text, string? message, table? failure
function template.render(source, options, limits) end

---Parses a template without running it.
---@param source string
function template.compile(source, ...) end

---Parses JSON into values of templates: the order of keys stays, and the difference of 1 and 1.0.
---@param text string
---@return any value, string? message
function template.from_json(text) end

---A plain Lua value as a template's.
---@param value any
---@return any
function template.from_lua(value) end

---The member `key` of an object, or the item at position `key` of a list; nil when absent or null.
---@param value any
---@param key string|integer
---@return any
function template.get(value, key) end
