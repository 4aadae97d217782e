-- Keep an entry in a stream and make it the latest of its key: both, or neither.
-- KEYS: stream, latest
-- ARGV: roughly how many entries to keep, ttl of the latest in ms, data, then the names and values of the other fields
-- Return the entry's id
local stream, latest = KEYS[1], KEYS[2]
local max_entries, ttl_ms, data = ARGV[1], ARGV[2], ARGV[3]
local id = redis.call('XADD', stream, 'MAXLEN', '~', max_entries, '*', 'data', data, unpack(ARGV, 4))
redis.call('HSET', latest, 'id', id, 'data', data)
redis.call('PEXPIRE', latest, ttl_ms)
return id
