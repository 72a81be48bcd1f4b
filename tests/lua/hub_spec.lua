-- Models by name: the cache's layout, downloads from a hub on the loopback interface, what goes wrong on the way.
local fake_hub = require "fake_hub"
local ffi = require "ffi"
local files = require "llm.hub.files"
local fs = require "llm.fs"
local hub_module = require "llm.hub"
local json = require "llm.json"
local llm = require "llm"
local support = require "support"
local tasks = require "llm.task"

ffi.cdef "int setenv(const char *, const char *, int); int unsetenv(const char *);"

local variables = { "HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME", "HF_ENDPOINT", "HF_TOKEN",
                    "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE" }

local function setenv(name, value)
  if value then ffi.C.setenv(name, value, 1) else ffi.C.unsetenv(name) end
end

local function has(text, part) assert.truthy(tostring(text):find(part, 1, true), tostring(text)) end

-- One token a printable character.
local function tokenizer_json()
  local vocab = json.object {}
  for byte = 33, 126 do vocab[string.char(byte)] = byte - 33 end
  vocab["\196\160"] = 94 -- a space, as the byte-level alphabet has it
  return json.encode(json.object {
    version = "1.0", added_tokens = json.array(),
    pre_tokenizer = { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = true },
    decoder = { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = true },
    model = { type = "BPE", vocab = vocab, merges = json.array() },
  })
end

local golden = support.root .. "/tests/golden/models/llama/"

local function model_files()
  return { ["config.json"] = support.slurp(golden .. "config.json"),
           ["model.safetensors"] = support.slurp(golden .. "model.safetensors"),
           ["tokenizer.json"] = tokenizer_json(), ["README.md"] = "# Tiny", ["pytorch_model.bin"] = "a pickle",
           ["onnx/model.safetensors"] = "another one", ["logits.bin"] = "not needed" }
end

local function list(path)
  local names = assert(fs.list(path))
  table.sort(names)
  return names
end

local function link_target(path)
  return (support.shell("readlink " .. support.quote(path)).out:gsub("\n$", ""))
end

-- A test with a hub and an empty cache: f(hub, cache directory).
local function with_hub(f)
  return function()
    local home, saved = os.tmpname(), {}
    os.remove(home)
    assert(fs.mkdir(home))
    for _, name in ipairs(variables) do
      saved[name] = os.getenv(name)
      setenv(name, nil)
    end
    local results = { pcall(tasks.run, function()
      local hub = fake_hub.open()
      setenv("HF_ENDPOINT", hub.url)
      setenv("HF_HOME", home)
      f(hub, home .. "/hub")
    end) }
    for _, name in ipairs(variables) do setenv(name, saved[name]) end
    support.shell("rm -rf " .. support.quote(home))
    if not results[1] then error(results[2], 0) end
  end
end

local function resolve(name, options)
  options = options or {}
  options.retry_delay = 0.001
  return hub_module.resolve(name, options)
end

local function refused(name, options)
  local path, message = resolve(name, options)
  assert.is_nil(path)
  return message
end

local WEIGHTS = "model.safetensors"

describe("a model's name", function()
  it("is an id on the hub or a path", function()
    local function parsed(name)
      local repo, want = hub_module.parse(name)
      return repo and { repo, want.quant, want.file }
    end
    assert.same({ "meta-llama/Llama-2-7b-chat-hf" }, parsed "meta-llama/Llama-2-7b-chat-hf")
    assert.same({ "gpt2" }, parsed "gpt2")
    assert.same({ "org/x.1-GGUF", "Q4_K_M" }, parsed "org/x.1-GGUF:Q4_K_M")
    assert.same({ "org/x", nil, "x-Q8_0.gguf" }, parsed "org/x/x-Q8_0.gguf")
    assert.same({ "org/x", nil, "sub/x.gguf" }, parsed "org/x/sub/x.gguf")
    for _, name in ipairs { "/a/b", "./a", "../a", "a/b/c", "models/a.gguf", "a.gguf", "tokenizer.json", "", "a//b",
                            "a/", "a b/c", "org/x/../y.gguf", "a..b/c", "a--b/c", "~/models", "org/x:q:r", "org/.git" } do
      assert.is_nil(parsed(name), name)
    end
  end)

  it("that is a path leads there, or to what may be meant", with_hub(function(hub)
    assert.equal(golden, resolve(golden))
    local message = refused(support.root .. "/tests/golden/models/lama")
    has(message, "no model at " .. support.root .. "/tests/golden/models/lama: there is no such file")
    has(message, "did you mean " .. support.root .. "/tests/golden/models/llama?")
    assert.equal(0, hub.n_api)
  end))
end)

