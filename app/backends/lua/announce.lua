-- Publishes for a user what another server keeps; also if one replica holds them alone, as it was counted there.
-- KEYS: the user's holders, settled_at
-- ARGV: the asking replica's lease, bus channel, envelope
-- Returns 'local', 'remote' or 'offline': see Delivery in app/protocol/events.py
say(ARGV[2], ARGV[3])
return (reach(KEYS[1], KEYS[2], ARGV[1]))
