-- Give a publication its position in the channel's log and keep it, on a server without subscribers: announce.lua
-- publishes it on another server.
-- keys, arguments, common: see _keep.lua; holders, settled_at and bus channel are not used
-- Return {answer (see _keep.lua), envelope to announce}; for a repetition, the answer alone
charge_client(keys, arguments)
local first = earlier_answer(keys, arguments)
if first then
  return {first}
end

local epoch, offset, body = keep(keys, arguments)
local count = lease ~= '' and ',"seq":' .. redis.call('HINCRBY', sequences, 'shared', 1) or ''
local answer = remember_answer(keys, arguments, epoch .. '.' .. offset .. '.stored')
return {answer, envelope(epoch, offset, body, count)}
