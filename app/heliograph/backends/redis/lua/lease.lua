-- Takes or renews a lease. By Redis' own clock, so that the replicas' clocks do not matter.
-- KEYS: leases, replicas, settled_at, server
-- ARGV: lease, what the replica says of itself, ttl in ms, "take" or "renew", ms until the directory is believed,
--       the deadline that the last call has returned (0: there was none)
-- Returns {1 if held else 0, the server's name, the lease's deadline, leases of others that ran out ...}. Another name
-- than before, or a lease that is not held, says that entries may be missing.
local server = string.sub(fence, 1, -2)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local score = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 0)
-- A deadline before the one that was acknowledged: these data are older than that.
local went_back = score > 0 and score < tonumber(ARGV[6])

-- After a loss of data the others must enter their users again, and who finds nobody else must not believe it so long.
-- What was settled before a restart says nothing: entries that were made since may be gone.
local settled_at = redis.call('GET', KEYS[3])
if went_back or not settled_at or string.sub(settled_at, 1, #server + 1) ~= server .. '.' then
  redis.call('SET', KEYS[3], server .. '.' .. string.format('%d', now + ARGV[5]))
end
-- The name is written down for those who may not ask for it (script_loading.py).
redis.call('HSETNX', KEYS[4], 'name', server)

if ARGV[4] == 'renew' and (score == 0 or went_back) then
  return {0, server, 0}
end
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
-- A few at a time: Lua cannot return thousands, and the next renewal brings the rest.
local expired = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)
return {1, server, now + ARGV[3], unpack(expired)}
