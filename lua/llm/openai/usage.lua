-- The usage object, as JSON.

local M = {}

-- details: say how many prompt tokens came from the prefix cache.
function M.json(n_prompt, n_output, n_cached, details)
  return ('{"prompt_tokens":%d,"total_tokens":%d,"completion_tokens":%d%s}'):format(n_prompt, n_prompt + n_output,
    n_output, details and (',"prompt_tokens_details":{"cached_tokens":%d}'):format(n_cached) or "")
end

-- Does a stream say its usage at its end, and in each chunk? options: the request's stream_options or nil.
function M.wanted(service, options)
  local last = service.options.enable_force_include_usage or options and options.include_usage or false
  return last, last and options and options.continuous_usage_stats or false
end

-- Of a run.
function M.of(run)
  return M.json(run:n_prompt_tokens(), run.n_output, run:n_cached_tokens(),
    run.service.options.enable_prompt_tokens_details)
end

return M
