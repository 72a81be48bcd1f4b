-- The template language: small templates against jinja2's results, then the limits that jinja2 does not have.

local jinja = require "llm.jinja"
local json = require "llm.jinja.json"
local support = require "support"
local value = require "llm.jinja.value"

local rows = assert(json.decode(support.slurp(support.root .. "/tests/golden/templates/expressions.json")))
local vars = rows[1].map.vars.map
local now = os.time { year = 2024, month = 7, day = 4, hour = 13, min = 5, sec = 9 }

local function check(case)
  local text, message, err = jinja.render(case.template, vars, { now = now })
  if case.text then
    assert.equal(case.text, text or tostring(err), case.template)
    return
  end
  assert.is_nil(text, case.template)
  assert.equal(case.error, err.type, case.template)
  if case.message then assert.equal(case.message, message, case.template) end
  if case.line then assert.equal(case.line, err.line, case.template) end
end

describe("jinja", function()
  local kinds = { text = "renders", error = "refuses" }
  for kind, verb in pairs(kinds) do
    it(verb .. " small templates as jinja2 does", function()
      local n = 0
      for i = 2, rows.n do
        if rows[i].map[kind] then
          check(rows[i].map)
          n = n + 1
        end
      end
      assert.is_true(n > 150)
    end)
  end

  it("says in which line a template failed", function()
    local lines = {
      ["a\n\n{{ x.y }}"] = 3,
      ["{% for i in [1] %}\n\n{{ i.a.b }}\n{% endfor %}"] = 3,
      ["{% macro f(a) %}\n{{ a.b.c }}\n{% endmacro %}\n\n{{ f(1) }}"] = 2,
      ["{% if true %}\n{% elif x %}\n{% endif %}\n{% if 1 in 2 %}{% endif %}"] = 4,
    }
    for source, line in pairs(lines) do
      local text, _, err = jinja.render(source, {})
      assert.is_nil(text)
      assert.equal(line, err.line, source)
    end
  end)

  it("compiles a template once", function()
    assert.equal(jinja.compile("once {{ 1 }}"), jinja.compile("once {{ 1 }}"))
  end)
end)

describe("jinja's limits", function()
  local function refused(source, options, pattern)
    local text, message, err = jinja.render(source, {}, options)
    assert.is_nil(text, source:sub(1, 80))
    assert.equal("table", type(err))
    if pattern then assert.matches(pattern, message) end
    return err
  end

  it("stop templates that run, grow or recurse without end", function()
    local loop = "{% for a in range(99999) %}{% for b in range(99999) %}"
    local bombs = {
      loop .. "{% endfor %}{% endfor %}",
      loop .. "x{% endfor %}{% endfor %}",
      "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
      "{% set ns = namespace(s='xxxxxxxx') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
      "{% set ns = namespace(l=[1]) %}{% for i in range(99) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l == [] }}"
        .. "{{ ns.l|tojson }}",
      "{{ 'x' * 999999999999 }}", "{{ [0] * 999999999999 }}", "{{ 'a'|center(999999999999) }}",
      "{{ '%999999999d' % 1 }}", "{{ '{:999999999}'.format(1) }}", "{{ 'a'.ljust(99999999999) }}",
      "{{ 'x'.zfill(99999999999) }}", "{{ [1]|batch(99999999999, 0)|list }}", "{{ [1]|tojson(indent=99999999999) }}",
      "{% set s = 'a' * 1000000 %}{% for i in range(9999) %}{% set t = s.replace('a', 'b') %}{% endfor %}",
      "{% set s = 'a' * 1000000 %}{% for i in range(99999) %}{{ s in s }}{% endfor %}",
      "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f(x) %}{{ x() }}{% endmacro %}{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    }
    for _, source in ipairs(bombs) do refused(source) end
    refused("{% for i in range(100) %}{% endfor %}", { max_steps = 50 }, "too many steps")
    refused("{{ 'x' * 200 }}", { max_output = 100 }, "more than 100 bytes")
    assert.equal("LimitError", refused("{% for i in range(9) %}{{ 'x' * 20 }}{% endfor %}", { max_output = 100 }).type)
  end)

  it("refuse templates that nest too deeply", function()
    for _, source in ipairs {
      "{{ " .. ("("):rep(5000) .. "1" .. (")"):rep(5000) .. " }}", "{{ " .. ("["):rep(5000) .. "}}",
      "{{ " .. ("not "):rep(5000) .. "1 }}", "{{ " .. ("-"):rep(5000) .. "1 }}", "{{ x" .. (".a"):rep(5000) .. " }}",
      "{{ x" .. ("|e"):rep(5000) .. " }}", "{{ " .. ("1 if 1 else "):rep(5000) .. "1 }}",
      ("{% if 1 %}"):rep(5000), ("{% for i in [1] %}"):rep(500) .. ("{% endfor %}"):rep(500),
      "{{ " .. ("2 ** "):rep(5000) .. "1 }}", "{{ " .. ("1 - "):rep(5000) .. "1 }}",
      "{{ " .. ("a < "):rep(5000) .. "1 }}",
    } do
      refused(source)
    end
  end)

  it("do not depend on Lua's own for the size of a template", function()
    local parts, n = { "{% for i in [1, 2, 3] %}" }, 5000
    for i = 1, n do
      parts[#parts + 1] = ("{%% if i == 2 and v%d is not defined %%}{%% set v%d = i %%}{{ v%d + %d }},{%% endif %%}\n")
        :format(i, i, i, i)
    end
    parts[#parts + 1] = "{% if i == 2 %}{% break %}{% endif %}never{% endfor %}"
    local text = assert(jinja.render(table.concat(parts):gsub("never", "{{ i }}"), {}))
    assert.matches("^1" .. "", text)
    assert.matches("5002,", text)
    assert.is_nil(text:find("3$"))
    local sum = "{{ 'a'" .. (" + 'b'"):rep(999) .. (" ~ 'c'"):rep(1) .. " }}"
    assert.equal("a" .. ("b"):rep(999) .. "c", jinja.render(sum, {}))
    assert.equal("y", jinja.render("{{ 'y' if " .. ("0 or "):rep(2000) .. "1 }}", {}))
    assert.equal(3000, #jinja.render("{% set l = [" .. ("1,"):rep(1000) .. "] %}{{ l }}", {}))
    local chain = "{% if i == 0 %}0" .. ("{% elif i == 1 %}1"):rep(2000) .. "{% else %}e{% endif %}"
    assert.equal("e", jinja.render(chain, { i = 7 }))
  end)

  it("keep templates away from the host", function()
    for _, name in ipairs { "os", "io", "string", "require", "load", "debug", "ffi", "_G", "R", "X", "K", "s0" } do
      assert.equal("", jinja.render("{{ " .. name .. " }}", {}), name)
    end
    assert.equal("]]\"\\\n\0'", jinja.render("{{ ']]\"\\\\\\n\\0\\'' }}", {}))
    assert.equal("x", jinja.render("{{ d['a\"] = 1 --'] }}", { d = value.dict_of({ 'a"] = 1 --', "x" }, 1) }))
    assert.equal("5", jinja.render("{% set end = 5 %}{{ end }}", {}))
  end)
end)
