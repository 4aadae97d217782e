-- Tell which messages to a user nobody has taken in time, each once and in order.
-- KEYS: meta of the user's channel, the log's two streams (see _keep.lua), the user's receipts, the sorted set of
--       untaken messages; then those of _lifecycle.lua
-- ARGV: user, channel, the time (ms), how much later to tell (ms), most events to tell, kind of event; then those of
--       _lifecycle.lua
-- Return how many were told, and 1 if there are more.
local meta, streams, receipts, untaken = KEYS[1], {KEYS[2], KEYS[3]}, KEYS[4], KEYS[5]
local user, channel, kind = ARGV[1], ARGV[2], ARGV[6]
local after_ms, slack_ms, most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local log = redis.call('HMGET', meta, 'epoch', 'top', 'untaken', 'began', 'before', 'past')
if not log[3] then
  redis.call('ZREM', untaken, meta) -- the channel was removed
  return {0, 0}
end
local epoch, top, ranges = log[1], tonumber(log[2]), read_ranges(log[3])

local said = redis.call('HGETALL', receipts)
for i = 1, #said, 2 do
  if string.sub(said[i], -#channel - 1) == '\n' .. channel then
    local of_epoch, offset = string.match(said[i + 1], '^(.*)%.(%d+)%.%d+$')
    ranges = without(ranges, 0, known_up_to(meta, of_epoch, tonumber(offset), epoch, top))
  end
end

-- Return the epoch in which the offset was given.
local function epoch_of(offset)
  if not log[5] or offset > tonumber(log[4]) then return epoch end
  local found = log[5]
  for name, ended in string.gmatch(log[6] or '', '(%w+)%.(%d+)') do
    if offset <= tonumber(ended) then found = name end
  end
  return found
end

-- Return the first message from `first` to `last` that is still kept: its offset, its body, and when it was kept.
local function next_kept(first, last)
  local offset, fields
  for _, stream in ipairs(streams) do
    local id = string.format('%d', first) .. '-0'
    local entry = redis.call('XRANGE', stream, id, string.format('%d', last) .. '-0', 'COUNT', 1)[1]
    local at = entry and tonumber(string.match(entry[1], '^%d+'))
    if at and not (offset and offset < at) then offset, fields = at, entry[2] end
  end
  return offset, fields and fields[2], fields and tonumber(fields[4])
end

local function tell_of(offset, at, ...)
  tell(kind, at, '', 'user', user, 'channel', channel, 'epoch', epoch_of(offset),
    'offset', string.format('%d', offset), ...)
end

local told, due = 0, nil
while told < most and not due and ranges[1] and ranges[1][1] <= top do
  local first, last = ranges[1][1], math.min(ranges[1][2], top)
  local offset, body, kept_at = next_kept(first, last)
  if kept_at and kept_at + after_ms + slack_ms > now then
    due = kept_at + after_ms
  elseif (offset or last + 1) > first then
    -- The log has dropped them before their time was over, because it was full.
    local count = (offset or last + 1) - first
    tell_of(first + count - 1, now, 'count', string.format('%d', count))
    told, ranges = told + 1, without(ranges, 0, first + count - 1)
  else
    if kept_at then -- otherwise a program has sent it that does not ask for this event
      local is_read, envelope = pcall(cjson.decode, '{' .. body)
      local message_id = is_read and envelope.message_id or ''
      tell_of(offset, kept_at + after_ms, 'message_id', message_id, 'kept_at_ms', string.format('%d', kept_at))
      told = told + 1
    end
    ranges = without(ranges, 0, offset)
  end
end

local is_more = 0
if write_ranges(meta, untaken, ranges, top) then
  redis.call('ZADD', untaken, string.format('%d', due or now - slack_ms), meta)
  is_more = due and 0 or 1
end
return {told, is_more}
