-- Stands before every script that appends to a log: gives a publication its place in the channel's log and keeps it.
-- KEYS: meta, stream, idempotency key, holders, settled_at, bus sequence, state, tail
-- ARGV: new epoch, history size, ttl in ms, how much longer meta stays in ms, ttl of the idempotency key in ms (0: none),
--       bus channel, asking replica's lease, '1' if the channel is a user's, message id,
--       head (the envelope's fields, without braces), data (JSON; '' for a run),
--       for a run: state, progress and message (JSON, '' if not given), size of its tail, its ttl in ms after the end

-- What the first publication with this idempotency key was answered; nothing if this is the first.
local function answered()
  local seen = ARGV[5] ~= '0' and redis.call('GET', KEYS[3])
  return seen and cjson.decode(seen)
end

local function remember_answer(answer)
  if ARGV[5] ~= '0' then
    redis.call('SET', KEYS[3], cjson.encode(answer), 'PX', ARGV[5])
  end
end

-- Brings a run's state up to date; returns the data of the publication that tells of it, and how long to keep the run.
local function reduce()
  local ttl = ARGV[3]
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
  local message = ARGV[14] ~= '' and ARGV[14] or 'null'
  return '{"state":' .. state .. ',"progress":' .. progress .. ',"message":' .. message .. '}', ttl
end

-- Returns the publication's epoch and offset, and the rest of its envelope.
local function keep()
  local epoch, top = place(KEYS[1], KEYS[2], ARGV[1])
  local offset = top + 1
  redis.call('HSET', KEYS[1], 'top', offset)
  local data, ttl = ARGV[11], ARGV[3]
  if data == '' then
    data, ttl = reduce()
  end
  local body = ARGV[10] .. ',"message":' .. data .. '}'
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[2], offset .. '-0', 'b', '{' .. body)
  redis.call('PEXPIRE', KEYS[2], ttl)
  redis.call('PEXPIRE', KEYS[1], ttl + ARGV[4])
  return epoch, offset, body
end

-- What goes out on the bus. Publications for users are counted, so that a missing one shows.
local function envelope(epoch, offset, body)
  local sequence = ARGV[8] == '1' and ',"seq":' .. redis.call('INCR', KEYS[6]) or ''
  return '{"epoch":"' .. epoch .. '","offset":' .. offset .. sequence .. ',' .. body
end
