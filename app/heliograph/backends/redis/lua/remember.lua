-- Keeps an entry in a stream and makes it the latest of its key: both, or neither.
-- KEYS: stream, latest
-- ARGV: roughly how many entries to keep, ttl of the latest in ms, data, then the names and values of the other fields
-- Returns the entry's id
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], '*', 'data', ARGV[3], unpack(ARGV, 4))
redis.call('HSET', KEYS[2], 'id', id, 'data', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return id
