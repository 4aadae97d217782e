-- Takes or renews a lease. By Redis' own clock, so that the replicas' clocks do not matter.
-- KEYS: leases, replicas, settled_at
-- ARGV: lease, what the replica says of itself, ttl in ms, "take" or "renew", ms until an empty directory is believed
-- Returns {1 if held else 0, leases of others that ran out ...}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])

if ARGV[4] == 'renew' and (not score or tonumber(score) == 0) then
  return {0}
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
-- Only the first lease in an empty Redis sets this: after a loss of data the others must enter their users again.
redis.call('SET', KEYS[3], now + ARGV[5], 'NX')
-- A few at a time: Lua cannot return thousands, and the next renewal brings the rest.
return {1, unpack(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100))}
