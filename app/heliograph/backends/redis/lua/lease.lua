-- Take or renew a lease, by Redis' own clock, so that the replicas' clocks do not matter.
-- KEYS: leases, replicas, settled_at, server
-- ARGV: lease, the replica's report, ttl in ms, "take" or "renew", ms until an empty directory is reliable,
--       the deadline that the last call returned (0: there was none),
--       the shard that the replica takes this server for, 1 if it may be written down, the name of a single server
-- Return {1 if held else 0, the server's name, the lease's deadline, 1 if the shard was written down, expired leases
-- of others ...}. If the name has changed, or the lease is not held, entries may be missing. Return {-1, layout} for
-- another layout than the server's own: there is no lease then. The layout is empty if the server has none, and may not
-- be given one now.
local leases, replicas, settled_at_key, server_key = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local lease, report, ttl_ms, verb, settle_ms, known_deadline, layout, may_write, single = unpack(ARGV)
local server = string.sub(fence, 1, -2)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local wrote = 0
local kept = redis.call('HGET', server_key, 'layout')
if (kept or single) ~= layout then
  if kept then return {-1, kept} end
  -- Live leases without a layout are those of a cluster with this server alone.
  if redis.call('ZCOUNT', leases, now, '+inf') > 0 then return {-1, single} end
  if may_write ~= '1' then return {-1, ''} end
  redis.call('HSET', server_key, 'layout', layout)
  wrote = 1
end

local score = tonumber(redis.call('ZSCORE', leases, lease) or 0)
-- The deadline is before the one that was acknowledged: the server has gone back to older data.
local went_back = score > 0 and score < tonumber(known_deadline)

-- After a loss of data the other replicas must register their users again. Until then, "nobody else holds the user" is
-- not reliable. `settled_at` of an earlier process does not count: later entries may be lost.
local settled_at = redis.call('GET', settled_at_key)
if went_back or not settled_at or string.sub(settled_at, 1, #server + 1) ~= server .. '.' then
  redis.call('SET', settled_at_key, server .. '.' .. string.format('%d', now + settle_ms))
end
-- Keep the name for programs without the right to ask for it (script_loading.py).
redis.call('HSETNX', server_key, 'name', server)

if verb == 'renew' and (score == 0 or went_back) then
  return {0, server, 0, wrote}
end
redis.call('ZADD', leases, now + ttl_ms, lease)
redis.call('HSET', replicas, lease, report)
-- At most 100 at a time, because Lua cannot return thousands; the next renewal returns the rest.
local expired = redis.call('ZRANGEBYSCORE', leases, '-inf', now, 'LIMIT', 0, 100)
return {1, server, now + ttl_ms, wrote, unpack(expired)}
