-- Give a publication its position in the channel's log, keep it and publish it: all of it or nothing.
-- It goes to all replicas, on the bus channel. With `directed`, a message to a user on other replicas goes only into
-- the inboxes of those replicas. Publications for users are numbered on each bus channel, which shows a missing one.
-- keys, arguments, common: see _keep.lua
-- Return the answer (see _keep.lua); for a repetition, the answer to the first
local holders, bus_channel = keys[4], arguments[1]
charge_client(keys, arguments)
local first = earlier_answer(keys, arguments)
if first then
  return first
end

local epoch, offset, body = keep(keys, arguments)

if lease == '' then
  publish_at_end(bus_channel, envelope(epoch, offset, body, ''))
  return remember_answer(keys, arguments, epoch .. '.' .. offset .. '.remote')
end

-- If the calling replica alone holds the user, it delivers the message, and nothing is published.
local delivery, publish, leases = lookup_delivery(holders, lease)
if directed and delivery == 'remote' then
  each_holder(leases, function(node)
    local count = ',"own_seq":' .. redis.call('HINCRBY', sequences, node, 1)
    publish_at_end(bus_channel .. '@' .. node .. ':in', envelope(epoch, offset, body, count))
  end)
elseif publish then
  local count = ',"seq":' .. redis.call('HINCRBY', sequences, 'shared', 1)
  publish_at_end(bus_channel, envelope(epoch, offset, body, count))
end
if delivery == 'offline' then delivery = 'stored' end
if not publish then delivery = 'here' end
return remember_answer(keys, arguments, epoch .. '.' .. offset .. '.' .. delivery)
