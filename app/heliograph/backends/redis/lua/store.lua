-- Gives a publication its place in the channel's log and keeps it, on a server that nobody listens to: it is to be
-- announced on another.
-- KEYS, ARGV: see _keep.lua; the holders, settled_at and the bus channel are not looked at
-- Returns {answer (see _keep.lua), what to announce}; for a repetition without the last
pay()
local first = answered()
if first then
  return {first}
end

local epoch, offset, body = keep()
local count = lease ~= '' and ',"seq":' .. redis.call('HINCRBY', common_keys[2], 'shared', 1) or ''
return {remembered(epoch .. '.' .. offset .. '.stored'), envelope(epoch, offset, body, count)}
