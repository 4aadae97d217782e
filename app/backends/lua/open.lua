-- Where a channel stands, what is in its log after a position, and a run's state: all at one moment.
-- KEYS: meta, stream, state, tail
-- ARGV: ms that a new meta stays, epoch and offset after which to read (offset -1: read nothing,
--       -2: read from the start of what is kept), how many to read at the most, '1' to read the state too
-- Returns {epoch, top, 1 if nothing between the position and the first publication read is missing,
--          {offset, body, ...}, {state, progress}, tail}
-- After a position in an epoch that has ended, what is certain to have come later is read: all of the present epoch, and
-- what is left of the one that it stood in, if that was the last.
local epoch, top = place(KEYS[1], KEYS[2])
if redis.call('PTTL', KEYS[1]) == -1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end

local after, complete, found = tonumber(ARGV[3]), 1, {}
if after >= 0 and ARGV[2] ~= epoch then
  local known = redis.call('HMGET', KEYS[1], 'began', 'before')
  local began = tonumber(known[1] or top)
  complete, after = 0, ARGV[2] == known[2] and math.min(after, began) or began
elseif after > top then
  complete, after = 0, -1
end
if after ~= -1 then
  local start = after == -2 and '-' or '(' .. after .. '-0'
  for _, entry in ipairs(redis.call('XRANGE', KEYS[2], start, '+', 'COUNT', ARGV[4])) do
    found[#found + 1] = tonumber(string.match(entry[1], '^%d+'))
    found[#found + 1] = entry[2][2]
  end
  local expected = after + 1
  if complete == 1 and after >= 0 and after < top and found[1] ~= expected then
    complete, found = 0, {}
  end
end

local state, tail = {}, {}
if ARGV[5] == '1' then
  state = redis.call('HMGET', KEYS[3], 'state', 'progress')
  tail = redis.call('LRANGE', KEYS[4], 0, -1)
end
return {epoch, top, complete, found, state, tail}
