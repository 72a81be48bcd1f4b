---@meta llm.scheduler
-- What a scheduler's file sees (docs/scheduling.md).

---@class llm
local llm = {}

---A request that has come. on_arrival may change tenant, priority, weight, timeout and isolate.
---@class llm.Arrival
---@field id integer
---@field tenant? string
---@field priority integer lower runs sooner
---@field weight number of its tenant's share
---@field timeout? number seconds from its submission
---@field isolate boolean share cached prefixes within the tenant only
---@field cache_salt? string
---@field n_prompt integer
---@field n integer sequences
---@field max_tokens integer
---@field state table the script's own
---@field engine {running: integer, waiting: integer, blocks: integer, blocks_used: integer}
---@field finish_reason? "stop"|"length"|"abort"|"error" in on_finish
---@field n_output? integer in on_finish: tokens of all sequences
local Arrival = {}

---Ids of the prompt's first n tokens (all). In on_arrival only.
---@param n? integer
---@return integer[]
function Arrival:tokens(n) end

---@class llm.Victim
---@field id integer
---@field index integer
---@field priority integer
---@field tenant? string
---@field n_prompt integer
---@field n_output integer
---@field n_preemptions integer
---@field req? llm.Arrival if it came under this scheduler

---@class llm.Scheduler
---@field name? string
---@field on_arrival? fun(req: llm.Arrival): integer|false|nil, string? nothing; or a status (400 to 599) and a message, with which it is refused
---@field on_finish? fun(req: llm.Arrival) once for each request that has come, refused ones too
---@field on_preempt? fun(list: llm.Victim[]): llm.Victim|integer|nil who is to wait again, memory being short; nil: the last of the list
---@field test? fun(try: fun(fields: table): (integer?, string|function, llm.Arrival)) run when the file is loaded

---@class llm.Engine
local Engine = {}

---Loads the engine's scheduler: a file, or a name and its Lua text. The one before goes on if it does not load.
---@param source string
---@param text? string
---@param options? {deadline?: number, load_seconds?: number}
---@return string name, integer generation
function Engine:load_scheduler(source, text, options) end

---Keeps a beginning of prompts in the prefix cache, computing it first. All pins hold a quarter of the blocks at most.
---@param prompt string|integer[]
---@param options? {seconds?: number, cache_salt?: string}
---@return integer? id, integer|string tokens or a message
function Engine:pin(prompt, options) end

---@param id integer
---@return true? ok, string? message
function Engine:unpin(id) end

---Forgets what is cached of prompts with this beginning.
---@param prompt string|integer[]
---@param options? {cache_salt?: string}
---@return true? ok, string? message
function Engine:evict(prompt, options) end

---Requests are scheduled without a script again.
function Engine:remove_scheduler() end

---In a scheduler's file: makes it.
---@param functions llm.Scheduler
function llm.scheduler(functions) end
