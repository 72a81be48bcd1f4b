-- Chat templates of real models against jinja2 in transformers' environment (golden/templates/make_templates.py).
-- The templates are fetched by scripts/dev/fetch-vocabs.sh into models/vocabs/; what is not there is skipped.

local support = require "support"
local template = require "llm.template"

local golden = support.root .. "/tests/golden/templates/"
local vocabs = os.getenv("LLMLUA_VOCABS") or support.root .. "/models/vocabs"

-- make_templates.py's digest: length and two polynomial hashes.
local function digest(text)
  local a, b = 7, 11
  for i = 1, #text do
    local byte = text:byte(i)
    a = (a * 257 + byte) % 2147483647
    b = (b * 263 + byte) % 4294967291
  end
  return ("%d:%08x%08x"):format(#text, a, b)
end

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read("*a")
  file:close()
  return text
end

-- The chat template in a GGUF file: a string value of the header, found by its key with its length and type (8).
local function gguf_template(path)
  local data = read(path)
  local _, at = (data or ""):find("\23\0\0\0\0\0\0\0tokenizer.chat_template\8\0\0\0", 1, true)
  if not at then return nil end
  local a, b, c = data:byte(at + 1, at + 3) -- the length, little-endian, in 8 bytes
  return data:sub(at + 9, at + 8 + a + b * 256 + c * 65536)
end

local function source_of(name)
  if name:find("%.gguf$") then
    return gguf_template(vocabs .. "/" .. name) or gguf_template(support.root .. "/models/" .. name)
  end
  return read(vocabs .. "/templates/" .. name)
end

local cases = assert(template.from_json(support.slurp(golden .. "conversations.json")))
local expected = assert(template.from_json(support.slurp(golden .. "expected.json")))
local now = os.time { year = 2024, month = 7, day = 4, hour = 13, min = 5, sec = 9 }

-- What of a case is compared: the digest of the text, or the error.
local function outcome(source, case)
  local options = {}
  for i = 1, case.n do
    local name = case.keys[i]
    if name ~= "name" then options[name] = case.map[name] end
  end
  local text, message, err = template.render(source, options, { now = now })
  if text then return digest(text), text end
  return { error = err and err.type or "ValueError", message = message }
end

local function same(wanted, got)
  if type(wanted) == "string" or type(got) == "string" then return wanted == got end
  local w = wanted.map
  return w.error == got.error and (w.message == got.message or (w.digest ~= nil and w.digest == digest(got.message)))
end

local function describe_outcome(o)
  if type(o) == "string" then return o end
  local t = o.map or o
  return t.error .. ": " .. (t.message or t.digest)
end

describe("chat templates", function()
  for i = 1, expected.n do
    local name = expected.keys[i]
    it("renders " .. name .. " as jinja2 does", function()
      local source = source_of(name)
      if not source then
        pending("no template in " .. vocabs)
        return
      end
      local results = expected.map[name]
      assert.equal(cases.n, results.n)
      for c = 1, cases.n do
        local got = outcome(source, cases[c])
        if not same(results[c], got) then
          error(("%s: %s instead of %s"):format(cases[c].map.name, describe_outcome(got), describe_outcome(results[c])))
        end
      end
    end)
  end
end)

describe("llm.template", function()
  local SOURCE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{{ '|' if add_generation_prompt }}"

  it("takes plain Lua values", function()
    local text = template.render(SOURCE .. "{{ extra }}{{ list }}", {
      messages = { { role = "user", content = "hi" } }, add_generation_prompt = true, extra = { b = 1, a = { 1.5 } },
      list = { "x", true },
    })
    assert.equal("<user>hi|{'a': [1.5], 'b': 1}['x', True]", text)
  end)

  it("keeps dkjson's key order and its empty objects", function()
    local ordered = setmetatable({ z = 1, a = 2 }, { __jsonorder = { "z", "a" } })
    local text = template.render("{{ x|tojson }}{{ y|tojson }}", {
      messages = {}, x = ordered, y = setmetatable({}, { __jsontype = "object" }),
    })
    assert.equal('{"z": 1, "a": 2}{}', text)
  end)

  it("reads JSON without losing order, integers or depth limits", function()
    local source = '{"z":[1,1.0,-0.5e3,12345678901234567890,"\\u00e9\\ud83d\\ude00\\n"],"a":{"c":null,"b":true}}'
    local v = assert(template.from_json(source))
    assert.equal('{"z": [1, 1.0, -500.0, 12345678901234567890, "é😀\\n"], "a": {"c": null, "b": true}}',
      (template.render("{{ v|tojson }}", { messages = {}, v = v })))
    for _, bad in ipairs { "", "{", "[1,]", '{"a":1,}', "01", "nul", '"\1"', '"\\x"', "1 2", ("["):rep(200) } do
      local result, message = template.from_json(bad)
      assert.is_nil(result)
      assert.matches("invalid JSON at byte", message)
    end
  end)

  it("reads JSON in C as in Lua", function()
    local core, name = require "llm.core", "llm.jinja.json"
    local fast, in_string, in_list = require(name), core.json_string, core.json_integers
    core.json_string, core.json_integers = function() end, function() end
    package.loaded[name] = nil
    local slow = require(name)
    core.json_string, core.json_integers, package.loaded[name] = in_string, in_list, fast

    local pieces = { '"', "\\", "\\u", "\\u00e9", "\\ud83d", "\\ude00", "\\uD83D\\uDE00", "\\n", "\\x", "a", "é", "\127",
      "\1", "[", "]", ",", "1", "0", "12", "-1", "1.5", " ", "\n", "{", "}", ":", "null", "true", '"k"', "\\u0000", "\0",
      "1234567890123456", "999999999999999", "\\/", '\\"' }
    local state, n_read = 7, 0
    local function random(n)
      state = (state * 1103515245 + 12345) % 2 ^ 31
      return math.floor(state / 65536) % n + 1
    end
    for _ = 1, 20000 do
      local parts = {}
      for i = 1, random(9) do parts[i] = pieces[random(#pieces)] end
      local text = table.concat(parts)
      local shape = random(3)
      text = shape == 1 and '"' .. text .. '"' or shape == 2 and "[" .. text .. "]" or text
      local value, message = fast.decode(text)
      local same, same_message = slow.decode(text)
      assert.equal(same_message, message, text)
      assert.same(same, value, text)
      if value ~= nil then n_read = n_read + 1 end
    end
    assert.is_true(n_read > 1000)
  end)

  it("takes limits apart from the template's variables", function()
    local source = "{% for i in range(100) %}{% endfor %}{{ max_steps }}"
    assert.equal("50", (template.render(source, { messages = {}, max_steps = 50 })))
    local text, message = template.render(source, { messages = {} }, { max_steps = 50 })
    assert.is_nil(text)
    assert.matches("too many steps", message)
  end)

  it("does not take a client's table for a value of its own", function()
    local text = template.render("{{ v.kind }}{{ v.s }}", { messages = {}, v = { kind = "markup", s = "x", n = 1 } })
    assert.equal("markupx", text)
  end)

  it("answers errors with the message and the line", function()
    local text, message, err = template.render("a\n{{ raise_exception('no ' ~ messages[0].role) }}",
      { messages = { { role = "x" } } })
    assert.is_nil(text)
    assert.equal("no x", message)
    assert.same({ "TemplateError", 2 }, { err.type, err.line })
    text, message = template.render(SOURCE, { messages = "x" })
    assert.is_nil(text)
    assert.equal("messages must be a list", message)
  end)
end)
