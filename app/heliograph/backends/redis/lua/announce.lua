-- Publishes for a user what another server keeps; also if one replica holds them alone, as it was counted there.
-- keys, arguments, common: see relay.lua
-- Returns 'local', 'remote' or 'offline': see Delivery in app/heliograph/protocol/events.py
local holders, envelope = keys[1], arguments[1]
local lease, bus_channel = common[1], common[2]
say(bus_channel, envelope)
return (reach(holders, lease))
