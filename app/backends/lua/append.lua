-- Gives a publication its place in the channel's log, keeps it and publishes it: all of that, or none.
-- KEYS, ARGV: see _keep.lua
-- Returns {epoch, offset, delivery, 1 if published, message id}; for a repetition those of the first try
local first = answered()
if first then
  return first
end

local epoch, offset, body = keep()

-- A user whom only the asking replica holds gets it there, and nobody else need hear of it.
local delivery, publish = 'remote', true
if ARGV[8] == '1' then
  delivery, publish = reach(KEYS[4], KEYS[5], ARGV[7])
  if delivery == 'offline' then delivery = 'stored' end
end
if publish then
  redis.call('PUBLISH', ARGV[6], envelope(epoch, offset, body))
end

local answer = {epoch, offset, delivery, publish and 1 or 0, ARGV[9]}
remember_answer(answer)
return answer
