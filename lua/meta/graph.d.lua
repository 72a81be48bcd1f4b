---@meta llm.graph
-- Types of graphs (docs/graph.md), automata over tokens, and detectors of watermarks.

---A value of a graph while it is traced (docs/graph.md): a row, a mask, a number, a truth value, …
---@class llm.graph.Value
---@operator add(llm.graph.Value|number): llm.graph.Value
---@operator sub(llm.graph.Value|number): llm.graph.Value
---@operator mul(llm.graph.Value|number): llm.graph.Value
---@operator div(llm.graph.Value|number): llm.graph.Value
---@operator mod(llm.graph.Value|number): llm.graph.Value
---@operator pow(llm.graph.Value|number): llm.graph.Value
---@operator unm: llm.graph.Value

---require "llm.graph": graphs without an engine.
---@class llm.graph
local Graph = {}

---The text of the graph of a function, and the defaults of its lists, pairs and automata. Raises with the line that is wrong.
---@param f fun(g: table, logits: llm.graph.Value, p: table): llm.graph.Value
---@param defaults? table<string, any> the parameters
---@param ranges? table<string, number[]> { least, most } of numbers
---@return string text
---@return table<string, table> tables
function Graph.trace(f, defaults, ranges) end

---One sequence under a graph, for trying it out on rows of vocab_size numbers.
---@param f fun(g: table, logits: llm.graph.Value, p: table): llm.graph.Value
---@param defaults? table<string, any>
---@param vocab_size integer
---@param ranges? table<string, number[]>
---@return llm.graph.Sequence
function Graph.sequence(f, defaults, vocab_size, ranges) end

---What a policy's file makes: name, defaults, hooks, and the text of its graph.
---@param path string
---@param library? table what llm has in the file besides llm.policy
---@return table
function Graph.load(path, library) end

---The number that g.hash(…) has, or g.token_hash(…) for a token: uniform in (0, 1).
---@param key number[] one to six
---@param token? integer
---@return number
function Graph.hash(key, token) end

---A default for a parameter that gives numbers to some tokens.
---@param map table<integer, number>
---@return table
function Graph.pairs(map) end

---Marks the tables of an automaton (llm.automaton makes them) as a parameter.
---@param tables table
---@return table
function Graph.automaton(tables) end

---@param value any
---@return boolean
function Graph.is_automaton(value) end

---@param value any
---@return boolean
function Graph.is_pairs(value) end

---@class llm.graph.Sequence
local Sequence = {}

---A row, a token, or nil and a message.
---@param call {logits: number[], prompt?: integer[], output?: integer[], seed?: integer, stream?: integer, temperature?: number, top_k?: integer, top_p?: number, min_p?: number}
---@return number[]|integer|nil
---@return string?
function Sequence:run(call) end

---Sets a parameter. True, or nil and a message.
---@param name string
---@param value any
---@return true?
---@return string?
function Sequence:set(name, value) end

---The value of a variable of g.state.
---@param name string
---@return number|number[]|nil
function Sequence:variable(name) end

---The graph's text; the CPU's passes.
---@return string
function Sequence:dump() end
---@return string
function Sequence:explain() end

---Seconds a run, over so many.
---@param call table as of run
---@param times integer
---@return number
function Sequence:time(call, times) end

---require "llm.automaton": automata over tokens, for g.accepts and g.step.
---@class llm.automaton
local Automaton = {}

---The tokens of a tokenizer, once for all patterns.
---@param tokenizer llm.Tokenizer
---@param vocab_size? integer of the model, if it has more rows than the tokenizer has tokens
---@return table tree
function Automaton.vocabulary(tokenizer, vocab_size) end

---The same of any list of tokens.
---@param vocab_size integer
---@param bytes fun(id: integer): string? nil for control tokens
---@param ends integer[] ids that end a text
---@return table tree
function Automaton.tree(vocab_size, bytes, ends) end

