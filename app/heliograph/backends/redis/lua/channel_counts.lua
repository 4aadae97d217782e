-- Set how many connections a lease has on some channels.
-- KEYS: leases, the lease's counts
-- ARGV: lease, then channels, each with its count
-- Return 1; or 0 if the lease is not held any more, and then nothing was set
local leases, counts, lease = KEYS[1], KEYS[2], ARGV[1]
local score = redis.call('ZSCORE', leases, lease)
if not score or tonumber(score) == 0 then
  return 0
end
for i = 2, #ARGV, 2 do
  local channel, count = ARGV[i], ARGV[i + 1]
  if count == '0' then
    redis.call('HDEL', counts, channel)
  else
    redis.call('HSET', counts, channel, count)
  end
end
return 1
