-- Detectors of the watermarks of scripts/policies. A text is a list of token ids, with what came before it if that is known
-- (the tokens of the prompt matter only for the first ones). Each returns a z-score: how many standard deviations the
-- text is from one without the watermark; 4 means one such text in 30,000.

local graph = require "llm.graph"

local M = {}

-- The token i places before `at`, as g.last gives it.
local function before(ids, at, i) return ids[at - i] or -1 end

-- A place counts once: repeated contexts repeat the numbers, which would count luck twice.
local function each_new(ids, width, first, f)
  local seen, n = {}, 0
  for at = first, #ids do
    local words = { ids[at] }
    for i = 1, width do words[#words + 1] = before(ids, at, i) end
    local key = table.concat(words, " ")
    if not seen[key] then
      seen[key] = true
      n = n + 1
      f(at)
    end
  end
  return n
end

-- Of gumbel_watermark: -log(1 - u) of the tokens' numbers has mean and variance 1 without it. options: key, first (the place
-- of the first token that was generated, 1).
function M.gumbel(ids, options)
  local score = 0
  local n = each_new(ids, 3, options.first or 1, function(at)
    local u = graph.hash({ options.key, before(ids, at, 1), before(ids, at, 2), before(ids, at, 3) }, ids[at])
    score = score - math.log(1 - u)
  end)
  return n > 0 and (score - n) / math.sqrt(n) or 0
end

-- Of green_list_watermark: green tokens are a share gamma without it. options: key, gamma (0.25), first.
function M.green_list(ids, options)
  local gamma, green = options.gamma or 0.25, 0
  local n = each_new(ids, 1, options.first or 1, function(at)
    if graph.hash({ options.key, before(ids, at, 1) }, ids[at]) < gamma then green = green + 1 end
  end)
  return n > 0 and (green - gamma * n) / math.sqrt(n * gamma * (1 - gamma)) or 0
end

return M
