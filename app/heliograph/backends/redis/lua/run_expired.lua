-- Return the runs whose lease has expired, the oldest first. This changes nothing.
-- KEYS: leases of runs
-- ARGV: most runs to return
local leases, most = KEYS[1], ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, most)
