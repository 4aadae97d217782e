-- Set how many connections a lease has on some channels, as channel_counts.lua does, and tell which are occupied.
-- channel_counts.lua comes before this, as the function `channel_counts`; its arguments and answer are those of this
-- script, and its keys come first.
-- KEYS: leases, the lease's counts, then for each channel the leases that have subscribers (lease -> 1)
local leases, lease = KEYS[1], ARGV[1]

-- Return how many leases have subscribers, without those that were forgotten while events were off.
local function count_leases(occupants)
  local count = 0
  for _, each in ipairs(redis.call('HKEYS', occupants)) do
    if redis.call('ZSCORE', leases, each) then
      count = count + 1
    else
      redis.call('HDEL', occupants, each)
    end
  end
  return count
end

if channel_counts() == 0 then
  return 0
end
for i = 2, #ARGV, 2 do
  local channel, occupants = ARGV[i], KEYS[2 + i / 2]
  local before = count_leases(occupants)
  if ARGV[i + 1] ~= '0' then
    redis.call('HSET', occupants, lease, 1)
    if before == 0 then
      came('c' .. channel, 'channel', channel)
    end
  elseif redis.call('HDEL', occupants, lease) == 1 and before == 1 then
    went('c' .. channel, now)
  end
end
return 1
