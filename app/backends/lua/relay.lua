-- Publishes an envelope for a user, unless the replica that asks is known to hold every connection of that user.
-- KEYS: the user's holders, settled_at
-- ARGV: the asking replica's lease, bus channel, envelope
-- Returns 'local', 'remote' or 'offline': see Delivery in app/protocol/events.py
local mine, elsewhere = false, false
for _, lease in ipairs(redis.call('HKEYS', KEYS[1])) do
  if lease == ARGV[1] then mine = true else elsewhere = true end
end

local sole = mine and not elsewhere
if sole then
  -- After a loss of data "nobody else" may only mean "nobody else yet".
  local settled_at = redis.call('GET', KEYS[2])
  local time = redis.call('TIME')
  sole = settled_at and tonumber(settled_at) <= time[1] * 1000 + math.floor(time[2] / 1000)
end
if not sole then
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end

if elsewhere then return 'remote' elseif mine then return 'local' else return 'offline' end
