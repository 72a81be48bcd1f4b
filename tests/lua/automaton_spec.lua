-- Regular expressions as automata over bytes and over tokens.
local automaton = require "llm.automaton"
local graph = require "llm.graph"

local function accepts(pattern, yes, no)
  for _, text in ipairs(yes) do assert.truthy(automaton.matches(pattern, text), pattern .. " should match " .. text) end
  for _, text in ipairs(no) do assert.falsy(automaton.matches(pattern, text), pattern .. " should not match " .. text) end
end

describe("regular expressions", function()
  it("match what they should", function()
    accepts("abc", { "abc" }, { "", "ab", "abcd", "xabc" })
    accepts("a|bc|", { "a", "bc", "" }, { "b", "abc" })
    accepts("^a*b+c?$", { "b", "aabb", "abc" }, { "", "ac", "abcc" })
    accepts("(ab){2,3}", { "abab", "ababab" }, { "ab", "abababab", "aba" })
    accepts("a{2}", { "aa" }, { "a", "aaa" })
    accepts("a{2,}", { "aa", "aaaaa" }, { "a" })
    accepts("a{,2}b", { "b", "ab", "aab" }, { "aaab" })
    accepts("[a-c_\\d-]+", { "a_b", "9-0" }, { "d", "", "A" })
    accepts("[^a-c]", { "d", "é", "😀", "\n" }, { "a", "dd", "" })
    accepts("[]x]+", { "]x]" }, { "y" })
    accepts("\\d{4}-\\d\\d-\\d\\d", { "2026-11-23" }, { "2026-1-23", "26-11-23" })
    accepts("\\w+\\s\\S\\D\\W", { "ab cd!" }, { "ab cd1", "ab c1!" })
    accepts(".", { "a", "ß", "漢", "😀" }, { "\n", "ab", "\xff", "" })
    accepts("(?:yes|no)( sir)?", { "yes", "no sir" }, { "yes  sir", "yesno" })
    accepts("\\x41\\u{e9}\\u00e9\\t\\.", { "Aéé\t." }, { "A" })
    accepts("[α-ω]{3}", { "αβγ" }, { "abc", "αβ" })
    accepts("[\\u{0}-\\u{10ffff}]", { "a", "\u{7ff}", "\u{800}", "\u{ffff}", "\u{10000}", "\u{10ffff}" },
            { "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xc0\x80" })
    accepts("a+?b??", { "aaa", "ab" }, { "b" })
    accepts("-?(0|[1-9]\\d*)(\\.\\d+)?([eE][+-]?\\d+)?", { "0", "-12.5e+3", "7E0" }, { "01", ".5", "1.", "e1" })
  end)

  it("say what is wrong with a pattern", function()
    for pattern, part in pairs {
      ["("] = "( without its )", [")"] = ") without its (", ["[a"] = "[ without its ]", ["*a"] = "repeats nothing",
      ["a{3,2}"] = "count out of range", ["a{x}"] = "write \\{", ["\\q"] = "\\q that is not supported", ["a\\"] = "backslash",
      ["[b-a]"] = "goes down", ["(?=a)"] = "not supported", ["\xff"] = "not UTF-8", ["(a{999}){999}"] = "multiply",
    } do
      local ok, message = pcall(automaton.matches, pattern, "")
      assert.falsy(ok)
      assert.truthy(message:find(part, 1, true), pattern .. ": " .. message)
    end
    assert.falsy(pcall(automaton.matches, "[^\\x00-\\u{10ffff}]", ""))
  end)
end)

describe("automata over tokens", function()
  local tokens = { "a", "b", "ab", "abc", "c", "1", "12", "-", "é", "\xc3", "\xa9", "bc1", false, "" }
  local END = 12
  local tree = automaton.tree(#tokens + 2, function(id) return tokens[id + 1] or nil end, { END })

  -- The token texts that may follow, by trying: does some text of the pattern begin with what came and the token?
  local function allowed(sequence, logits, output)
    local row, message = sequence:run{ logits = logits, output = output }
    if not row then return message end
    local list = {}
    for i, x in ipairs(row) do if x > -math.huge then list[#list + 1] = i - 1 end end
    return list
  end

  local logits = {}
  for i = 1, #tokens + 2 do logits[i] = 0 end

  local function constrained(pattern)
    return graph.sequence(function(g, x, p)
      local s = g.state{ q = 0 }
      s.q = g.where(g.gt(g.n_output(), 0), g.step(p.dfa, s.q, g.last()), s.q)
      return g.mask(x, g.accepts(p.dfa, s.q))
    end, { dfa = automaton.regex(pattern, tree) }, #logits)
  end

  it("allow the tokens that lead on, and the end where the text is whole", function()
    local sequence = constrained("(abc|ab)1*-?")
    assert.same({ 0, 2, 3 }, allowed(sequence, logits, {}))
    assert.same({ 1, 11 }, allowed(sequence, logits, { 0 }))
    assert.same({ 4, 5, 7, END }, allowed(sequence, logits, { 0, 1 }))
    assert.same({ 5, 7, END }, allowed(sequence, logits, { 0, 1, 4 }))
    assert.same({ END }, allowed(sequence, logits, { 0, 1, 4, 7 }))
    assert.same({ END }, allowed(sequence, logits, { 0, 1, 4, 7, END }))
  end)

  it("go through the bytes of a character that tokens divide", function()
    local sequence = constrained("[^a]b")
    assert.same({ 1, 4, 5, 7, 8, 9 }, allowed(sequence, logits, {}))
    assert.same({ 10 }, allowed(sequence, logits, { 9 }))
    assert.same({ 1 }, allowed(sequence, logits, { 9, 10 }))
  end)

  it("fail when a token was taken that they refuse", function()
    local sequence = constrained("ab")
    allowed(sequence, logits, {})
    assert.truthy(allowed(sequence, logits, { 5 }):find("masks all tokens", 1, true))
  end)

  it("agree with trying every token", function()
    for _, pattern in ipairs { "[ab]*c?1{0,2}", "(ab|ab1|bc)+", ".{2}", "a[^b]?.*" } do
      local dfa = automaton.regex(pattern, tree)
      local sequence = graph.sequence(function(g, x, p)
        local s = g.state{ q = 0 }
        local q = g.step(p.dfa, 0, g.last(2))
        s.q = g.step(p.dfa, q, g.last())
        return g.mask(x, g.lor(g.accepts(p.dfa, s.q), g.set{ 13 }))
      end, { dfa = dfa }, #logits)
      for a = 0, 10 do
        for b = 0, 10 do
          local ends = false
          for _, token in ipairs(allowed(sequence, logits, { a, b })) do ends = ends or token == END end
          assert.equal(automaton.matches(pattern, tokens[a + 1] .. tokens[b + 1]), ends, pattern .. a .. b)
        end
      end
    end
  end)
end)
