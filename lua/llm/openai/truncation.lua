-- truncate_prompt_tokens: k keeps the last k tokens of a prompt, -1 as many as leave room for the output.

local http = require "llm.http"

local M = {}

function M.apply(service, own, sampling, request)
  local keep = own.truncate_prompt_tokens
  if not keep then return end
  local most = service.info.max_model_len
  if keep == 0 then
    http.error(400, "truncate_prompt_tokens is 0; it must be at least 1, or -1 for as many as fit",
      { param = "truncate_prompt_tokens" })
  elseif keep > most then
    http.error(400, ("truncate_prompt_tokens is %d; it must be at most max_model_len, %d"):format(keep, most),
      { param = "truncate_prompt_tokens" })
  end
  local output = math.max(sampling.max_tokens or 1, 1)
  request.truncate_prompt_tokens = keep > 0 and keep or math.max(most - output, 1)
end

return M
