---@meta llm.http
-- Types of what handlers work with: requests, responses, tasks.

---Errors that become a response, and the classes of requests and responses.
---@class llm.http
---@field Request llm.Request the methods of requests
---@field Response llm.Response the methods of responses
---@field HttpError table the metatable of what llm.http.error raises
local http = {}

---Raises an error that answers the request.
---@param status integer
---@param message string
---@param details? {type?: string, param?: string, headers?: table<string, string>}
function http.error(status, message, details) end

---Is it what llm.http.error raises?
---@param failure any
---@return boolean
function http.is_error(failure) end

---The body that every error has, as JSON.
---@param status integer
---@param message string
---@param details? {type?: string, param?: string}
---@return string
function http.error_body(status, message, details) end

---The request of an exchange of the transport.
---@param exchange userdata
---@return llm.Request
function http.request(exchange) end

---The response of an exchange of the transport.
---@param exchange userdata
---@return llm.Response
function http.response(exchange) end

---@class llm.Request
---@field method string
---@field path string decoded
---@field query string not decoded
---@field body string
---@field params table<string, string> of the route
---@field route? string the route's path
---@field id string
---@field tls boolean
---@field ctx table for layers to leave things in
local Request = {}

---The value of a header, nil if there is none. Any case.
---@param name string
---@return string?
function Request:header(name) end

---All headers, names in lower case.
---@return table<string, string>
function Request:headers() end

---The decoded query.
---@return table<string, string>
function Request:args() end

---The body as JSON; null is llm.json.null. Answers 400 if it is none.
---@return any
function Request:json() end

---@return string # "address:port" of the client, or "unix"
function Request:peer() end

---A handler returns a text or a table, or writes. Setters return the response. When the client has left, the task ends
---where it writes; when it is slow, the task waits there.
---@class llm.Response
---@field started boolean
---@field ended boolean
local Response = {}

---Sets the status (200).
---@param code integer
---@return llm.Response self
function Response:status(code) end

---Sets a header.
---@param name string
---@param value string|string[]|nil nil removes it, a list repeats it
---@return llm.Response self
function Response:header(name, value) end

---@param name string
---@return boolean
function Response:has_header(name) end

---Sends status and headers now.
---@param length? integer bytes of the body; nil: chunks
---@return llm.Response self
function Response:start(length) end

---Sends a piece of the body.
---@param ... string
---@return llm.Response self
function Response:write(...) end

---Sends the text of tokens, a chunk of its own for each that has text: before, the text as it stands inside a JSON
---string, after.
---@param before string
---@param text string
---@param ends? integer[] where in the text each token's ends
---@param after string
---@return llm.Response self
function Response:tokens(before, text, ends, after) end

---Begins a stream of server-sent events.
---@return llm.Response self
function Response:sse() end

---Sends one server-sent event.
---@param data string without line ends of its own, such as JSON
---@return llm.Response self
function Response:event(data) end

---Sends a whole body and ends the response.
---@param body string
---@param content_type? string text/plain
function Response:send(body, content_type) end

---Sends a value as JSON and ends the response.
---@param value any
function Response:json(value) end

---Sends an error and ends the response.
---@param status integer
---@param message string
---@param details? {type?: string, param?: string, headers?: table<string, string>}
function Response:error(status, message, details) end

---Ends the response. Nothing written: no content.
function Response:finish() end

---Coroutines on the event loop, one loop a Lua state. A task that waits lets the others run.
---@class llm.task
---@field SOFT number seconds between two waits after which a task is logged
---@field HARD number seconds between two waits after which a task is stopped
---@field Canceled table the metatable of what a wait raises in a canceled task
local task = {}

---Starts f(...) as a task, which runs until its first wait before this returns.
---@param f fun(...): ...
---@param on_end? fun(task: table, ok: boolean, ...: any) gets its results or its error; without it an error ends the loop
---@param fields? table to become the task
---@return table task
function task.spawn(f, on_end, fields, ...) end

---Runs f(...) as a task and the loop until it has ended; returns its results, raises its error. In a task: calls f.
---@param f fun(...): ...
---@return any ...
function task.run(f, ...) end

---The task that runs now; nil in the main program.
---@return table?
function task.running() end

---Waits until somebody wakes this task; returns what wake was given.
---@return any ...
function task.wait() end

---Wakes a waiting task. Not for the running one.
---@param waiting table
---@param ... any
function task.wake(waiting, ...) end

---Waits so many seconds.
---@param seconds number
function task.sleep(seconds) end

---Makes the task's present and later waits raise a cancellation.
---@param other table
---@param reason? string
function task.cancel(other, reason) end

---Is it what a wait raises in a canceled task?
---@param failure any
---@return boolean
function task.is_canceled(failure) end

---Ends the running task where it stands. Does not return.
function task.leave() end

---A resource that is closed with close(resource) when the running task ends.
---@generic T
---@param resource T
---@param close fun(resource: T)
---@return T
function task.own(resource, close) end

---The resource has been closed by other means.
---@param resource any
function task.disown(resource) end

---Starts f(...) as a task that goes on whoever is canceled, and for which any number of others may wait.
---@param f fun(...): ...
---@return table job
function task.job(f, ...) end

---In a task: waits for the end of a job; returns its results, raises its error.
---@param job table
---@param lost? fun(ok: boolean, ...: any) gets its results or its error if all who waited were canceled
---@return any ...
function task.join(job, lost) end

---f(...) as a job, for which the running task waits. In the main program, or in a job: f(...).
---@param lost? fun(ok: boolean, ...: any) as of join
---@param f fun(...): ...
---@return any ...
function task.apart(lost, f, ...) end

---What the running task does from now on is this account's.
---@param account userdata
function task.account(account) end

---@return integer # how many tasks there are
function task.count() end

---The event loop of this state.
---@return userdata
function task.loop() end

---Waits until there is an event for this request of the engine.
---@param engine llm.Engine
---@param request userdata
function task.await_event(engine, request) end

---The same for any of several requests, the keys of a map.
---@param engine llm.Engine
---@param requests table<userdata, any>
function task.await_events(engine, requests) end

---Takes the events of an engine that wait, for who blocks in place of waiting.
---@param engine llm.Engine
---@return boolean # whether there were any
function task.take_events(engine) end

---require "llm.host": the C program that runs this script with llmlua_lua.h (docs/embedding.md).
---@class llm.host
local host = {}

---The engine that the program has added by this name. It is the program's to close.
---@param name string
---@return llm.Engine
function host.engine(name) end
