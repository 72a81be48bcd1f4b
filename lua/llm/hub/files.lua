-- Which files of a repository a model needs. The same rules choose what is downloaded and judge what is cached.

local M = {}

local config_files = { "config.json", "generation_config.json" }
local tokenizer_files = { "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
                          "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
                          "chat_template.json" }

M.INDEX = "model.safetensors.index.json"

local function present(names, list, into)
  for _, name in ipairs(list) do
    if names[name] then into[#into + 1] = name end
  end
end

local function sorted(names, wanted)
  local list = {}
  for name in pairs(names) do
    if wanted(name) then list[#list + 1] = name end
  end
  table.sort(list)
  return list
end

local function has_tokenizer(names) return names["tokenizer.json"] or names["tokenizer.model"] end

-- ---- GGUF ----------------------------------------------------------------------------------------------------

local DEFAULT_QUANT = "q4_k_m"

-- The files that together are the model whose (first) file is `name`.
local function parts_of(name)
  local stem, n = name:match "^(.*)%-00001%-of%-(%d%d%d%d%d)%.gguf$"
  if not stem then return { name } end
  local parts = {}
  for i = 1, tonumber(n) do parts[i] = ("%s-%05d-of-%s.gguf"):format(stem, i, n) end
  return parts
end

-- Does the file's name say that its weights are of this type? "x-Q4_K_M.gguf", "Q4_K_M/x-00001-of-00002.gguf".
local function is_of(name, quant)
  local plain = "/" .. name:lower() .. "/"
  local from = 1
  while true do
    local first, last = plain:find(quant, from, true)
    if not first then return false end
    if not plain:sub(first - 1, first - 1):find "[%w_]" and not plain:sub(last + 1, last + 1):find "[%w_]" then
      return true
    end
    from = first + 1
  end
end

-- Models among the files: one name for each, the first part's if it has several. Projectors of images are none.
local function models(names)
  return sorted(names, function(name)
    if not name:lower():find "%.gguf$" or name:lower():find "mmproj" then return false end
    local part = name:match "%-(%d%d%d%d%d)%-of%-%d%d%d%d%d%.gguf$"
    return not part or part == "00001"
  end)
end

local function choose_gguf(names, want)
  if want.file then
    if not names[want.file] then return nil, ("it has no file %s"):format(want.file) end
    return want.file
  end
  local all = models(names)
  for _, name in ipairs(all) do
    if is_of(name, (want.quant or DEFAULT_QUANT):lower()) then return name end
  end
  if want.quant then
    return nil, #all > 0 and ("it has no GGUF file of type %s; it has %s"):format(want.quant, table.concat(all, ", "))
      or "it has no GGUF file"
  end
  return all[1]
end

local function gguf_plan(names, want)
  local first, message = choose_gguf(names, want)
  if not first then return nil, message end
  local parts = parts_of(first)
  for _, part in ipairs(parts) do
    if not names[part] then return nil, ("it lacks %s, a part of the model"):format(part) end
  end
  return { small = {}, weights = parts, gguf = first, complete = true }
end

-- ---- the plan ------------------------------------------------------------------------------------------------

local function safetensors_plan(names)
  local plan = { small = {}, weights = {}, complete = has_tokenizer(names) }
  present(names, config_files, plan.small)
  present(names, tokenizer_files, plan.small)
  if names[M.INDEX] then
    plan.index = M.INDEX
    return plan
  end
  -- Some repositories have the same weights twice, the second time in their authors' own format.
  local own = function(name) return name:find "^consolidated" ~= nil end
  plan.weights = sorted(names, function(name) return name:find "^[^/]*%.safetensors$" and not own(name) end)
  if #plan.weights == 0 then
    plan.weights = sorted(names, function(name) return name:find "^[^/]*%.safetensors$" end)
  end
  return plan
end

local function has_safetensors(names)
  for name in pairs(names) do
    if name:find "^[^/]*%.safetensors$" then return true end
  end
  return names[M.INDEX]
end

local function tokenizer_plan(names)
  if not has_tokenizer(names) then return nil, "it has neither tokenizer.json nor tokenizer.model" end
  local plan = { small = {}, weights = {}, complete = true }
  present(names, config_files, plan.small)
  present(names, tokenizer_files, plan.small)
  return plan
end

local function dummy_plan(names)
  if not names["config.json"] then return nil, "it has no config.json" end
  local plan = safetensors_plan(names)
  plan.weights, plan.index = {}, nil
  return plan
end

-- names: a set of paths. want: format ("auto", "gguf", "safetensors", "dummy"), quant ("Q4_K_M"), file (a GGUF file of
-- the repository), tokenizer_only. Returns small (paths), weights (paths), index (its path: the weights are those it
-- names), gguf (the path to open) and complete (false: it would do, but a tokenizer is missing); or nil and what the
-- repository lacks.
function M.plan(names, want)
  if want.file or want.quant or want.format == "gguf" then return gguf_plan(names, want) end
  if want.tokenizer_only then return tokenizer_plan(names) end
  if want.format == "dummy" then return dummy_plan(names) end
  if has_safetensors(names) then
    if not names["config.json"] then return nil, "it has no config.json" end
    return safetensors_plan(names)
  end
  if want.format ~= "safetensors" and #models(names) > 0 then return gguf_plan(names, want) end
  if names["pytorch_model.bin"] or names["pytorch_model.bin.index.json"] then
    return nil, "it has only pytorch_model.bin, a pickle that can run code when it is read; convert it to safetensors"
  end
  return nil, "it has neither safetensors nor GGUF files"
end

-- The files that an index (decoded) names, sorted; nil if it is none.
function M.shards(index)
  local map = type(index) == "table" and index.weight_map
  if type(map) ~= "table" then return nil end
  local set = {}
  for _, file in pairs(map) do
    if type(file) ~= "string" then return nil end
    set[file] = true
  end
  return sorted(set, function() return true end)
end

return M
