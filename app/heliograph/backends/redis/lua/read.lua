-- Read a channel at one moment: its position, publications after a position, and a run's state.
-- KEYS: meta, the log's two streams (see _keep.lua), state, tail
-- ARGV: ttl of a new meta in ms; epoch and offset after which to read (offset -1: read nothing; -2: read from the
--       start); most publications to read; '1' to read the state too; most bytes to read (one publication may have
--       more); '1' if the position certainly existed: a log that ends before it has lost its end
-- Return {epoch, top, 1 if nothing is missing between the position and the last publication that was read,
--         {offset, body, ...}, {state, progress}, tail}
-- For a position of another epoch, read what certainly came after it: the rest of that epoch and everything later; if
-- that epoch is unknown, all of the present one. Nothing is missing either if each epoch since began seamlessly.
local meta, stream_keys, run_state, tail_key = KEYS[1], {KEYS[2], KEYS[3]}, KEYS[4], KEYS[5]
local read_ttl_ms, after_epoch, with_run, is_own = ARGV[1], ARGV[2], ARGV[5] == '1', ARGV[7] == '1'
local after, limit, most_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[6])

local epoch, top = ensure_log(meta, unpack(stream_keys))
if redis.call('PTTL', meta) == -1 then
  redis.call('PEXPIRE', meta, read_ttl_ms)
end

if is_own and after_epoch == epoch and after > top then
  epoch = begin_epoch(meta, epoch, top)
end

local complete, found = 1, {}
if after >= 0 and (after_epoch ~= epoch or after > top) then
  after, complete = known_until(meta, after_epoch, after, top)
end
if after ~= -1 then
  local start, last, taken, bytes, is_cut = after == -2 and '-' or '(' .. after .. '-0', after, 0, 0, false
  local starts, streams, read, offsets, is_read = {start, start}, {{}, {}}, {0, 0}, {}, {}
  -- Move to the next entry of a stream. Entries are read in chunks of about the number that may still be taken, because
  -- an entry that is read and not taken costs as much.
  local function look(i)
    read[i] = read[i] + 1
    if read[i] > #streams[i] and not is_read[i] then
      local count = math.min(limit, 8)
      if taken > 0 then
        count = math.max(1, math.min(limit - taken, math.ceil((most_bytes - bytes) * taken / bytes)))
      end
      local chunk = redis.call('XRANGE', stream_keys[i], starts[i], '+', 'COUNT', count)
      streams[i], read[i], is_read[i] = chunk, 1, #chunk < count
      if #chunk > 0 then starts[i] = '(' .. chunk[#chunk][1] end
    end
    local entry = streams[i][read[i]]
    offsets[i] = entry and tonumber(string.match(entry[1], '^%d+'))
  end
  look(1)
  look(2)
  while (offsets[1] or offsets[2]) and taken < limit do
    local i = (not offsets[2] or offsets[1] and offsets[1] < offsets[2]) and 1 or 2
    local offset, body = offsets[i], streams[i][read[i]][2][2]
    if taken > 0 and bytes + #body > most_bytes then
      is_cut = true
      break
    end
    if after >= 0 and offset ~= last + 1 then complete = 0 end
    last, taken, bytes = offset, taken + 1, bytes + #body
    found[2 * taken - 1] = offset
    found[2 * taken] = body
    if taken < limit then look(i) end
  end
  if after >= 0 and not is_cut and taken < limit and last ~= top then complete = 0 end
end

local state, tail = {}, {}
if with_run then
  state = redis.call('HMGET', run_state, 'state', 'progress')
  tail = redis.call('LRANGE', tail_key, 0, -1)
end
return {epoch, top, complete, found, state, tail}