---Texts that match the whole pattern; a default for a parameter of a graph. Raises if the pattern is wrong.
---@param pattern string
---@param tree table
---@return table automaton
function Automaton.regex(pattern, tree) end

---@param pattern string
---@param text string
---@return boolean
function Automaton.matches(pattern, text) end

---require "llm.watermark": z-scores of token lists.
---@class llm.watermark
local Watermark = {}

---@param ids integer[]
---@param options {key: number, first?: integer}
---@return number
function Watermark.gumbel(ids, options) end

---@param ids integer[]
---@param options {key: number, gamma?: number, first?: integer}
---@return number
function Watermark.green_list(ids, options) end

---Functions of values while a graph is traced: rows (a number for each token), masks, numbers, truth values.
---@class llm.graph.Functions
---@field request {temperature: llm.graph.Value, top_k: llm.graph.Value, top_p: llm.graph.Value, min_p: llm.graph.Value} what the request asked for
local g = {}

---Element by element, of a row or a number.
---@return llm.graph.Value
function g.abs(x) end

---Element by element, of a row or a number.
---@return llm.graph.Value
function g.exp(x) end

---Element by element, of a row or a number.
---@return llm.graph.Value
function g.log(x) end

---Element by element, of a row or a number.
---@return llm.graph.Value
function g.tanh(x) end

---Element by element, of a row or a number.
---@return llm.graph.Value
function g.sqrt(x) end

---Element by element, of a row or a number.
---@return llm.graph.Value
function g.floor(x) end

---Element by element, of a row or a number.
---@return llm.graph.Value
function g.ceil(x) end

---Element by element, of a row or a number.
---@return llm.graph.Value
function g.round(x) end

---x ^ y; on rows exp(y log x).
---@return llm.graph.Value
function g.pow(x, y) end

---The smaller; of one row its smallest element.
---@return llm.graph.Value
function g.min(x, ...) end

---The larger; of one row its largest element.
---@return llm.graph.Value
function g.max(x, ...) end

---x, at least low and at most high.
---@return llm.graph.Value
function g.clamp(x, low, high) end

---x < y: a mask, or of numbers a truth value.
---@return llm.graph.Value
function g.lt(x, y) end

---x <= y: a mask, or of numbers a truth value.
---@return llm.graph.Value
function g.le(x, y) end

---x > y: a mask, or of numbers a truth value.
---@return llm.graph.Value
function g.gt(x, y) end

---x >= y: a mask, or of numbers a truth value.
---@return llm.graph.Value
function g.ge(x, y) end

---x == y: a mask, or of numbers a truth value.
---@return llm.graph.Value
function g.eq(x, y) end

---x ~= y: a mask, or of numbers a truth value.
---@return llm.graph.Value
function g.ne(x, y) end

---And, of masks or truth values.
---@return llm.graph.Value
function g.land(m, ...) end

---Or, of masks or truth values.
---@return llm.graph.Value
function g.lor(m, ...) end

---Not.
---@return llm.graph.Value
function g.lnot(m) end

---x where m holds, y elsewhere.
---@return llm.graph.Value
function g.where(m, x, y) end

---The row, -inf where m does not hold.
---@return llm.graph.Value
function g.mask(row, m) end

---The sum of a row.
---@return llm.graph.Value
function g.sum(row) end

---The mean of a row.
---@return llm.graph.Value
function g.mean(row) end

---The variance of a row.
---@return llm.graph.Value
function g.variance(row) end

---The token with the largest element, the lowest id among equals.
---@return llm.graph.Value
function g.argmax(row) end

---The same as argmax.
---@return llm.graph.Value
function g.greedy(row) end

---The token with the smallest element.
---@return llm.graph.Value
function g.argmin(row) end

---log of the sum of exp, of a row.
---@return llm.graph.Value
function g.logsumexp(row) end

---Of softmax(row), in nats.
---@return llm.graph.Value
function g.entropy(row) end

