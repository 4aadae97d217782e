-- Keep what devices of a user have received. A position does not go back within its epoch.
-- KEYS: the user's receipts
-- ARGV: time to live (ms), how many are kept, then for each: its field, epoch, offset, time (ms since the epoch)
local receipts, ttl, most = KEYS[1], ARGV[1], tonumber(ARGV[2])
for i = 3, #ARGV, 4 do
  local field, epoch, offset, at = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  local known = redis.call('HGET', receipts, field)
  local known_epoch, known_offset = string.match(known or '', '^(.*)%.(%d+)%.%d+$')
  if known_epoch ~= epoch or tonumber(known_offset) < tonumber(offset) then
    redis.call('HSET', receipts, field, epoch .. '.' .. offset .. '.' .. at)
  end
end
local excess = redis.call('HLEN', receipts) - most
if excess > 0 then
  local all, by_age = redis.call('HGETALL', receipts), {}
  for i = 1, #all, 2 do
    by_age[#by_age + 1] = {tonumber(string.match(all[i + 1], '(%d+)$')), all[i]}
  end
  table.sort(by_age, function(one, other) return one[1] < other[1] end)
  for i = 1, excess do
    redis.call('HDEL', receipts, by_age[i][2])
  end
end
redis.call('PEXPIRE', receipts, ttl)
return 1
