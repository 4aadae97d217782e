-- Where a channel stands, what is in its log after a position, and a run's state: all at one moment.
-- KEYS: meta, the log's two streams (see _keep.lua), state, tail
-- ARGV: ms that a new meta stays, epoch and offset after which to read (offset -1: read nothing,
--       -2: read from the start of what is kept), how many to read at the most, '1' to read the state too
-- Returns {epoch, top, 1 if nothing after the position and up to the last publication read is missing,
--          {offset, body, ...}, {state, progress}, tail}
-- After a position that is none of this epoch's, what is certain to have come later is read: all of the present epoch,
-- and what is left of the one that the position stands in, if that was the last.
local epoch, top = place(KEYS[1], KEYS[2], KEYS[3])
if redis.call('PTTL', KEYS[1]) == -1 then
  redis.call('PEXPIRE', KEYS[1], ARGV[1])
end

local after, limit, complete, found = tonumber(ARGV[3]), tonumber(ARGV[4]), 1, {}
if after >= 0 and (ARGV[2] ~= epoch or after > top) then
  local known = redis.call('HMGET', KEYS[1], 'began', 'before')
  local began = tonumber(known[1] or top)
  complete, after = 0, ARGV[2] == known[2] and math.min(after, began) or began
end
if after ~= -1 then
  local start, streams, last = after == -2 and '-' or '(' .. after .. '-0', {}, after
  for i = 1, 2 do
    streams[i] = redis.call('XRANGE', KEYS[i + 1], start, '+', 'COUNT', limit)
  end
  local read, offsets = {1, 1}, {}
  local function look(i)
    local entry = streams[i][read[i]]
    offsets[i] = entry and tonumber(string.match(entry[1], '^%d+'))
  end
  look(1)
  look(2)
  while (offsets[1] or offsets[2]) and #found < 2 * limit do
    local i = (not offsets[2] or offsets[1] and offsets[1] < offsets[2]) and 1 or 2
    local offset = offsets[i]
    if after >= 0 and offset ~= last + 1 then complete = 0 end
    last = offset
    found[#found + 1] = offset
    found[#found + 1] = streams[i][read[i]][2][2]
    read[i] = read[i] + 1
    look(i)
  end
  if after >= 0 and #found < 2 * limit and last ~= top then complete = 0 end
end

local state, tail = {}, {}
if ARGV[5] == '1' then
  state = redis.call('HMGET', KEYS[4], 'state', 'progress')
  tail = redis.call('LRANGE', KEYS[5], 0, -1)
end
return {epoch, top, complete, found, state, tail}
