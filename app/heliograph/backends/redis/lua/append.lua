-- Gives a publication its place in the channel's log, keeps it and publishes it: all of that, or none.
-- `directed`: to a user who is elsewhere, to the inboxes of the replicas that hold them; otherwise on the bus channel,
-- and so to all. What one channel of the bus brings is counted, so that a missing one shows.
-- keys, arguments, common: see _keep.lua
-- Returns the answer (see _keep.lua); to a repetition the first one's
local holders, bus_channel = keys[4], arguments[1]
pay(keys, arguments)
local first = answered(keys, arguments)
if first then
  return first
end

local epoch, offset, body = keep(keys, arguments)

if lease == '' then
  say(bus_channel, envelope(epoch, offset, body, ''))
  return remembered(keys, arguments, epoch .. '.' .. offset .. '.remote')
end

-- A user whom only the asking replica holds gets it there, and nobody else need hear of it.
local delivery, publish, leases = reach(holders, lease)
if directed and delivery == 'remote' then
  each_node(leases, function(node)
    local count = ',"own_seq":' .. redis.call('HINCRBY', sequences, node, 1)
    say(bus_channel .. '@' .. node .. ':in', envelope(epoch, offset, body, count))
  end)
elseif publish then
  local count = ',"seq":' .. redis.call('HINCRBY', sequences, 'shared', 1)
  say(bus_channel, envelope(epoch, offset, body, count))
end
if delivery == 'offline' then delivery = 'stored' end
if not publish then delivery = 'here' end
return remembered(keys, arguments, epoch .. '.' .. offset .. '.' .. delivery)
