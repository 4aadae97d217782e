-- Publishes for a user what another server keeps; also if one replica holds them alone, as it was counted there.
-- KEYS, ARGV: see relay.lua
-- Returns 'local', 'remote' or 'offline': see Delivery in app/heliograph/protocol/events.py
local lease, bus_channel = unpack(common)
say(bus_channel, ARGV[1])
return (reach(KEYS[1], lease))
