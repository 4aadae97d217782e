-- Keep a client's emission for the workers, unless the stream is full of emissions that they have not handled.
-- keys: the stream, the user's budget
-- arguments: data, the charge to the budget ('' for none), then names and values of the other fields
-- common: most entries, most bytes of memory, limits of the budget (messages, bytes: see _budget.lua)
-- Return the entry's id
local stream, budget, data, amount = keys[1], keys[2], arguments[1], arguments[2]
local most_entries, stream_bytes, most_messages, most_bytes = unpack(common)

local function is_full()
  return redis.call('XLEN', stream) >= tonumber(most_entries)
    or (redis.call('MEMORY', 'USAGE', stream) or 0) >= tonumber(stream_bytes)
end

-- Return the two numbers of an entry's id.
local function parse(id)
  local ms, count = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(ms), tonumber(count)
end

-- Drop the entries that every group has acknowledged; without a group, none.
local function drop_done()
  local first_ms, first_count -- of the first entry that some group has not acknowledged
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local about = {}
    for i = 1, #group, 2 do
      about[group[i]] = group[i + 1]
    end
    local ms, count
    if about['pending'] > 0 then
      ms, count = parse(redis.call('XPENDING', stream, about['name'])[2])
    else
      ms, count = parse(about['last-delivered-id'])
      count = count + 1
    end
    if not first_ms or ms < first_ms or ms == first_ms and count < first_count then
      first_ms, first_count = ms, count
    end
  end
  if first_ms then
    redis.call('XTRIM', stream, 'MINID', string.format('%.0f-%.0f', first_ms, first_count))
  end
end

if is_full() then
  drop_done()
  if is_full() then
    error({err = 'FULL ' .. redis.call('XLEN', stream)})
  end
end

if amount ~= '' then
  charge(budget, stream, amount, tonumber(most_messages), tonumber(most_bytes), 0)
end
return redis.call('XADD', stream, '*', 'data', data, unpack(arguments, 3))
