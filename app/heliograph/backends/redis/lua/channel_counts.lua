-- Says how many connections a lease has on some channels now.
-- KEYS: leases, the lease's counts
-- ARGV: lease, then a channel and its count, and so on
-- Returns 0 if the lease is not held any more: nothing was entered
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score or tonumber(score) == 0 then
  return 0
end
for i = 2, #ARGV, 2 do
  if ARGV[i + 1] == '0' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
return 1
