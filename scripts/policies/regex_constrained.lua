-- Only texts that match a regular expression. It becomes an automaton over the tokens when this file is loaded, and a
-- table look-up a token. Copy the file and change PATTERN; lua/llm/automaton/regex.lua says what patterns can be.

local llm = require "llm"
local automaton = require "llm.automaton"

local PATTERN = "\\d{4}-(0[1-9]|1[0-2])-(0[1-9]|[12]\\d|3[01])"

local vocabulary = automaton.vocabulary(llm.tokenizer(), llm.vocab_size)
local policy = llm.policy("regex_constrained", { pattern = automaton.regex(PATTERN, vocabulary) })
policy.help = "only texts that match " .. PATTERN

function policy.graph(g, logits, p)
  local s = g.state{ at = 0 }
  s.at = g.where(g.gt(g.n_output(), 0), g.step(p.pattern, s.at, g.last()), s.at)
  return g.mask(logits, g.accepts(p.pattern, s.at))
end

return policy
