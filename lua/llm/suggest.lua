-- The name somebody probably meant.

local M = {}

-- Restricted Damerau-Levenshtein distance: insert, delete, replace, swap neighbours.
local function distance(a, b)
  local before, last = {}, {}
  for j = 0, #b do last[j] = j end
  for i = 1, #a do
    local row = { [0] = i }
    for j = 1, #b do
      local cost = a:byte(i) == b:byte(j) and 0 or 1
      row[j] = math.min(last[j] + 1, row[j - 1] + 1, last[j - 1] + cost)
      if i > 1 and j > 1 and a:byte(i) == b:byte(j - 1) and a:byte(i - 1) == b:byte(j) then
        row[j] = math.min(row[j], before[j - 2] + 1)
      end
    end
    before, last = last, row
  end
  return last[#b]
end

local function plain(name) return (name:lower():gsub("[-_]", "")) end

-- The candidate nearest to name, nil if none is near: a third of the letters may differ, or the name may be
-- the beginning of exactly one candidate.
function M.nearest(name, candidates)
  local wanted, best, best_distance = plain(name), nil, math.huge
  for _, candidate in ipairs(candidates) do
    local d = distance(wanted, plain(candidate))
    if d < best_distance then best, best_distance = candidate, d end
  end
  if best and best_distance <= math.max(1, math.floor(#wanted / 3)) then return best end
  local found
  for _, candidate in ipairs(candidates) do
    if #wanted >= 2 and plain(candidate):sub(1, #wanted) == wanted then
      if found then return nil end
      found = candidate
    end
  end
  return found
end

-- "; did you mean X?" or "".
function M.hint(name, candidates)
  local nearest = M.nearest(name, candidates)
  return nearest and ("; did you mean '%s'?"):format(nearest) or ""
end

return M