describe("the files of a model", function()
  local function set(...)
    local names = {}
    for _, name in ipairs { ... } do names[name] = true end
    return names
  end

  it("are its safetensors, not the same weights in other formats", function()
    local plan = files.plan(set("config.json", "model-1.safetensors", "consolidated.safetensors", "pytorch_model.bin",
      "tokenizer.model", "x/model.safetensors", "m.gguf"), { format = "auto" })
    assert.same({ "model-1.safetensors" }, plan.weights)
    assert.same({ "config.json", "tokenizer.model" }, plan.small)
    assert.truthy(plan.complete)
    plan = files.plan(set("config.json", "consolidated.safetensors"), { format = "auto" })
    assert.same({ "consolidated.safetensors" }, plan.weights)
    assert.falsy(plan.complete)
  end)

  it("are one GGUF file with all its parts", function()
    local names = set("x-Q4_K_S.gguf", "x-Q4_K_M.gguf", "x-Q8_0.gguf", "mmproj-Q8_0.gguf",
      "BF16/x-BF16-00001-of-00002.gguf", "BF16/x-BF16-00002-of-00002.gguf")
    assert.equal("x-Q4_K_M.gguf", files.plan(names, { format = "auto" }).gguf)
    assert.equal("x-Q8_0.gguf", files.plan(names, { quant = "q8_0" }).gguf)
    assert.equal("x-Q4_K_S.gguf", files.plan(names, { file = "x-Q4_K_S.gguf" }).gguf)
    assert.same({ "BF16/x-BF16-00001-of-00002.gguf", "BF16/x-BF16-00002-of-00002.gguf" },
      files.plan(names, { quant = "BF16" }).weights)
    local plan, message = files.plan(names, { quant = "Q4_K" })
    assert.is_nil(plan)
    has(message, "it has no GGUF file of type Q4_K; it has BF16/x-BF16-00001-of-00002.gguf, x-Q4_K_M.gguf")
    names["BF16/x-BF16-00002-of-00002.gguf"] = nil
    has(select(2, files.plan(names, { quant = "BF16" })), "lacks BF16/x-BF16-00002-of-00002.gguf")
  end)

  it("may not be there", function()
    has(select(2, files.plan(set("config.json", "pytorch_model.bin"), { format = "auto" })), "pickle")
    has(select(2, files.plan(set("README.md"), { format = "auto" })), "neither safetensors nor GGUF")
    has(select(2, files.plan(set("m.gguf"), { format = "safetensors" })), "neither safetensors nor GGUF")
    has(select(2, files.plan(set("m.safetensors"), { format = "auto" })), "no config.json")
    has(select(2, files.plan(set("m.safetensors"), { tokenizer_only = true })), "neither tokenizer.json")
  end)
end)

