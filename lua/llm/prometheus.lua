-- Prometheus' text format, histograms, and what it wants to know of a process.

local read_file = require("llm.file").read

local M = {}

-- ---- histograms ----------------------------------------------------------------------------------------------

local Histogram = {}
Histogram.__index = Histogram

-- bounds: upper ends of the buckets, ascending; +Inf is added.
function M.histogram(bounds)
  local counts = {}
  for i = 1, #bounds + 1 do counts[i] = 0 end
  return setmetatable({ bounds = bounds, counts = counts, sum = 0, n = 0 }, Histogram)
end

function Histogram:observe(x)
  local bounds, low, high = self.bounds, 1, #self.bounds + 1
  while low < high do -- the first bound that is at least x
    local middle = math.floor((low + high) / 2)
    if bounds[middle] < x then low = middle + 1 else high = middle end
  end
  self.counts[low] = self.counts[low] + 1
  self.sum, self.n = self.sum + x, self.n + 1
end

-- ---- the text ------------------------------------------------------------------------------------------------

-- An exposition is a list of families: {name, kind, help, whole, samples}; a sample is {name with labels, value}.
local Text = {}
Text.__index = Text

function M.new() return setmetatable({ families = {} }, Text) end

local escapes = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

local function label_text(labels)
  local parts = {}
  for i, label in ipairs(labels) do
    parts[i] = ('%s="%s"'):format(label[1], (tostring(label[2]):gsub('[\\"\n]', escapes)))
  end
  return table.concat(parts, ",")
end

-- As Go and Python write a float: the shortest text that reads back as the same number.
local function number(x)
  if x == math.huge then return "+Inf" end
  if x == math.floor(x) and math.abs(x) < 2 ^ 53 then return ("%.1f"):format(x) end
  for digits = 15, 16 do
    local text = ("%." .. digits .. "g"):format(x)
    if tonumber(text) == x then return text end
  end
  return ("%.17g"):format(x)
end

local function add(text, name, labels, value)
  local samples = text.families[#text.families].samples
  samples[#samples + 1] = { name .. (labels ~= "" and "{" .. labels .. "}" or ""), value }
end

-- Begins a metric; the samples that follow are its own. kind: gauge, counter (samples get _total), histogram. whole:
-- each worker says the same of it, as it is the engine's or the process's.
function Text:family(name, kind, help, whole)
  self.name, self.suffix = name, kind == "counter" and "_total" or ""
  self.families[#self.families + 1] = { name = name .. self.suffix, kind = kind, help = help, whole = whole or false,
                                        samples = {} }
end

-- labels: list of {name, value}.
function Text:sample(labels, value) add(self, self.name .. self.suffix, label_text(labels), value) end

function Text:histogram(labels, histogram)
  local shared = label_text(labels)
  local comma, total = shared ~= "" and "," or "", 0
  for i, count in ipairs(histogram.counts) do
    total = total + count
    local bound = number(histogram.bounds[i] or math.huge)
    add(self, self.name .. "_bucket", ('le="%s"%s%s'):format(bound, comma, shared), total)
  end
  add(self, self.name .. "_count", shared, histogram.n)
  add(self, self.name .. "_sum", shared, histogram.sum)
end

local function sum_samples(mine, theirs)
  local places = {}
  for i, sample in ipairs(mine) do places[sample[1]] = i end
  for _, sample in ipairs(theirs) do
    local i = places[sample[1]]
    if i then mine[i][2] = mine[i][2] + sample[2] else mine[#mine + 1] = { sample[1], sample[2] } end
  end
end

-- Adds the families of another worker's exposition, which has the same ones.
function Text:add_families(families)
  local others = {}
  for _, family in ipairs(families) do others[family.name] = family end
  for _, family in ipairs(self.families) do
    local other = others[family.name]
    if other and not family.whole then sum_samples(family.samples, other.samples) end
  end
end

function Text:text()
  local lines = {}
  for _, family in ipairs(self.families) do
    lines[#lines + 1] = ("# HELP %s %s"):format(family.name, family.help)
    lines[#lines + 1] = ("# TYPE %s %s"):format(family.name, family.kind)
    for _, sample in ipairs(family.samples) do lines[#lines + 1] = sample[1] .. " " .. number(sample[2]) end
  end
  return table.concat(lines, "\n") .. "\n"
end

-- ---- the process ---------------------------------------------------------------------------------------------

local PAGE, TICKS = 4096, 100 -- of Linux on x86-64 and arm64: what /proc counts in

-- The process_ metrics that client libraries expose, as far as /proc has them.
function M.process(out)
  local stat, machine = read_file "/proc/self/stat", read_file "/proc/stat"
  local fields = {}
  for field in (stat and stat:match "%)%s(.*)" or ""):gmatch "%S+" do fields[#fields + 1] = tonumber(field) or 0 end
  if #fields < 22 then return end -- fields[1] is the third of proc(5), the state
  local booted = tonumber(machine and machine:match "btime (%d+)") or 0
  for _, entry in ipairs {
    { "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.", fields[21] },
    { "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.", fields[22] * PAGE },
    { "process_start_time_seconds", "gauge", "Start time of the process since unix epoch in seconds.",
      booted + fields[20] / TICKS },
    { "process_cpu_seconds", "counter", "Total user and system CPU time spent in seconds.",
      (fields[12] + fields[13]) / TICKS },
  } do
    out:family(entry[1], entry[2], entry[3], true)
    out:sample({}, entry[4])
  end
end

return M
