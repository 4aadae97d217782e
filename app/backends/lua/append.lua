-- Gives a publication its place in the channel's log, keeps it and publishes it: all of that, or none.
-- KEYS: meta, stream, idempotency key, holders, settled_at, bus sequence, state, tail
-- ARGV: new epoch, history size, ttl in ms, how much longer meta stays in ms, ttl of the idempotency key in ms (0: none),
--       bus channel, asking replica's lease, '1' if the channel is a user's, message id,
--       head (the envelope's fields, without braces), data (JSON; '' for a run),
--       for a run: state, progress and message (JSON, '' if not given), size of its tail, its ttl in ms after the end
-- Returns {epoch, offset, delivery, 1 if published, message id}; for a repetition those of the first try
local seen = ARGV[5] ~= '0' and redis.call('GET', KEYS[3])
if seen then
  return cjson.decode(seen)
end

local epoch, top = place(KEYS[1], ARGV[1])
local offset = top + 1
redis.call('HSET', KEYS[1], 'top', offset)

local data, ttl = ARGV[11], ARGV[3]
if data == '' then
  local was = redis.call('HMGET', KEYS[7], 'state', 'progress')
  local state = ARGV[12] ~= '' and ARGV[12] or was[1] or 'null'
  local progress = ARGV[13] ~= '' and ARGV[13] or was[2] or '0'
  if state == '"END"' or state == '"FAILED"' then
    ttl = ARGV[16]
  end
  redis.call('HSET', KEYS[7], 'state', state, 'progress', progress)
  redis.call('PEXPIRE', KEYS[7], ttl)
  if ARGV[14] ~= '' then
    redis.call('RPUSH', KEYS[8], ARGV[14])
    redis.call('LTRIM', KEYS[8], -ARGV[15], -1)
  end
  redis.call('PEXPIRE', KEYS[8], ttl)
  data = '{"state":' .. state .. ',"progress":' .. progress .. ',"message":' ..
    (ARGV[14] ~= '' and ARGV[14] or 'null') .. '}'
end

local body = ARGV[10] .. ',"message":' .. data .. '}'
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], offset .. '-0', 'b', '{' .. body)
redis.call('PEXPIRE', KEYS[2], ttl)
redis.call('PEXPIRE', KEYS[1], ttl + ARGV[4])

-- A user whom only the asking replica holds gets it there, and nobody else need hear of it.
local delivery, publish, sequence = 'remote', true, ''
if ARGV[8] == '1' then
  delivery, publish = reach(KEYS[4], KEYS[5], ARGV[7])
  if delivery == 'offline' then delivery = 'stored' end
  if publish then sequence = ',"seq":' .. redis.call('INCR', KEYS[6]) end
end
if publish then
  redis.call('PUBLISH', ARGV[6], '{"epoch":"' .. epoch .. '","offset":' .. offset .. sequence .. ',' .. body)
end

if ARGV[5] ~= '0' then
  redis.call('SET', KEYS[3], cjson.encode({epoch, offset, delivery, 1, ARGV[9]}), 'PX', ARGV[5])
end
return {epoch, offset, delivery, publish and 1 or 0, ARGV[9]}
