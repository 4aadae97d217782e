-- Publish for a user what another server keeps: always, because that server has counted it as published.
-- keys, arguments, common: see relay.lua
-- Return 'local', 'remote' or 'offline': see Delivery in app/heliograph/protocol/events.py
local holders, envelope = keys[1], arguments[1]
local lease, bus_channel = common[1], common[2]
publish_at_end(bus_channel, envelope)
return (lookup_delivery(holders, lease))
