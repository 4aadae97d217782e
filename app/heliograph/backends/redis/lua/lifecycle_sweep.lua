-- Tell who is absent for the whole grace; and note that events are written.
-- KEYS: only those of _lifecycle.lua
-- ARGV: grace in ms, `seen_at` of the last answer (0: there was none), most to tell of, kinds of event for users, channels
--       and subscriptions ('': not told)
-- Return {how many were told of, seen_at}
local grace_ms, known_seen_at, most, user_goes, channel_goes, subscription_goes = unpack(ARGV)
if not is_stale and seen_at < tonumber(known_seen_at) then
  tell_gap(seen_at) -- the server has gone back to older data
end
redis.call('HSET', about, 'seen_at', now)

local due = redis.call('ZRANGEBYSCORE', absent, '-inf', now - grace_ms, 'WITHSCORES', 'LIMIT', 0, most)
for i = 1, #due, 2 do
  local subject, at = due[i], due[i + 1]
  local prefix, name = string.sub(subject, 1, 1), string.sub(subject, 2)
  local by = redis.call('HGET', last_with, subject) or ''
  redis.call('ZREM', absent, subject)
  redis.call('HDEL', last_with, subject)
  if prefix == 'u' then
    tell(user_goes, at, by, 'user', name)
  elseif prefix == 'c' then
    tell(channel_goes, at, by, 'channel', name)
  else
    local entry = cjson.decode(name)
    tell(subscription_goes, at, by, 'user', entry[2], 'channel', entry[1])
  end
end
return {#due / 2, now}
