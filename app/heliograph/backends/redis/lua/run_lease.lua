-- Takes or renews the leases of runs: as long as a worker does so, it has not been lost. By Redis' own clock.
-- KEYS: leases of runs
-- ARGV: ttl in ms, run ids ...
local time = redis.call('TIME')
local deadline = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
for i = 2, #ARGV do
  redis.call('ZADD', KEYS[1], deadline, ARGV[i])
end
return #ARGV - 1
