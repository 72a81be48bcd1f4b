-- Tail-free sampling (Phénix 2019): cuts the sorted probabilities where they stop to bend. The tokens are kept until the
-- absolute second differences, as shares of their sum, have passed z. Looks at the candidates, as the order matters.

local llm = require "llm"
local policy = llm.policy("tail_free", { z = 0.95 })
policy.ranges = { z = { 0, 1 } }
policy.help = "cuts the tail where the curve of probabilities is straight"

-- How many of the candidates stay.
local function kept(c, z)
  local n = #c
  if n <= 2 or z >= 1 then return n end
  local total = 0
  for i = 1, n - 2 do total = total + math.abs(c[i].prob - 2 * c[i + 1].prob + c[i + 2].prob) end
  if total == 0 then return n end
  local sum = 0
  for i = 1, n - 2 do
    sum = sum + math.abs(c[i].prob - 2 * c[i + 1].prob + c[i + 2].prob) / total
    if sum > z then return math.max(i, 1) end
  end
  return n
end

function policy.candidates(c, req) return c:draw(req:random(), kept(c, req.params.z)) end

return policy
