-- Set how many connections of a user a lease has on a channel and which of them come or go, and publish who joins and
-- leaves.
-- KEYS: the channel's members (user -> connections), the lease's entries, leases, the channel's clients (client ->
--       record), the lease's clients
-- ARGV: lease, user, entry (channel and user), connections, bus channel ('' to publish nothing), envelope of a join,
--       envelope of a leave, '1' if the lease is being reaped, the beginnings of the envelopes of a client's join and
--       leave, which end with its record; then for each client its id, its place in the lease's clients, and its record
--       ('' if it leaves)
-- Return 1; or 0 if the lease is not held any more, and then nothing was set
local members, entries, leases, clients, places = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local lease, user, entry, bus_channel, join, leave = ARGV[1], ARGV[2], ARGV[3], ARGV[5], ARGV[6], ARGV[7]
local count, is_reaped, client_joins, client_leaves = tonumber(ARGV[4]), ARGV[8] == '1', ARGV[9], ARGV[10]
local FIRST_CLIENT, PER_CLIENT = 11, 3

local score = redis.call('ZSCORE', leases, lease)
if not is_reaped and (not score or tonumber(score) == 0) then
  return 0
end

local lines = {}
local was = tonumber(redis.call('HGET', entries, entry) or 0)
if count ~= was then
  if count == 0 then
    redis.call('HDEL', entries, entry)
  else
    redis.call('HSET', entries, entry, count)
  end
  local total = redis.call('HINCRBY', members, user, count - was)
  if total <= 0 then
    redis.call('HDEL', members, user)
  end
  if total > 0 and total == count - was then
    lines[#lines + 1] = join
  elseif total <= 0 then
    lines[#lines + 1] = leave
  end
end

for i = FIRST_CLIENT, #ARGV, PER_CLIENT do
  local client, place, record = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if record ~= '' then
    redis.call('SADD', places, place)
    if redis.call('HSETNX', clients, client, record) == 1 then
      lines[#lines + 1] = client_joins .. record .. '}'
    end
  else
    redis.call('SREM', places, place)
    local known = redis.call('HGET', clients, client)
    if known then
      redis.call('HDEL', clients, client)
      lines[#lines + 1] = client_leaves .. known .. '}'
    end
  end
end

if bus_channel ~= '' and #lines > 0 then
  redis.call(publish, bus_channel, table.concat(lines, '\n'))
end
return 1
