-- Chat templates: a conversation → the prompt text, as transformers' apply_chat_template makes it.
--
--   local template = require "llm.template"
--   local body = template.from_json(request_text)
--   local text, message, err = template.render(source, {
--     messages = template.get(body, "messages"), tools = template.get(body, "tools"),
--     add_generation_prompt = true, bos_token = "<s>", eos_token = "</s>", enable_thinking = false,
--   })

local jinja = require "llm.jinja"
local json = require "llm.jinja.json"
local unicode = require "llm.jinja.unicode"
local value = require "llm.jinja.value"

local M = {}

local none, kind_of = value.none, value.kind

M.none = none
M.compile = jinja.compile

-- Parses JSON into template values: key order and the difference of 1 and 1.0 stay. Returns nil and a message when
-- the text is not JSON.
M.from_json = json.decode

local function array_length(t)
  local n = 0
  for k in pairs(t) do
    if type(k) ~= "number" or k < 1 or k ~= math.floor(k) then return nil end
    n = n + 1
  end
  return n == #t and n or nil
end

-- A plain Lua value as a template value. Tables are lists when their keys are 1…n, else dicts with their keys in the
-- order of __jsonorder of the metatable (dkjson's), or sorted. An empty table is a list unless its metatable's
-- __jsontype is "object". Numbers without a fraction are ints. Template values pass as they are.
local function from_lua(v, depth)
  local t = type(v)
  if t == "number" then
    if v == math.floor(v) and math.abs(v) <= value.MAX_INT then return v end
    return value.float(v)
  elseif v == nil then
    return none
  elseif t == "string" or t == "boolean" then
    return v
  elseif t ~= "table" then
    return "<" .. t .. ">" -- an inert stand-in, as transformers makes of objects it does not know
  end
  if v == none or value.is_value(v) then return v end
  if depth > json.MAX_DEPTH then error("template values nest too deeply", 0) end
  local meta = getmetatable(v)
  local json_type = type(meta) == "table" and meta.__jsontype
  local n = json_type ~= "object" and array_length(v)
  if n then
    local out = {}
    for i = 1, n do out[i] = from_lua(v[i], depth + 1) end
    return value.list(out, n)
  end
  local d, seen = value.dict(), {}
  for _, k in ipairs(type(meta) == "table" and meta.__jsonorder or {}) do
    if v[k] ~= nil and not seen[k] then
      seen[k] = true
      value.dict_set(d, k, from_lua(v[k], depth + 1))
    end
  end
  local rest = {}
  for k in pairs(v) do
    if not seen[k] then rest[#rest + 1] = k end
  end
  table.sort(rest, function(a, b) return tostring(a) < tostring(b) end)
  for _, k in ipairs(rest) do value.dict_set(d, k, from_lua(v[k], depth + 1)) end
  return d
end

function M.from_lua(v)
  return from_lua(v, 0)
end

-- The member `key` of an object, or the item at position `key` (from 1) of a list; nil when absent or null.
function M.get(v, key)
  local found
  if kind_of(v) == "dict" then found = v.map[key] elseif kind_of(v) == "list" then found = v[key] end
  if found ~= none then return found end
end

local function copy_dict(d)
  local out = value.dict()
  for i = 1, d.n do value.dict_set(out, d.keys[i], value.dict_get(d, d.keys[i])) end
  return out
end

-- The names under which clients send a message's reasoning; the first is the one that templates read.
local REASONING = { "reasoning_content", "thinking", "reasoning" }

-- A message with its reasoning under reasoning_content and thinking too, whatever name it came by.
local function with_reasoning(message)
  local reasoning
  for _, name in ipairs(REASONING) do
    local v = message.map[name]
    if v ~= nil and v ~= none then
      reasoning = v
      break
    end
  end
  if reasoning == nil then return message end
  local out = value.dict()
  value.dict_set(out, "thinking", reasoning)
  for i = 1, message.n do value.dict_set(out, message.keys[i], message.map[message.keys[i]]) end
  value.dict_set(out, "reasoning_content", reasoning)
  return out
end

local TAG = "CONTINUE_FINAL_MESSAGE_TAG "

local function fail(message)
  error({ template_error = message }, 0)
end

-- Adds the tag to the last text of a list of content parts; returns the list and the text.
local function tag_parts(parts)
  for i = parts.n, 1, -1 do
    local part = parts[i]
    if kind_of(part) == "dict" and part.map.text ~= nil then
      local out = value.list({ unpack(parts, 1, parts.n) }, parts.n)
      out[i] = copy_dict(part)
      out[i].map.text = part.map.text .. TAG
      return out, part.map.text
    end
  end
  fail("continue_final_message is set but we could not find any text to continue in the final message!")
end

-- Marks the end of the final message, so that the prompt can be cut there. Returns the text it marked.
local function tag_final(messages, field, source)
  local last = messages[messages.n]
  if not last then fail("continue_final_message is set but the conversation is empty!") end
  local content = last.map[field]
  if content == nil or content == none then
    fail('continue_final_message is set but the final message has no "' .. field .. '" to continue!')
  end
  local fields = { field }
  for _, name in ipairs(REASONING) do
    if name == field then
      fields = {}
      for _, other in ipairs(REASONING) do
        if last.map[other] == content then fields[#fields + 1] = other end
      end
    end
  end
  local accepted = false
  for _, name in ipairs(fields) do accepted = accepted or source:find(name, 1, true) ~= nil end
  if not accepted then
    fail('continue_final_message is set to "' .. field
      .. '" but this is not an accepted field in the chat_template')
  end
  local tagged = copy_dict(last)
  messages[messages.n] = tagged
  if kind_of(content) == "list" then
    tagged.map[field], content = tag_parts(content)
  else
    for _, name in ipairs(fields) do tagged.map[name] = last.map[name] .. TAG end
  end
  return content
end

local function last_find(s, wanted)
  local at, from = nil, 1
  while true do
    local first = s:find(wanted, from, true)
    if not first then return at end
    at, from = first, first + 1
  end
end

-- Cuts the prompt where the final message ends.
local function cut_at_tag(text, content)
  local word = unicode.strip(TAG)
  local at = last_find(text, word)
  if not at or not text:find(unicode.strip(content), 1, true) then
    fail("continue_final_message is set but the final message does not appear in the chat after applying the chat "
      .. "template! This can happen if the chat template deletes portions of the final message. Please verify the "
      .. "chat template and final message in your chat to ensure they are compatible."
      .. "Final message to continue: " .. unicode.strip(content) .. "\nRendered chat:\n" .. text)
  end
  local head = text:sub(1, at - 1)
  if text:sub(at, at + #TAG - 1) == TAG then return head end
  return unicode.rstrip(head) -- the template strips what it is given
end

local function check_messages(messages)
  if kind_of(messages) ~= "list" then fail("messages must be a list") end
  for i = 1, messages.n do
    if kind_of(messages[i]) ~= "dict" then fail("Chat messages should be dicts") end
  end
end

-- Options of the renderer, not variables of the template.
local RESERVED = {
  messages = true, tools = true, documents = true, continue_final_message = true,
}

local function render(source, options, limits)
  local template, message, err = jinja.compile(source)
  if not template then return nil, message, err end
  local given = M.from_lua(options.messages)
  check_messages(given)
  local messages = value.list({}, given.n)
  for i = 1, given.n do messages[i] = with_reasoning(given[i]) end
  local field, content = options.continue_final_message, nil
  if field == none then field = nil end
  if field then content = tag_final(messages, type(field) == "string" and field or "content", source) end

  local context = {
    messages = messages, tools = M.from_lua(options.tools), documents = M.from_lua(options.documents),
    add_generation_prompt = false,
  }
  for name, v in pairs(options) do
    if not RESERVED[name] then context[name] = M.from_lua(v) end
  end
  local text
  text, message, err = template:render(context, limits)
  if not text then return nil, message, err end
  if field then text = cut_at_tag(text, content) end
  return text
end

-- Renders a chat template. Options: messages (required), tools, documents, add_generation_prompt,
-- continue_final_message (true, or the field to continue), bos_token and any other variables of the template. Values
-- are template values or plain Lua ones. Limits, apart so that no client's variable sets them: max_steps, max_output,
-- and now, the time that strftime_now sees.
-- Returns the text; or nil, a message, and for errors of the template { type, message, line }.
function M.render(source, options, limits)
  local results = { pcall(render, source, options, limits) }
  if results[1] then return results[2], results[3], results[4] end
  local err = results[2]
  if type(err) == "table" and err.template_error then return nil, err.template_error end
  return nil, tostring(err)
end

return M
