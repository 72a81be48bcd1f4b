-- How fast chat templates compile and render, beside jinja2 in the same run.
--
--   luajit tests/bench_templates.lua TEMPLATES_DIR [PYTHON]
--
-- PYTHON is an interpreter that has transformers. Each template renders a chat of 20 turns with tools; times are
-- medians. A template that refuses that chat is left out.

local root = arg[0]:match("^(.*)/tests/[^/]*$") or "."
package.path = root .. "/lua/?.lua;" .. package.path

local jinja = require "llm.jinja"
local template = require "llm.template"

local directory, python = arg[1], arg[2]
if not directory then
  io.stderr:write("usage: luajit tests/bench_templates.lua TEMPLATES_DIR [PYTHON]\n")
  os.exit(2)
end

local PEER = [[
import json, statistics, sys, time
from transformers.utils import chat_template_utils as utils
def median(f, n):
    times = []
    for _ in range(n):
        start = time.perf_counter(); f(); times.append(time.perf_counter() - start)
    return statistics.median(times) * 1e6
for path in sys.argv[2:]:
    source, context = open(path).read(), json.load(open(sys.argv[1]))
    compile = lambda: utils._cached_compile_jinja_template(source)
    t = compile()
    try: t.render(**context)
    except Exception: print(path, 0, 0); continue
    print(path, median(compile, 5), median(lambda: t.render(**context), 30), flush=True)
]]

local function conversation()
  local messages = { '{"role": "system", "content": "You are a helpful assistant."}' }
  for i = 1, 10 do
    messages[#messages + 1] = ('{"role": "user", "content": "Question %d: what is the weather in Zürich?"}'):format(i)
    messages[#messages + 1] = ('{"role": "assistant", "content": "Answer %d. It is \\"sunny\\" & 21 degrees."}'):format(i)
  end
  messages[#messages + 1] = '{"role": "user", "content": "Thanks!"}'
  local tool = '{"type": "function", "function": {"name": "get_weather", "description": "Weather of a city", '
    .. '"parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "City"}, '
    .. '"days": {"type": "integer", "description": "Days"}}, "required": ["city"]}}}'
  return ('{"messages": [%s], "tools": [%s], "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>"}')
    :format(table.concat(messages, ", "), tool)
end

-- Microseconds of processor time of one call, the median of `rounds` batches.
local function median(rounds, batch, f)
  local times = {}
  for i = 1, rounds do
    local start = os.clock()
    for _ = 1, batch do f() end
    times[i] = (os.clock() - start) / batch * 1e6
  end
  table.sort(times)
  return times[math.ceil(rounds / 2)]
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("*a")
  file:close()
  return text
end

local function quoted(s)
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

local paths = {}
local listing = io.popen("ls -S " .. quoted(directory) .. "/*.jinja")
for path in listing:lines() do paths[#paths + 1] = path end
listing:close()

local text = conversation()
local context = assert(template.from_json(text)).map

local peer = {}
if python then
  local input, script = os.tmpname(), os.tmpname()
  for path, body in pairs { [input] = text, [script] = PEER } do
    local file = assert(io.open(path, "wb"))
    file:write(body)
    file:close()
  end
  local words = { quoted(python), quoted(script), quoted(input) }
  for _, path in ipairs(paths) do words[#words + 1] = quoted(path) end
  local pipe = io.popen(table.concat(words, " ") .. " 2>/dev/null")
  for line in pipe:lines() do
    local path, compile, render = line:match("^(.*) (%S+) (%S+)$")
    peer[path] = { compile = tonumber(compile), render = tonumber(render) }
  end
  pipe:close()
  os.remove(input)
  os.remove(script)
end

print(("%-52s %7s %12s %12s %12s %12s"):format("template", "bytes", "compile us", "render us", "jinja2", "jinja2"))
local ratios = {}
for _, path in ipairs(paths) do
  local source = read(path)
  local compiled = assert(jinja.compile(source))
  if compiled:render(context) then
    local compile = median(11, 3, function() jinja.compile_afresh(source) end)
    local render = median(15, 20, function() compiled:render(context) end)
    local other = peer[path] or {}
    print(("%-52s %7d %12.0f %12.0f %12.0f %12.0f"):format(path:match("[^/]*$"):sub(1, 52), #source, compile, render,
      other.compile or 0, other.render or 0))
    if other.render and other.render > 0 then
      ratios[#ratios + 1] = { other.compile / compile, other.render / render }
    end
  end
end
for i, what in ipairs { "compile", "render" } do
  table.sort(ratios, function(a, b) return a[i] < b[i] end)
  local middle = ratios[math.ceil(#ratios / 2)]
  if middle then
    print(("%s: %.1f times jinja2's speed (median of %d; %.1f to %.1f)"):format(what, middle[i], #ratios,
      ratios[1][i], ratios[#ratios][i]))
  end
end

-- One large template: thousands of lines with loops, conditions and expressions.
local lines = {}
for i = 1, 1000 do
  lines[#lines + 1] = ("{%% for m in messages %%}\n  {%% if m.role == 'user' and loop.index > %d %%}\n"
    .. "{{ '<|' + m['role'] + '|>' ~ m.content|trim }}\n  {%% endif %%}\n{%% endfor %%}\n"):format(i % 20)
end
local large = table.concat(lines)
print(("5,000 lines, %d bytes: compile %.1f ms"):format(#large,
  median(9, 1, function() jinja.compile_afresh(large) end) / 1000))
