-- Take or renew the leases of runs, by Redis' own clock. A worker that renews them is not lost.
-- KEYS: leases of runs
-- ARGV: ttl in ms, run ids ...
local leases, ttl_ms = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ttl_ms
for i = 2, #ARGV do -- run ids
  redis.call('ZADD', leases, deadline, ARGV[i])
end
return #ARGV - 1
