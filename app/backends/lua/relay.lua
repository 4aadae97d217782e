-- Publishes an envelope for a user, unless the replica that asks is known to hold every connection of that user.
-- KEYS: the user's holders, settled_at
-- ARGV: the asking replica's lease, bus channel, envelope
-- Returns 'local', 'remote' or 'offline': see Delivery in app/protocol/events.py
local delivery, publish = reach(KEYS[1], KEYS[2], ARGV[1])
if publish then
  redis.call('PUBLISH', ARGV[2], ARGV[3])
end
return delivery
