-- Set how many connections of a user a lease has on a channel, and publish a join or a leave.
-- KEYS: the channel's members (user -> connections), the lease's entries, leases
-- ARGV: lease, user, entry (channel and user), connections, bus channel ('' to publish nothing), envelope of a join,
--       envelope of a leave, '1' if the lease is being reaped
-- Return 1; or 0 if the lease is not held any more, and then nothing was set
local members, entries, leases = KEYS[1], KEYS[2], KEYS[3]
local lease, user, entry, bus_channel, join, leave = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6], ARGV[7]
local count, is_reaped = tonumber(ARGV[4]), ARGV[8] == '1'

local score = redis.call('ZSCORE', leases, lease)
if not is_reaped and (not score or tonumber(score) == 0) then
  return 0
end

local was = tonumber(redis.call('HGET', entries, entry) or 0)
if count == was then return 1 end
if count == 0 then
  redis.call('HDEL', entries, entry)
else
  redis.call('HSET', entries, entry, count)
end

local total = redis.call('HINCRBY', members, user, count - was)
if total <= 0 then
  redis.call('HDEL', members, user)
end
if bus_channel ~= '' then
  if total > 0 and total == count - was then
    redis.call('PUBLISH', bus_channel, join)
  elseif total <= 0 then
    redis.call('PUBLISH', bus_channel, leave)
  end
end
return 1
