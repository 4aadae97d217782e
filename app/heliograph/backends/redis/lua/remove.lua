-- Forget what is kept of a channel: its publications, and a run's state. Its position stays, and offsets go on.
-- KEYS: meta, the log's two streams (see _keep.lua), state, tail
local meta = KEYS[1]
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
-- The next publication begins a new stream, which has no time to live yet; and what is gone was not to be delivered.
redis.call('HDEL', meta, 'due', 'untaken')
return 1
