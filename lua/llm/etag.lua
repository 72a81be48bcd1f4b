-- An entity tag for a text: etag(text). FNV-1a of 32 bits and the length: it tells versions of a file apart, no more.

local bit = require "bit"

return function(text)
  local hash = bit.tobit(0x811c9dc5)
  for i = 1, #text do
    local x = bit.bxor(hash, text:byte(i))
    -- times 2^24 + 0x193, in steps that doubles hold
    hash = bit.tobit(bit.lshift(x, 24) + bit.tobit(bit.band(x, 0xffff) * 0x193)
      + bit.lshift(bit.tobit(bit.rshift(x, 16) * 0x193), 16))
  end
  return ('"%s-%x"'):format(bit.tohex(hash), #text)
end
