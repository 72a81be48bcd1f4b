-- One file from the hub into the cache: under a lock, from where an earlier download broke off, with its checksum.

local fs = require "llm.fs"
local tasks = require "llm.task"

local M = {}

local LOCK_POLL = 0.1        -- seconds
local TRIES = 6              -- in a row that bring nothing
local READ_BYTES = 2 ^ 20
local READS_BEFORE_OTHERS = 64 -- pieces of a partial file that are hashed before other tasks get a turn

-- Waits until nobody else downloads this file.
local function acquire(path)
  while true do
    local lock, message = fs.lock(path)
    if lock == nil then return nil, message end
    if lock then return tasks.own(lock, lock.close) end
    tasks.sleep(LOCK_POLL)
  end
end

-- The sum by which the hub knows a file: of large ones SHA-256, of others what git computes of a blob.
local function new_digest(job)
  if job.lfs then return fs.digest "sha256" end
  local digest = fs.digest "sha1"
  digest:update(("blob %d\0"):format(job.size))
  return digest
end

-- Throws away what has come.
local function restart(job)
  job.meter:add(-job.offset)
  job.offset, job.digest = 0, new_digest(job)
  local file, message = io.open(job.partial, "wb")
  if job.file then job.file:close() end
  job.file = file
  return file ~= nil, message
end

-- Takes over what an earlier download has left. Its sum shows at the end whether that was right.
local function resume(job)
  local there = fs.stat(job.partial)
  if not there or there.size == 0 or there.size > job.size then return restart(job) end
  local old, message = io.open(job.partial, "rb")
  if not old then return nil, message end
  job.digest, job.offset, job.resumed = new_digest(job), 0, true
  local n = 0
  for piece in function() return old:read(READ_BYTES) end do
    job.digest:update(piece)
    job.offset = job.offset + #piece
    n = n + 1
    if n % READS_BEFORE_OTHERS == 0 then tasks.sleep(0) end
  end
  old:close()
  job.meter:skip(job.offset)
  job.file, message = io.open(job.partial, "ab")
  return job.file ~= nil, message
end

local function first_byte(reply) return tonumber((reply.headers["content-range"] or ""):match "^bytes (%d+)%-") end

-- Reads a response into the partial file, as far as it comes.
local function take_body(job, reply)
  while true do
    local piece, message = reply:read()
    if not piece then
      if message then return nil, message, "network" end
      if job.offset < job.size then return nil, "the response ended early", "network" end
      return true
    end
    if job.offset + #piece > job.size then
      reply:close()
      return nil, ("the server sends more than the %d bytes it announced"):format(job.size), "refused"
    end
    local ok
    ok, message = job.file:write(piece)
    if not ok then return nil, ("cannot write %s: %s"):format(job.partial, message), "refused" end
    job.digest:update(piece)
    job.offset = job.offset + #piece
    job.meter:add(#piece)
  end
end

-- One request for what is missing. true, or nil, a message and a code as of client:refusal; third: the reply.
local function try(job)
  local headers = { ["Accept-Encoding"] = "identity" }
  if job.offset > 0 then headers.Range = ("bytes=%d-"):format(job.offset) end
  local reply, message, code = job.client:get(job.url, { stream = true, headers = headers })
  if not reply then return nil, message, code end
  local ok
  if reply.status == 200 then
    ok, message, code = true, nil, nil
    if job.offset > 0 then ok, message = restart(job) end -- a server that does not know ranges
    if ok then ok, message, code = take_body(job, reply) end
  elseif reply.status == 206 and first_byte(reply) == job.offset then
    ok, message, code = take_body(job, reply)
  elseif reply.status == 206 or reply.status == 416 then
    ok, message = restart(job)
    if ok then ok, message, code = nil, "the server sent another range than it was asked for", "network" end
  else
    ok, message, code = job.client:refusal(reply, job.repo, job.commit)
  end
  if not ok then reply:close() end
  return ok, message, code, reply
end

-- Until all has come.
local function transfer(job)
  local failures = 0
  while job.offset < job.size do
    local before = job.offset
    local ok, message, code, reply = try(job)
    if not ok then
      if code ~= "network" then return nil, message, code end
      failures = job.offset > before and 1 or failures + 1
      if failures >= TRIES then
        return nil, ("%s: %s (tried %d times; what has come is kept, and the next download goes on from there)")
          :format(job.path, message, failures), code
      end
      job.file:flush()
      job.client:pause(failures, reply)
    end
  end
  return true
end

-- true if the partial file is what it should be. The size tells if somebody else wrote into it, in spite of the lock.
local function verify(job)
  local ok, message = fs.sync(job.file)
  job.file:close()
  job.file = nil
  if not ok then return nil, message end
  local there = fs.stat(job.partial)
  return there and there.size == job.size and job.digest:hex() == job.sum or false
end

local function fetch_locked(job)
  for _ = 1, 2 do
    local ok, message, code = resume(job)
    if ok then ok, message, code = transfer(job) end
    if not ok then return nil, message, code end
    ok, message = verify(job)
    if ok == nil then return nil, message end
    if ok then return os.rename(job.partial, job.blob) end
    os.remove(job.partial) -- it would be wrong for ever
    job.meter:add(-job.offset)
    if not job.resumed then break end
    job.resumed = false -- what was left from before may have been wrong: once more, from the beginning
  end
  return nil, ("%s is not what the hub says it is: its checksum is wrong, so it was thrown away. Something between "
    .. "here and %s changes or damages it; try again"):format(job.path, job.client.endpoint), "refused"
end

-- Downloads entry {path, size, sum, lfs} of a commit into the cache. meter:add(bytes) hears of the progress,
-- meter:skip(bytes) of what was there already. true, or
-- nil, a message and a code.
function M.fetch(client, cache, repo, commit, entry, meter)
  local blob = cache:blob(entry.sum)
  if fs.stat(blob) then return true end
  local lock, message, code = acquire(("%s/%s.lock"):format(cache.locks, entry.sum))
  if not lock then return nil, message end
  if fs.stat(blob) then -- somebody else has done it meanwhile
    lock:close()
    tasks.disown(lock)
    meter:skip(entry.size)
    return true
  end
  local job = { client = client, repo = repo, commit = commit, path = entry.path, size = entry.size, sum = entry.sum,
                lfs = entry.lfs, url = client:file_url(repo, commit, entry.path), blob = blob,
                partial = blob .. ".incomplete", offset = 0, meter = meter }
  tasks.own(job, function() if job.file then job.file:close() end end)
  local ok
  ok, message, code = fetch_locked(job)
  if job.file then job.file:close() end
  tasks.disown(job)
  lock:close()
  tasks.disown(lock)
  return ok, message, code
end

return M