describe("a download", function()
  it("fills the cache in its layout, and is not repeated", with_hub(function(hub, root)
    local contents = model_files()
    local repo = hub:add("org/tiny", contents)
    local path = assert(resolve "org/tiny")
    local folder = root .. "/models--org--tiny"
    assert.equal(folder .. "/snapshots/" .. repo.commit, path)
    assert.equal(repo.commit, support.slurp(folder .. "/refs/main"))
    local sums = {}
    for _, name in ipairs { "config.json", WEIGHTS, "tokenizer.json" } do
      local sum = fake_hub.sum(name, contents[name])
      sums[#sums + 1] = sum
      assert.equal("../../blobs/" .. sum, link_target(path .. "/" .. name))
      assert.equal(contents[name], support.slurp(path .. "/" .. name))
      assert.truthy(fs.stat(("%s/.locks/models--org--tiny/%s.lock"):format(root, sum)))
    end
    table.sort(sums)
    assert.same({ "config.json", WEIGHTS, "tokenizer.json" }, list(path))
    assert.same(sums, list(folder .. "/blobs"))
    assert.truthy(fs.stat(root .. "/CACHEDIR.TAG"))
    local n_api, n_files = hub.n_api, hub.n_files
    assert.equal(3, n_files)
    assert.equal(path, resolve "org/tiny")
    assert.same({ n_api, n_files }, { hub.n_api, hub.n_files })
  end))

  it("takes the shards that the index names", with_hub(function(hub)
    local contents = model_files()
    contents["model-00001-of-00001.safetensors"], contents[WEIGHTS] = contents[WEIGHTS], nil
    contents["stray.safetensors"] = "x"
    contents[files.INDEX] = '{"weight_map":{"a":"model-00001-of-00001.safetensors"}}'
    hub:add("org/sharded", contents)
    assert.same({ "config.json", "model-00001-of-00001.safetensors", files.INDEX, "tokenizer.json" },
      list(assert(resolve "org/sharded")))
    contents[files.INDEX] = '{"weight_map":{"a":"gone.safetensors"}}'
    hub:add("org/broken", contents)
    has(refused "org/broken", "no file gone.safetensors")
  end))

  it("takes one GGUF file, a tokenizer, or what a dummy needs", with_hub(function(hub)
    hub:add("org/many", { ["m-Q4_K_M.gguf"] = "four", ["m-Q8_0.gguf"] = "eight", ["sub/m.gguf"] = "sub" })
    assert.equal("four", support.slurp(assert(resolve "org/many")))
    assert.equal("eight", support.slurp(assert(resolve "org/many:Q8_0")))
    assert.equal("sub", support.slurp(assert(resolve "org/many/sub/m.gguf")))
    assert.same({ "m-Q4_K_M.gguf", "m-Q8_0.gguf", "sub/m.gguf" }, hub.files_log)
    has(refused "org/many:Q2_K", "it has no GGUF file of type Q2_K; it has m-Q4_K_M.gguf, m-Q8_0.gguf")
    hub:add("org/tiny", model_files())
    assert.same({ "config.json", "tokenizer.json" }, list(assert(resolve("org/tiny", { tokenizer_only = true }))))
    assert.equal(resolve("org/tiny", { load_format = "dummy" }), resolve("org/tiny", { tokenizer_only = true }))
    assert.same({ "config.json", WEIGHTS, "tokenizer.json" }, list(assert(resolve "org/tiny")))
  end))

  it("follows a branch, a tag or a commit", with_hub(function(hub, root)
    local repo = hub:add("org/tiny", model_files())
    repo.revisions["refs/pr/1"] = repo.commit
    local path = assert(resolve("org/tiny", { revision = repo.commit }))
    assert.same({}, list(root .. "/models--org--tiny/refs"))
    for _, revision in ipairs { "main", "v1.0", "refs/pr/1" } do
      assert.equal(path, resolve("org/tiny", { revision = revision }))
      assert.equal(repo.commit, support.slurp(root .. "/models--org--tiny/refs/" .. revision))
    end
    assert.equal(3, hub.n_files)
    has(refused("org/tiny", { revision = "v9" }), "org/tiny has no revision 'v9'")
    has(refused("org/tiny", { revision = "../../x" }), "no revision")
  end))

  it("goes to the directory that is asked for", with_hub(function(hub, root)
    hub:add("org/tiny", model_files())
    local path = assert(resolve("org/tiny", { download_dir = root .. "/else where" }))
    assert.equal(1, path:find(root .. "/else where/models--org--tiny/snapshots/", 1, true))
    setenv("HF_HUB_CACHE", root .. "/else where")
    assert.equal(path, resolve "org/tiny")
  end))
end)

describe("a cache", function()
  it("that cannot be written, or has no room, is named", with_hub(function(hub, root)
    local repo = hub:add("org/tiny", model_files())
    has(refused("org/tiny", { download_dir = "/dev/null/hub" }), "cannot make the directory /dev/null")
    repo.claimed_size = 2 ^ 60
    has(refused "org/tiny", "org/tiny needs 1073741824.0 GiB, and the file system of " .. root .. " has ")
    assert.equal(0, hub.n_files)
  end))
end)

describe("llm.fs", function()
  it("makes directories, lists and links", with_hub(function(_, root)
    assert.is_true(fs.mkdir(root .. "/a/b/"))
    assert.is_true(fs.mkdir(root .. "/a/b"))
    assert.same({ "b" }, fs.list(root .. "/a"))
    assert.same("directory", fs.stat(root .. "/a/b").type)
    assert.is_true(fs.symlink("b", root .. "/a/c"))
    assert.is_true(fs.symlink("b", root .. "/a/c"))
    local ok, message, code = fs.symlink("d", root .. "/a/c")
    assert.is_nil(ok)
    has(message, "cannot make the link " .. root .. "/a/c: File exists")
    ok, message, code = fs.list(root .. "/nothing")
    assert.same({ nil, "ENOENT" }, { ok, code })
    has(message, root .. "/nothing")
    assert.is_nil((fs.mkdir "/dev/null"))
    assert.is_nil((fs.lock(root .. "/nothing/lock")))
    assert.truthy(fs.room(root) > 0)
  end))

  it("locks and sums", with_hub(function(_, root)
    assert(fs.mkdir(root))
    local lock = assert(fs.lock(root .. "/lock"))
    assert.is_false(fs.lock(root .. "/lock"))
    lock:close()
    lock:close()
    assert.truthy(fs.lock(root .. "/lock"))
    local digest = fs.digest "sha256"
    digest:update "a"
    digest:update "bc"
    assert.equal("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", digest:hex())
    assert.has_error(function() digest:update "d" end)
    assert.has_error(function() fs.digest "crc" end)
    assert.equal("e69de29bb2d1d6434b8b29ae775ad8c2e48c5391", fake_hub.git_sum "")
  end))
end)

describe("a broken download", function()
  -- Sends n bytes of what is left and breaks the connection.
  local function cut_after(n, from, res, text)
    local rest = text:sub((from or 0) + 1)
    if from then res:status(206):header("Content-Range", ("bytes %d-%d/%d"):format(from, #text - 1, #text)) end
    res:start(#rest)
    res:write(rest:sub(1, n))
    res.exchange:cut()
    res.ended = true
    return true
  end

  it("goes on where the connection broke", with_hub(function(hub)
    local contents = model_files()
    hub:add("org/tiny", contents)
    local breaks = 0
    hub.on_file = function(_, path, from, res, text)
      if path ~= WEIGHTS or breaks == 3 then return end
      breaks = breaks + 1
      return cut_after(100000, from, res, text)
    end
    local path = assert(resolve "org/tiny")
    assert.equal(contents[WEIGHTS], support.slurp(path .. "/" .. WEIGHTS))
    local asked = {}
    for _, entry in ipairs(hub.files_log) do
      if entry:find(WEIGHTS, 1, true) then table.insert(asked, entry) end
    end
    assert.same({ WEIGHTS, WEIGHTS .. "@100000", WEIGHTS .. "@200000", WEIGHTS .. "@300000" }, asked)
  end))

  it("is given up when nothing more comes, and taken up again later", with_hub(function(hub, root)
    local contents = model_files()
    hub:add("org/tiny", contents)
    hub.on_file = function(_, path, from, res, text)
      if path ~= WEIGHTS then return end
      if not from then return cut_after(5000, from, res, text) end
      res:status(503):send "later"
      return true
    end
    has(refused "org/tiny", "model.safetensors: the hub at " .. hub.url .. " answers with status 503")
    local folder = root .. "/models--org--tiny"
    local partial = ("%s/blobs/%s.incomplete"):format(folder, fake_hub.sha256(contents[WEIGHTS]))
    assert.equal(contents[WEIGHTS]:sub(1, 5000), support.slurp(partial))
    assert.same({}, list(folder .. "/snapshots")) -- nothing has a name before all is there
    assert.same({}, list(folder .. "/refs"))
    hub.on_file, hub.files_log = nil, {}
    local path = assert(resolve "org/tiny")
    assert.same({ WEIGHTS .. "@5000" }, hub.files_log)
    assert.equal(contents[WEIGHTS], support.slurp(path .. "/" .. WEIGHTS))
    assert.is_nil((fs.stat(partial)))
  end))

  it("begins again where the server has no ranges or the part was wrong", with_hub(function(hub, root)
    local contents = model_files()
    hub:add("org/tiny", contents)
    local blobs = root .. "/models--org--tiny/blobs"
    local sum = fake_hub.sha256(contents[WEIGHTS])
    local function leave(text)
      support.shell("rm -rf " .. support.quote(root))
      assert(fs.mkdir(blobs))
      local file = assert(io.open(("%s/%s.incomplete"):format(blobs, sum), "wb"))
      file:write(text)
      file:close()
      hub.files_log = {}
    end
    local function complete()
      assert.equal(contents[WEIGHTS], support.slurp(assert(resolve "org/tiny") .. "/" .. WEIGHTS))
      assert.equal(3, #list(blobs)) -- and no partial file
    end
    leave(contents[WEIGHTS]:sub(1, 1000))
    hub.on_file = function(_, path, from, res, text)
      if path == WEIGHTS and from then res:send(text) return true end
    end
    complete()
    hub.on_file = nil
    leave(("?"):rep(1000))
    complete()
    leave(contents[WEIGHTS] .. "too long")
    complete()
    leave(contents[WEIGHTS]) -- all there, only the end of it was missed
    complete()
    for _, entry in ipairs(hub.files_log) do assert.is_nil(entry:find(WEIGHTS, 1, true)) end
  end))

  it("with a wrong checksum is refused, and leaves nothing behind", with_hub(function(hub, root)
    local repo = hub:add("org/tiny", model_files())
    repo.wrong_sums = true
    has(refused "org/tiny", "model.safetensors is not what the hub says it is")
    local folder = root .. "/models--org--tiny"
    assert.same({}, list(folder .. "/snapshots"))
    for _, name in ipairs(list(folder .. "/blobs")) do assert.equal(40, #name) end -- the small files, which were right
    repo.wrong_sums = false
    assert.truthy(resolve "org/tiny")
    hub:add("org/altered", { ["config.json"] = "{}", ["m.safetensors"] = "weights" })
    hub.on_file = function(_, path, _, res)
      if path == "config.json" then res:send "[]" return true end
    end
    has(refused "org/altered", "config.json is not what the hub says it is")
  end))

  it("may be slow, while others run", with_hub(function(hub)
    local contents = model_files()
    hub:add("org/tiny", contents)
    hub.on_file = function(_, path, _, res, text)
      if path ~= WEIGHTS then return end
      res:start(#text)
      for at = 1, #text, 50000 do
        res:write(text:sub(at, at + 49999))
        llm.sleep(0.005)
      end
      res:finish()
      return true
    end
    local ticks, done = 0, false
    tasks.spawn(function()
      while not done do
        llm.sleep(0.002)
        ticks = ticks + 1
      end
    end)
    assert.equal(contents[WEIGHTS], support.slurp(assert(resolve "org/tiny") .. "/" .. WEIGHTS))
    done = true
    assert.truthy(ticks > 0)
  end))

  it("waits for another that has the file under way", with_hub(function(hub, root)
    local contents = model_files()
    hub:add("org/tiny", contents)
    local locks = root .. "/.locks/models--org--tiny"
    assert(fs.mkdir(locks))
    local lock = assert(fs.lock(("%s/%s.lock"):format(locks, fake_hub.sha256(contents[WEIGHTS]))))
    local paths = {}
    for i = 1, 2 do tasks.spawn(function() paths[i] = assert(resolve "org/tiny") end) end
    llm.sleep(0.15)
    assert.same({}, paths)
    assert.same({}, list(root .. "/models--org--tiny/snapshots"))
    lock:close()
    while not (paths[1] and paths[2]) do llm.sleep(0.01) end
    assert.equal(paths[1], paths[2])
    assert.equal(3, hub.n_files)
  end))

  it("tries again when the hub is busy", with_hub(function(hub)
    hub:add("org/tiny", model_files())
    hub.on_api = function(n, res)
      if n > 2 then return end
      res:status(n == 1 and 500 or 429):header("Retry-After", "0"):send "busy"
      return true
    end
    assert.truthy(resolve "org/tiny")
    hub.on_api = function(_, res) res:status(502):send "down" return true end
    local message = refused "org/other"
    has(message, "answers with status 502")
    has(message, "HF_ENDPOINT")
  end))
end)

describe("the hub", function()
  it("gets the token, the file store does not", with_hub(function(hub, root)
    local repo = hub:add("org/gated", model_files())
    repo.token = "hf_secret"
    local message = refused "org/gated"
    has(message, "accept its licence at " .. hub.url .. "/org/gated")
    has(message, "HF_TOKEN")
    setenv("HF_TOKEN", "hf_wrong")
    has(refused "org/gated", "HF_TOKEN")
    setenv("HF_TOKEN", "hf_secret")
    assert.truthy(resolve "org/gated")
    assert.same({}, hub.leaks)
    setenv("HF_TOKEN", nil)
    local file = assert(io.open(root .. "/../token", "wb"))
    file:write("hf_secret\n")
    file:close()
    assert.truthy(resolve("org/gated", { download_dir = root .. "2" }))
    assert.truthy(resolve("org/gated", { download_dir = root .. "3", hf_token = "hf_secret" }))
    has(refused("org/gated", { download_dir = root .. "4", hf_token = "wrong" }), "licence")
    assert.same({}, hub.leaks)
    repo.closed = true
    has(refused("org/gated", { download_dir = root .. "5" }), "is not open to the account of this token")
  end))

  it("may not know the model", with_hub(function(hub)
    local message = refused "org/nothing"
    has(message, "there is no model org/nothing at " .. hub.url)
    has(message, "HF_TOKEN")
    hub:add("org/pickled", { ["config.json"] = "{}", ["pytorch_model.bin"] = "x" })
    has(refused "org/pickled", "llmlua cannot use org/pickled: it has only pytorch_model.bin")
  end))

  it("cannot write outside of the cache", with_hub(function(hub, root)
    local repo = hub:add("org/evil", model_files())
    repo.extra_paths = { "../../../../escape.safetensors", "/tmp/escape.safetensors", "a/../../b.safetensors" }
    local path = assert(resolve "org/evil")
    assert.same({ "config.json", WEIGHTS, "tokenizer.json" }, list(path))
    assert.same({ ".locks", "CACHEDIR.TAG", "models--org--evil" }, list(root))
  end))

  it("need not be there for what is cached", with_hub(function(hub, root)
    local contents = model_files()
    contents["tokenizer.json"] = nil
    hub:add("org/untokened", contents)
    local path = assert(resolve "org/untokened")
    setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    assert.equal(path, resolve "org/untokened") -- it asks whether there is a tokenizer now, and does without
    local message = refused "org/tiny"
    has(message, "neither a path here nor in the cache at " .. root)
    has(message, "the hub at http://127.0.0.1:1 does not give it")
    has(message, "give a path or copy the cache")
    setenv("HF_ENDPOINT", hub.url)
    setenv("HF_HUB_OFFLINE", "1")
    local n_api = hub.n_api
    assert.equal(path, resolve "org/untokened")
    has(refused "org/tiny", "HF_HUB_OFFLINE forbids to download it")
    assert.equal(n_api, hub.n_api)
    os.remove(path .. "/" .. WEIGHTS)
    has(refused "org/untokened", "nor in the cache")
  end))
end)

describe("an engine", function()
  it("opens by its name on the hub, and answers to it", with_hub(function(hub, root)
    hub:add("org/tiny", model_files())
    local options = { model = "org/tiny", revision = "v1.0", max_model_len = 64, threads = 1 }
    for round = 1, 2 do
      local engine = llm.engine(options)
      assert.equal("org/tiny", engine.model)
      local output = engine:generate("Hello", { max_tokens = 4, temperature = 0, ignore_eos = true },
        { progress = false })[1]
      assert.same({ 39, 68, 75, 75, 78 }, output.prompt_token_ids)
      assert.equal(4, #output.outputs[1].token_ids)
      engine:close()
      assert.equal(3, hub.n_files, "round " .. round)
    end
    assert.same({ 39, 72 }, llm.tokenizer("org/tiny"):encode "Hi")
    assert.has_error(function() llm.engine { model = "org/tiny", revision = "v2", max_model_len = 64 } end)
    assert.truthy(fs.stat(root .. "/models--org--tiny/refs/v1.0"))
  end))
end)
