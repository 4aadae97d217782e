-- Gives a publication its place in the channel's log, keeps it and publishes it: all of that, or none.
-- `directed`: to a user who is elsewhere, to the inboxes of the replicas that hold them; otherwise on the bus channel,
-- and so to all. What one channel of the bus brings is counted, so that a missing one shows.
-- KEYS, ARGV: see _keep.lua
-- Returns the answer (see _keep.lua); to a repetition the first one's
pay()
local first = answered()
if first then
  return first
end

local epoch, offset, body = keep()

if lease == '' then
  say(ARGV[1], envelope(epoch, offset, body, ''))
  return remembered(epoch .. '.' .. offset .. '.remote')
end

-- A user whom only the asking replica holds gets it there, and nobody else need hear of it.
local delivery, publish, leases = reach(KEYS[4], lease)
if directed and delivery == 'remote' then
  each_node(leases, function(node)
    local count = ',"own_seq":' .. redis.call('HINCRBY', common_keys[2], node, 1)
    say(ARGV[1] .. '@' .. node .. ':in', envelope(epoch, offset, body, count))
  end)
elseif publish then
  local count = ',"seq":' .. redis.call('HINCRBY', common_keys[2], 'shared', 1)
  say(ARGV[1], envelope(epoch, offset, body, count))
end
if delivery == 'offline' then delivery = 'stored' end
if not publish then delivery = 'here' end
return remembered(epoch .. '.' .. offset .. '.' .. delivery)
