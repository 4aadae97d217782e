-- Publishes an envelope for a user, unless the replica that asks is known to hold every connection of that user.
-- `directed`: see append.lua; the replica that asks needs no copy.
-- KEYS: the user's holders; common: settled_at
-- ARGV: envelope; common: the asking replica's lease, bus channel
-- Returns 'local', 'remote' or 'offline': see Delivery in app/heliograph/protocol/events.py
local lease, bus_channel = unpack(common)
local delivery, publish, leases = reach(KEYS[1], lease)
if directed and delivery == 'remote' then
  local asking = string.match(lease, '^(.*)%.')
  each_node(leases, function(node)
    if node ~= asking then
      say(bus_channel .. '@' .. node .. ':in', ARGV[1])
    end
  end)
elseif publish then
  say(bus_channel, ARGV[1])
end
return delivery
