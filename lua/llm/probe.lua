-- An exchange that no client is behind: what a handler says to it is kept. For self-tests, which try routes before
-- they serve.

local escape = require "llm.openai.escape"

local Exchange = {}
Exchange.__index = Exchange

local M = {}

-- options: query (encoded), headers ({name = value}), body.
function M.new(method, path, options)
  options = options or {}
  local headers = {}
  for name, value in pairs(options.headers or {}) do headers[name:lower()] = tostring(value) end
  return setmetatable({ method = method, path = path, query = options.query or "", given = headers,
                        text = options.body or "", pieces = {} }, Exchange)
end

function Exchange:head() return self.method, self.path, self.query, 1, false end
function Exchange:header(name) return self.given[name] end
function Exchange:headers() return self.given end
function Exchange:body() return self.text end
function Exchange:peer() return "self-test" end
function Exchange:is_open() return not self.over end

function Exchange:start(status, fields)
  self.status, self.fields = status, fields
  return true
end

function Exchange:reply(status, fields, body)
  self:start(status, fields)
  self.over = true
  return self:write(body or "")
end

function Exchange:write(...)
  for _, text in ipairs { ... } do self.pieces[#self.pieces + 1] = text end
  return true
end

function Exchange:pieces(before, text, ends, after)
  local begin = 1
  for _, finish in ipairs(ends or { #text }) do
    if finish >= begin then self:write(before, escape.escape(text:sub(begin, finish)), after) end
    begin = finish + 1
  end
  return true
end

function Exchange:finish() self.over = true end
function Exchange:cut() self.over, self.broken = true, true end
Exchange.abort = Exchange.cut

-- What a client would have got: status, headers (names in lower case), body; broken: cut off before its end.
function Exchange:result()
  local headers = {}
  for name, value in pairs(self.fields or {}) do headers[name:lower()] = value end
  return { status = self.status, headers = headers, body = table.concat(self.pieces), broken = self.broken or false }
end

return M
