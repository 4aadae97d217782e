-- Note what another server must know to continue the logs of this one, should it take over: see promotion.py.
-- KEYS: server
-- ARGV: the id of this server's replication stream ('' if unknown), '1' if it has more replicas than confirm a message
-- Return 1
local server_key, stream_id, has_others = KEYS[1], ARGV[1], ARGV[2]
local server = string.sub(fence, 1, -2)
local time = redis.call('TIME')
redis.call('HSET', server_key, 'seen:' .. server, time[1] * 1000 + math.floor(time[2] / 1000))
if stream_id ~= '' then
  redis.call('HSET', server_key, 'stream:' .. stream_id, server)
end
if has_others == '1' then
  redis.call('HSET', server_key, 'weak:' .. server, 1)
end
return 1
