-- Publishes an envelope for a user, unless the replica that asks is known to hold every connection of that user.
-- `directed`: see append.lua; the replica that asks needs no copy.
-- KEYS: the user's holders, settled_at
-- ARGV: the asking replica's lease, bus channel, envelope
-- Returns 'local', 'remote' or 'offline': see Delivery in app/protocol/events.py
local delivery, publish, leases = reach(KEYS[1], KEYS[2], ARGV[1])
if directed and delivery == 'remote' then
  local asking = string.match(ARGV[1], '^(.*)%.')
  each_node(leases, function(node)
    if node ~= asking then
      say(ARGV[2] .. '@' .. node .. ':in', ARGV[3])
    end
  end)
elseif publish then
  say(ARGV[2], ARGV[3])
end
return delivery
