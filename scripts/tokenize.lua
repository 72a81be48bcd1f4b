-- Shows how a model's tokenizer cuts text, or puts ids together again.
--   llmlua tokenize.lua --model models/model.gguf --json < text.txt

local llm = require "llm"

local opts = llm.options(arg, {
  summary = "Tokenizes standard input (or FILE), or with --decode makes text of ids.",
  engine = false,
  positional = { { name = "file", type = "path", help = "the text; default: standard input" } },
  { name = "model", type = "path", help = "GGUF file, model directory, tokenizer.json or tokenizer.model" },
  { name = "tokenizer", type = "path", help = "the same; wins over --model" },
  { name = "text", type = "string", help = "this text" },
  { name = "json", type = "boolean", initial = false, help = "print an array of ids; with --decode, a string" },
  { name = "special", type = "boolean", initial = true, help = "add what the tokenizer adds by itself, such as BOS" },
  { name = "parse_special", type = "boolean", initial = true, help = "text that spells a control token becomes it" },
  { name = "decode", type = "boolean", initial = false, help = "the input is ids: numbers, however separated" },
  { name = "skip_special", type = "boolean", initial = false, help = "leave control tokens out of decoded text" },
})

local function input()
  if opts.text then return opts.text end
  if not opts.file or opts.file == "-" then return io.read("*a") end
  local file, message = io.open(opts.file, "rb")
  local text = file and file:read("*a")
  if not text then llm.exit(1, "cannot read the text: " .. (message or opts.file .. " is not a file")) end
  file:close()
  return text
end

local function ids_in(text)
  local ids = {}
  local stray = text:gsub("%-?%d+", ""):match("[^%s,%[%]]+")
  if stray then llm.exit(1, ("--decode needs whole numbers; the input has '%s'"):format(stray)) end
  for number in text:gmatch("%-?%d+") do ids[#ids + 1] = tonumber(number) end
  return ids
end

local function quoted(text)
  return llm.table.pretty(text)
end

local path = opts.tokenizer or opts.model
if not path then
  llm.exit(2, "--model is missing: a GGUF file, a model directory, tokenizer.json or tokenizer.model")
end
local tokenizer = llm.try(llm.tokenizer, path)

if opts.decode then
  local text = llm.try(tokenizer.decode, tokenizer, ids_in(input()), { skip_special_tokens = opts.skip_special })
  io.write(opts.json and llm.json.encode(text) .. "\n" or text)
else
  local ids = llm.try(tokenizer.encode, tokenizer, input(),
    { add_special_tokens = opts.special, parse_special = opts.parse_special })
  if opts.json then
    print(llm.json.encode(llm.json.array(ids)))
  else
    for _, id in ipairs(ids) do
      print(("%7d  %s"):format(id, quoted(tokenizer:decode({ id }, { skip_special_tokens = false }))))
    end
  end
end
tokenizer:close()
