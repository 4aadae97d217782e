-- Publishes an envelope for a user, unless the replica that asks is known to hold every connection of that user.
-- `directed`: see append.lua; the replica that asks needs no copy.
-- keys: the user's holders; common keys: settled_at
-- arguments: envelope; common: the asking replica's lease, bus channel
-- Returns 'local', 'remote' or 'offline': see Delivery in app/heliograph/protocol/events.py
local holders, envelope = keys[1], arguments[1]
local lease, bus_channel = common[1], common[2]
local delivery, publish, leases = reach(holders, lease)
if directed and delivery == 'remote' then
  local asking = string.match(lease, '^(.*)%.')
  each_node(leases, function(node)
    if node ~= asking then
      say(bus_channel .. '@' .. node .. ':in', envelope)
    end
  end)
elseif publish then
  say(bus_channel, envelope)
end
return delivery
