-- Says how many connections of a user a lease has on a channel now, and announces who comes and who goes.
-- KEYS: the channel's members (user -> connections), the lease's entries, leases
-- ARGV: lease, user, entry (channel and user), connections, bus channel ('' if nobody is to be told),
--       announcement of a join, of a leave, '1' if the lease is being reaped
-- Returns 0 if the lease is not held any more: nothing was entered
local score = redis.call('ZSCORE', KEYS[3], ARGV[1])
if ARGV[8] ~= '1' and (not score or tonumber(score) == 0) then
  return 0
end

local count = tonumber(ARGV[4])
local was = tonumber(redis.call('HGET', KEYS[2], ARGV[3]) or 0)
if count == was then return 1 end
if count == 0 then
  redis.call('HDEL', KEYS[2], ARGV[3])
else
  redis.call('HSET', KEYS[2], ARGV[3], count)
end

local total = redis.call('HINCRBY', KEYS[1], ARGV[2], count - was)
if total <= 0 then
  redis.call('HDEL', KEYS[1], ARGV[2])
end
if ARGV[5] ~= '' then
  if total > 0 and total == count - was then
    redis.call('PUBLISH', ARGV[5], ARGV[6])
  elseif total <= 0 then
    redis.call('PUBLISH', ARGV[5], ARGV[7])
  end
end
return 1
