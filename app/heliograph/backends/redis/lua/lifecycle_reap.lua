-- Forget entries of a lease, and note who is there no more.
-- KEYS: the lease's own list of what it has, then the holders (lease -> anything) of each
-- ARGV: lease, since when they are gone (ms; '': now), 'u' for users (the list is a set) or 'c' for channels (it is a
--       hash), then a name for each of the holders
local list, lease, gone_at, prefix = KEYS[1], ARGV[1], tonumber(ARGV[2]) or now, ARGV[3]
local FIRST_NAME = 4
local forget = prefix == 'u' and 'SREM' or 'HDEL'
for i = 2, #KEYS do
  local holders, name = KEYS[i], ARGV[FIRST_NAME + i - 2]
  redis.call(forget, list, name)
  if redis.call('HDEL', holders, lease) == 1 and redis.call('HLEN', holders) == 0 then
    went(prefix .. name, math.min(gone_at, now))
  end
end
