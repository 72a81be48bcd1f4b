-- JSON by template: what is fixed is fed, and the model fills the holes. It cannot leave the template, and the fixed
-- text costs no step of its own. Holes: {{string}}, {{integer}}, {{one|of|these}} (the likeliest).
--   llmlua examples/json_template.lua --model models/model.gguf \
--     --text "Ada, 36, likes cats." --template '{"name": "{{string}}", "age": {{integer}}, "pet": "{{cat|dog}}"}'

local llm = require "llm"

local fill = {}

function fill.string(seq)
  local text = seq:generate{ temperature = 0, max_tokens = 24, stop = { '"', "\n" } }.text
  return (text:gsub("\\", "\\\\"))
end

-- Digits, as long as the model would rather have another digit than anything else.
function fill.integer(seq, engine)
  local digits, ids = {}, {}
  for digit = 0, 9 do
    local id = engine:tokenize(tostring(digit), { add_special_tokens = false })
    digits[id[#id]], ids[#ids + 1] = tostring(digit), id[#id]
  end
  local text = ""
  while #text < 9 do
    local choice = seq:next{ allowed_token_ids = ids, logprobs = 1 }
    if text ~= "" and not digits[choice[1].token] then break end
    text = text .. digits[choice.token]
    seq:feed(choice.token)
  end
  return text
end

local function choose(seq, options)
  local scores = llm.parallel(options, function(option) return seq:fork():score(option).total end)
  local best = 1
  for i = 2, #options do
    if scores[i] > scores[best] then best = i end
  end
  seq:feed(options[best])
  return options[best]
end

local function options_of(hole)
  local options = {}
  for option in (hole .. "|"):gmatch "([^|]*)|" do options[#options + 1] = option end
  return options
end

local function json_template(engine, args, emit)
  local seq = engine:sequence("Text: " .. args.text .. "\nThe same as JSON:\n")
  local parts, rest = {}, args.template
  local function put(text)
    parts[#parts + 1] = text
    emit(text)
  end
  while rest ~= "" do
    local fixed, hole, after = rest:match "^(.-){{(.-)}}(.*)$"
    if not fixed then fixed, after = rest, "" end
    if fixed ~= "" then
      seq:feed(fixed)
      put(fixed)
    end
    if hole then put((fill[hole] or function() return choose(seq, options_of(hole)) end)(seq, engine)) end
    rest = after
  end
  local text = table.concat(parts)
  local value, message = llm.json.decode(text)
  return { json = text, value = value, error = message }
end

return llm.program({
  summary = "Fills the holes of a JSON template from a text.",
  { name = "text", type = "string", initial = "Ada is 36 years old and has a cat.", help = "to take values from" },
  { name = "template", type = "string", help = "JSON with holes",
    initial = '{"name": "{{string}}", "age": {{integer}}, "pet": "{{cat|dog|none}}"}' },
}, json_template)
