-- Set what presence.lua sets, and tell who subscribes and unsubscribes.
-- presence.lua comes before this, as the function `presence`; its keys, arguments and answer are those of this script.
-- ARGV: one more: since when those are gone that are reaped (ms; '': now)
-- Who leaves by itself has had the grace of presence already.
local members, user, entry, is_reaped = KEYS[1], ARGV[2], ARGV[3], ARGV[8] == '1'
local gone_at = tonumber(take_last(ARGV, 1)) or now
local was_there = redis.call('HEXISTS', members, user)
if presence() == 0 then
  return 0
end
local is_there = redis.call('HEXISTS', members, user)
if is_there > was_there then
  came('s' .. entry, 'user', user, 'channel', cjson.decode(entry)[1])
elseif is_there < was_there then
  if is_reaped then
    went('s' .. entry, math.min(gone_at, now))
  else
    tell(goes, now, replica, 'user', user, 'channel', cjson.decode(entry)[1])
  end
end
return 1
