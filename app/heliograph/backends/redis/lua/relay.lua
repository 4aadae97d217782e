-- Publish an envelope for a user, unless the calling replica is known to hold every connection of that user.
-- `directed`: see append.lua; the calling replica needs no copy.
-- keys: the user's holders; common keys: settled_at
-- arguments: envelope; common: the calling replica's lease, bus channel
-- Return 'local', 'remote' or 'offline': see Delivery in app/heliograph/protocol/events.py
local holders, envelope = keys[1], arguments[1]
local lease, bus_channel = common[1], common[2]
local delivery, publish, leases = lookup_delivery(holders, lease)
if directed and delivery == 'remote' then
  local own_node = string.match(lease, '^(.*)%.')
  each_holder(leases, function(node)
    if node ~= own_node then
      publish_at_end(bus_channel .. '@' .. node .. ':in', envelope)
    end
  end)
elseif publish then
  publish_at_end(bus_channel, envelope)
end
return delivery