---How many tokens a mask has.
---@return llm.graph.Value
function g.count(m) end

---Does the mask have a token?
---@return llm.graph.Value
function g.any(m) end

---Does it have all?
---@return llm.graph.Value
function g.all(m) end

---One element; NaN if there is no such token.
---@return llm.graph.Value
function g.gather(row, id) end

---1: no element is larger.
---@return llm.graph.Value
function g.rank(row, id) end

---The k-th largest element.
---@return llm.graph.Value
function g.kth(row, k) end

---The largest v such that the weights of the tokens with element >= v sum to at least p of all.
---@return llm.graph.Value
function g.quantile(row, weights, p) end

---Probabilities.
---@return llm.graph.Value
function g.softmax(row) end

---Their logarithms.
---@return llm.graph.Value
function g.log_softmax(row) end

---exp(row - max).
---@return llm.graph.Value
function g.weights(row) end

---The row, -inf where a token is not among the k likeliest.
---@return llm.graph.Value
function g.top_k(row, k) end

---The row, -inf outside of the likeliest tokens that have probability p together.
---@return llm.graph.Value
function g.top_p(row, p) end

---The row, -inf where a token is less likely than p times the likeliest.
---@return llm.graph.Value
function g.min_p(row, p) end

---Draws a token from softmax(row).
---@return llm.graph.Value
function g.sample(row) end

---Draws a token with probability weight / sum.
---@return llm.graph.Value
function g.draw(weights) end

---What the engine does with the request's temperature, top_k, top_p and min_p.
---@return llm.graph.Value
function g.default(row) end

---Uniform in (0, 1).
---@return llm.graph.Value
function g.random() end

---The same for each token.
---@return llm.graph.Value
function g.random_row() end

---A row of Gumbel noise.
---@return llm.graph.Value
function g.gumbel() end

---Uniform in (0, 1), of one to six whole numbers.
---@return llm.graph.Value
function g.hash(...) end

---A row: of the numbers and the token's id.
---@return llm.graph.Value
function g.token_hash(...) end

---Of the token to be chosen.
---@return llm.graph.Value
function g.position() end

---Tokens of the prompt.
---@return llm.graph.Value
function g.n_prompt() end

---Tokens of the output so far.
---@return llm.graph.Value
function g.n_output() end

---Tokens in a row.
---@return llm.graph.Value
function g.vocab() end

---A row with each token's id.
---@return llm.graph.Value
function g.tokens() end

---The i-th token from the end (1); -1 if there is none.
---@return llm.graph.Value
function g.last(i) end

---"output": how often the output has each token; "prompt": 1 for those that the prompt has.
---@return llm.graph.Value
function g.counts(region) end

---How often each token is among the last n.
---@return llm.graph.Value
function g.recent(n) end

---vLLM's penalties: { repetition, frequency, presence }.
---@return llm.graph.Value
function g.penalize(row, options) end

---For each token, the length of the longest end of the text that occurred before followed by that token: { max, window, breakers }.
---@return llm.graph.Value
function g.repeats(options) end

---A mask of a list of ids.
---@return llm.graph.Value
function g.set(list) end

---A row of the pairs' numbers, 0 elsewhere.
---@return llm.graph.Value
function g.scatter(pairs) end

---Declares variables of the sequence with their first values; reading gives the newest value, assigning makes the next token's.
---@return llm.graph.Value
function g.state(variables) end

---An element of an array, from 1.
---@return llm.graph.Value
function g.at(array, i) end

---A new array with x at i.
---@return llm.graph.Value
function g.put(array, i, x) end

---A new array with x at the end; the first drops out.
---@return llm.graph.Value
function g.push(array, x) end

---A mask of the tokens that a state allows.
---@return llm.graph.Value
function g.accepts(automaton, state) end

---The state after a token; -1 if it was refused.
---@return llm.graph.Value
function g.step(automaton, state, token) end
