-- Return the fence, and the metas of channels that may have a message which nobody has taken in time.
-- KEYS: the sorted set of untaken messages
-- ARGV: how long ago the time must have come (ms), most metas to return
local untaken, slack_ms, most = KEYS[1], ARGV[1], ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', untaken, '-inf', now - slack_ms, 'LIMIT', 0, most)
return {fence, unpack(due)}
