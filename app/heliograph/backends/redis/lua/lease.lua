-- Takes or renews a lease. By Redis' own clock, so that the replicas' clocks do not matter.
-- KEYS: leases, replicas, settled_at, server
-- ARGV: lease, what the replica says of itself, ttl in ms, "take" or "renew", ms until the directory is believed,
--       the deadline that the last call has returned (0: there was none)
-- Returns {1 if held else 0, the server's name, the lease's deadline, leases of others that ran out ...}. Another name
-- than before, or a lease that is not held, says that entries may be missing.
local leases, replicas, settled_at_key, server_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lease, about, ttl_ms, verb, settle_ms, known_deadline = unpack(ARGV)
local server = string.sub(fence, 1, -2)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local score = tonumber(redis.call('ZSCORE', leases, lease) or 0)
-- A deadline before the one that was acknowledged: these data are older than that.
local went_back = score > 0 and score < tonumber(known_deadline)

-- After a loss of data the others must enter their users again, and who finds nobody else must not believe it so long.
-- What was settled before a restart says nothing: entries that were made since may be gone.
local settled_at = redis.call('GET', settled_at_key)
if went_back or not settled_at or string.sub(settled_at, 1, #server + 1) ~= server .. '.' then
  redis.call('SET', settled_at_key, server .. '.' .. string.format('%d', now + settle_ms))
end
-- The name is written down for those who may not ask for it (script_loading.py).
redis.call('HSETNX', server_key, 'name', server)

if verb == 'renew' and (score == 0 or went_back) then
  return {0, server, 0}
end
redis.call('ZADD', leases, now + ttl_ms, lease)
redis.call('HSET', replicas, lease, about)
-- A few at a time: Lua cannot return thousands, and the next renewal brings the rest.
local expired = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 100)
return {1, server, now + ttl_ms, unpack(expired)}
