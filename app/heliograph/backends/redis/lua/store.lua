-- Gives a publication its place in the channel's log and keeps it, on a server that nobody listens to: it is to be
-- announced on another.
-- keys, arguments, common: see _keep.lua; the holders, settled_at and the bus channel are not looked at
-- Returns {answer (see _keep.lua), what to announce}; for a repetition without the last
pay(keys, arguments)
local first = answered(keys, arguments)
if first then
  return {first}
end

local epoch, offset, body = keep(keys, arguments)
local count = lease ~= '' and ',"seq":' .. redis.call('HINCRBY', sequences, 'shared', 1) or ''
local answer = remembered(keys, arguments, epoch .. '.' .. offset .. '.stored')
return {answer, envelope(epoch, offset, body, count)}
