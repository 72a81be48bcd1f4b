-- Automata over tokens, for graphs: a regular expression becomes a deterministic automaton over bytes, and that one over
-- the tokens of a vocabulary. Built at load, run by g.accepts and g.step.
--
--   local automaton = require "llm.automaton"
--   local vocab = automaton.vocabulary(tokenizer)             -- once a tokenizer
--   local dates = automaton.regex("\\d{4}-\\d\\d-\\d\\d", vocab)

local ffi = require "ffi"
local graph = require "llm.graph"
local regex = require "llm.automaton.regex"

local M = {}

local MAX_STATES = 4096

-- ---- over bytes ----------------------------------------------------------------------------------------------------

local function closure(nfa, set)
  local stack = {}
  for state in pairs(set) do stack[#stack + 1] = state end
  while #stack > 0 do
    for _, target in ipairs(nfa.empty[table.remove(stack)]) do
      if not set[target] then
        set[target] = true
        stack[#stack + 1] = target
      end
    end
  end
  return set
end

local function key_of(set)
  local list = {}
  for state in pairs(set) do list[#list + 1] = state end
  table.sort(list)
  return table.concat(list, ",")
end

-- Bytes that no range tells apart are one symbol. Returns byte -> symbol (from 1), the number, and a byte of each.
local function symbols_of(nfa)
  local cut = { [0] = true }
  for _, ranges in ipairs(nfa.ranges) do
    for _, range in ipairs(ranges) do cut[range[1]], cut[range[2] + 1] = true, true end
  end
  local of, n, example = {}, 0, {}
  for byte = 0, 255 do
    if cut[byte] then
      n = n + 1
      example[n] = byte
    end
    of[byte] = n
  end
  return of, n, example
end

-- Subset construction: states from 1, next[state][symbol] (nil: none), accepting[state].
local function determinize(nfa)
  local symbol_of, n_symbols, example = symbols_of(nfa)
  local first = closure(nfa, { [nfa.start] = true })
  local sets, ids, next, accepting = { first }, { [key_of(first)] = 1 }, {}, {}
  local at = 1
  while at <= #sets do
    local set = sets[at]
    accepting[at] = set[nfa.accept] or false
    next[at] = {}
    for symbol = 1, n_symbols do
      local targets, any = {}, false
      for state in pairs(set) do
        for _, range in ipairs(nfa.ranges[state]) do
          if range[1] <= example[symbol] and example[symbol] <= range[2] then targets[range[3]], any = true, true end
        end
      end
      if any then
        closure(nfa, targets)
        local key = key_of(targets)
        if not ids[key] then
          sets[#sets + 1] = targets
          ids[key] = #sets
          if #sets > MAX_STATES then return nil, ("needs more than %d states"):format(MAX_STATES) end
        end
        next[at][symbol] = ids[key]
      end
    end
    at = at + 1
  end
  return { n = #sets, next = next, accepting = accepting, symbol_of = symbol_of, n_symbols = n_symbols }
end

-- Moore's: states are told apart by what they accept, then by where they lead, until nothing changes.
local function minimize(dfa)
  local group, n_groups = {}, 0
  for state = 1, dfa.n do group[state] = dfa.accepting[state] and 2 or 1 end
  while true do
    local ids, refined, n = {}, {}, 0
    for state = 1, dfa.n do
      local words = { group[state] }
      for symbol = 1, dfa.n_symbols do
        local target = dfa.next[state][symbol]
        words[symbol + 1] = target and group[target] or 0
      end
      local key = table.concat(words, ",")
      if not ids[key] then
        n = n + 1
        ids[key] = n
      end
      refined[state] = ids[key]
    end
    group = refined
    if n == n_groups then break end
    n_groups = n
  end
  local small = { n = n_groups, next = {}, accepting = {}, symbol_of = dfa.symbol_of, n_symbols = dfa.n_symbols }
  for state = 1, dfa.n do -- the first state is numbered first
    local g = group[state]
    if not small.next[g] then
      small.next[g], small.accepting[g] = {}, dfa.accepting[state]
      for symbol, target in pairs(dfa.next[state]) do small.next[g][symbol] = group[target] end
    end
  end
  return small
end

-- Takes out transitions to states from which no text is accepted.
local function prune(dfa)
  local sources, alive, stack = {}, {}, {}
  for state = 1, dfa.n do
    for _, target in pairs(dfa.next[state]) do
      sources[target] = sources[target] or {}
      table.insert(sources[target], state)
    end
    if dfa.accepting[state] then
      alive[state] = true
      stack[#stack + 1] = state
    end
  end
  while #stack > 0 do
    for _, state in ipairs(sources[table.remove(stack)] or {}) do
      if not alive[state] then
        alive[state] = true
        stack[#stack + 1] = state
      end
    end
  end
  for state = 1, dfa.n do
    for symbol, target in pairs(dfa.next[state]) do
      if not alive[target] then dfa.next[state][symbol] = nil end
    end
  end
  return alive[1] and dfa or nil
end

local function bytes_of_regex(pattern)
  local nfa, message = regex.parse(pattern)
  if not nfa then return nil, message end
  local dfa, why = determinize(nfa)
  if not dfa then return nil, ("the pattern %q %s"):format(pattern, why) end
  dfa = prune(minimize(dfa))
  if not dfa then return nil, ("the pattern %q matches nothing"):format(pattern) end
  return dfa
end

-- ---- over tokens ---------------------------------------------------------------------------------------------------

-- The tokens' bytes as a tree, so that an automaton walks common beginnings once. bytes: function from id to the bytes of
-- a token, nil for control tokens; ends: ids that end a text. The last vocab_size - n ids that have no token are refused.
function M.tree(vocab_size, bytes, ends)
  local child, n = {}, 0 -- node * 256 + byte -> node; the root is 0
  local first_token, next_token = {}, ffi.new("int32_t[?]", vocab_size)
  for id = 0, vocab_size - 1 do
    local text = bytes(id)
    local node = 0
    for i = 1, text and #text or 0 do
      local key = node * 256 + text:byte(i)
      local target = child[key]
      if not target then
        n = n + 1
        target = n
        child[key] = target
      end
      node = target
    end
    if node > 0 then
      next_token[id] = first_token[node] or -1
      first_token[node] = id
    end
  end
  local tree = {
    vocab_size = vocab_size, bytes = bytes, ends = ends, next_token = next_token,
    down = ffi.new("int32_t[?]", n + 1), across = ffi.new("int32_t[?]", n + 1),
    byte = ffi.new("uint8_t[?]", n + 1), token = ffi.new("int32_t[?]", n + 1),
  }
  ffi.fill(tree.down, 4 * (n + 1), 0xff)
  ffi.fill(tree.token, 4 * (n + 1), 0xff)
  for key, target in pairs(child) do
    local parent = math.floor(key / 256)
    tree.across[target], tree.down[parent] = tree.down[parent], target
    tree.byte[target] = key % 256
  end
  for node, token in pairs(first_token) do tree.token[node] = token end
  return tree
end

-- The tree of a tokenizer (llm.tokenizer, engine:tokenizer()); vocab_size: of the model, if it has more rows than tokens.
function M.vocabulary(tokenizer, vocab_size)
  local n = tokenizer:info().vocab_size
  local function bytes(id)
    if id < n then return tokenizer:token_bytes(id) end
  end
  return M.tree(vocab_size or n, bytes, tokenizer:end_tokens())
end

-- Transitions as an array: state * 256 + byte -> state, both from 0; -1: none.
local function flat(dfa)
  local next = ffi.new("int32_t[?]", dfa.n * 256)
  for state = 1, dfa.n do
    for byte = 0, 255 do
      next[(state - 1) * 256 + byte] = (dfa.next[state][dfa.symbol_of[byte]] or 0) - 1
    end
  end
  return next
end

-- Calls seen(token, target) for each token that the state allows.
local function walk(tree, next, state, seen)
  local nodes, states, top = { tree.down[0] }, { state }, 1
  while top > 0 do
    local node, at = nodes[top], states[top]
    if node < 0 then
      top = top - 1
    else
      nodes[top] = tree.across[node]
      local target = next[at * 256 + tree.byte[node]]
      if target >= 0 then
        local token = tree.token[node]
        while token >= 0 do
          seen(token, target)
          token = tree.next_token[token]
        end
        top = top + 1
        nodes[top], states[top] = tree.down[node], target
      end
    end
  end
end

-- Tokens that no state tells apart are one class: classes are split by where each state leads their tokens.
local function classify(tree, next, n_states)
  local class_of, n_classes = ffi.new("int32_t[?]", tree.vocab_size), 1
  for state = 0, n_states - 1 do
    local parts = {} -- class * n_states + target -> new class
    walk(tree, next, state, function(token, target)
      local key = class_of[token] * n_states + target
      local part = parts[key]
      if not part then
        part = n_classes
        n_classes = n_classes + 1
        parts[key] = part
      end
      class_of[token] = part
    end)
  end
  return class_of, n_classes
end

-- Numbers classes without gaps, in order of the first token; returns also a token of each.
local function renumber(class_of, vocab_size)
  local ids, n, example = {}, 0, {}
  for token = 0, vocab_size - 1 do
    local old = class_of[token]
    if not ids[old] then
      ids[old], example[n] = n, token
      n = n + 1
    end
    class_of[token] = ids[old]
  end
  return n, example
end

local function after(next, state, text)
  for i = 1, #text do
    state = next[state * 256 + text:byte(i)]
    if state < 0 then return -1 end
  end
  return state
end

-- Ends of text lead from accepting states to one more, where only they are allowed.
local function tables(dfa, tree)
  local next = flat(dfa)
  local class_of, n_classes = classify(tree, next, dfa.n)
  for _, token in ipairs(tree.ends) do
    if token < tree.vocab_size then class_of[token] = n_classes end
  end
  local example
  n_classes, example = renumber(class_of, tree.vocab_size)
  local n_states, is_end = dfa.n + 1, {}
  for _, token in ipairs(tree.ends) do is_end[token] = true end
  local out = ffi.new("int32_t[?]", n_states * n_classes)
  for class = 0, n_classes - 1 do
    local ends = is_end[example[class]]
    local text = not ends and tree.bytes(example[class]) or ""
    for state = 0, dfa.n - 1 do
      local target = -1
      if ends then target = dfa.accepting[state + 1] and dfa.n or -1 elseif text ~= "" then target = after(next, state, text) end
      out[state * n_classes + class] = target
    end
    out[dfa.n * n_classes + class] = ends and dfa.n or -1
  end
  return graph.automaton{
    vocab_size = tree.vocab_size, n_states = n_states, n_classes = n_classes,
    class_of = ffi.string(class_of, 4 * tree.vocab_size), next = ffi.string(out, 4 * n_states * n_classes),
  }
end

-- The automaton of texts that match the whole pattern, followed by an end of text: a default for a parameter of a graph.
-- Raises if the pattern is wrong.
function M.regex(pattern, tree)
  local dfa, message = bytes_of_regex(pattern)
  if not dfa then error(message, 2) end
  return tables(dfa, tree)
end

-- Does the text match the whole pattern? For tests, and checking a pattern.
function M.matches(pattern, text)
  local dfa, message = bytes_of_regex(pattern)
  if not dfa then error(message, 2) end
  local state = after(flat(dfa), 0, text)
  return state >= 0 and dfa.accepting[state + 1]
end

return M
