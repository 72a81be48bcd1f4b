-- Prometheus' text format, histograms, and what it wants to know of a process.

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

local Text = {}
Text.__index = Text

function M.new() return setmetatable({ lines = {} }, Text) end

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
  text.lines[#text.lines + 1] = ("%s%s %s"):format(name, labels ~= "" and "{" .. labels .. "}" or "", number(value))
end

-- Begins a metric; the samples that follow are its own. kind: gauge, counter (samples get _total), histogram.
function Text:family(name, kind, help)
  self.name, self.suffix = name, kind == "counter" and "_total" or ""
  self.lines[#self.lines + 1] = ("# HELP %s%s %s"):format(name, self.suffix, help)
  self.lines[#self.lines + 1] = ("# TYPE %s%s %s"):format(name, self.suffix, kind)
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

function Text:text() return table.concat(self.lines, "\n") .. "\n" end

-- ---- the process ---------------------------------------------------------------------------------------------

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "*a"
  file:close()
  return text
end

local PAGE, TICKS = 4096, 100 -- of Linux on x86-64 and arm64: what /proc counts in

-- The process_ metrics that client libraries expose, as far as /proc has them.
function M.process(out)
  local stat, machine = read "/proc/self/stat", read "/proc/stat"
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
    out:family(entry[1], entry[2], entry[3])
    out:sample({}, entry[4])
  end
end

return M
