-- Note what another server must know to continue the logs of this one, should it be promoted: see promotion.py.
-- KEYS: server
-- ARGV: the id of this server's replication stream ('' if unknown), how many replicas confirm a message, then the
--       addresses of the replicas that it has now
-- Return 1
local server_key, stream_id, confirming = KEYS[1], ARGV[1], tonumber(ARGV[2])
local server = string.sub(fence, 1, -2)
local time = redis.call('TIME')
redis.call('HSET', server_key, 'seen:' .. server, string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000)))
if stream_id == '' then return 1 end
redis.call('HSET', server_key, 'stream:' .. stream_id, server)

-- A replica that has followed this stream may be promoted, though it is away now and others confirm.
local copies, weak = unpack(redis.call('HMGET', server_key, 'copies:' .. stream_id, 'weak:' .. stream_id))
if weak then return 1 end
local known, count = copies or ' ', 0
local all = known
for i = 3, #ARGV do
  if not string.find(all, ' ' .. ARGV[i] .. ' ', 1, true) then all = all .. ARGV[i] .. ' ' end
end
for _ in string.gmatch(all, '%S+') do count = count + 1 end
if all ~= known then redis.call('HSET', server_key, 'copies:' .. stream_id, all) end
if count > confirming then redis.call('HSET', server_key, 'weak:' .. stream_id, 1) end
return 1
