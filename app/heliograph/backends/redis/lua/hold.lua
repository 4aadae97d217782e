-- Set how many connections of some users a lease has.
-- KEYS: leases, the lease's set of users, then the users' holders
-- ARGV: lease, then a user and a count for each of the holders
-- Return how many connections each user has under all leases. Entries of this replica under its older leases do not
-- count, because they are the same connections. Return nothing if the lease is not held any more: an entry under a
-- lease that was reaped would stay for ever.
local leases, users, lease = KEYS[1], KEYS[2], ARGV[1]
local score = redis.call('ZSCORE', leases, lease)
if not score or tonumber(score) == 0 then
  return {}
end

local node = string.match(lease, '^(.*)%.')
local totals = {}
for i = 3, #KEYS do
  local holders, user, count = KEYS[i], ARGV[2 * i - 4], ARGV[2 * i - 3]
  if count == '0' then
    redis.call('HDEL', holders, lease)
    redis.call('SREM', users, user)
  else
    redis.call('HSET', holders, lease, count)
    redis.call('SADD', users, user)
  end
  local total, held = 0, redis.call('HGETALL', holders)
  for j = 1, #held, 2 do
    if held[j] == lease or not node or string.match(held[j], '^(.*)%.') ~= node then
      total = total + held[j + 1]
    end
  end
  totals[i - 2] = total
end
return totals
