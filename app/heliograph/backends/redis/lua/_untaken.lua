-- Part of scripts that know which messages to a user may have been taken by nobody (docs/events.md).
-- In the meta of the user's channel, `untaken` holds the ranges of their offsets, such as '5-5 8-9 12-': the last one
-- has no end yet. Each such meta stands in the sorted set of untaken messages, with the time at which the first of
-- them becomes due, or an earlier one.
local MOST_RANGES = 50

local function read_ranges(text)
  local ranges = {}
  for first, last in string.gmatch(text, '(%d+)%-(%d*)') do
    ranges[#ranges + 1] = {tonumber(first), tonumber(last) or math.huge}
  end
  return ranges
end

-- Return what is left of the ranges without the offsets above `after`, up to `up_to`.
local function without(ranges, after, up_to)
  local rest = {}
  for _, range in ipairs(ranges) do
    local first, last = range[1], range[2]
    if up_to < first or after >= last then
      rest[#rest + 1] = range
    else
      if first <= after then rest[#rest + 1] = {first, after} end
      if last > up_to then rest[#rest + 1] = {up_to + 1, last} end
    end
  end
  return #rest <= MOST_RANGES and rest or ranges
end

-- Return up to which offset of this log somebody has taken it who was at `offset` of `epoch`.
local function known_up_to(meta, epoch, offset, present_epoch, top)
  if epoch ~= present_epoch then
    offset = math.min(offset, (known_until(meta, epoch, offset, top)))
  end
  return math.min(offset, top)
end

-- Keep the ranges; forget the meta if none of its messages is in them.
local function write_ranges(meta, untaken, ranges, top)
  if #ranges == 0 or ranges[1][1] > top then
    redis.call('HDEL', meta, 'untaken')
    redis.call('ZREM', untaken, meta)
    return false
  end
  local texts = {}
  for i, range in ipairs(ranges) do
    local last = range[2] < math.huge and string.format('%d', range[2]) or ''
    texts[i] = string.format('%d', range[1]) .. '-' .. last
  end
  redis.call('HSET', meta, 'untaken', table.concat(texts, ' '))
  return true
end
