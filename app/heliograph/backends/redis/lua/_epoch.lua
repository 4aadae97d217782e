-- Stands before every script that reads or writes a log, behind a line that sets constants:
--   fence    the name of the Redis server's process that the script was loaded into (script_loading.py), and '1' if
--            that is certain. Scripts do not survive a restart, so a script never runs under another process than that.
--   certain  true if this server loses nothing that it has acknowledged when it restarts (appendfsync always)

-- A name for a log that begins, unlike any before it.
local function new_epoch(meta)
  local time = redis.call('TIME')
  return string.sub(redis.sha1hex(meta .. fence .. time[1] .. '.' .. time[2]), 1, 8)
end

-- True if the log that was last written behind this fence stands as it was then: the server has not restarted since,
-- or has lost nothing by that. How it ran before the restart counts too, so the end of the fence says that.
local function stands(other)
  if not other then return false end
  return other == fence or string.sub(other, 1, -2) == string.sub(fence, 1, -2)
    or (certain and string.sub(other, -1) == '1')
end

-- Begins a new epoch behind `top`; returns its name. The meta's `before` is the epoch that has ended, at `began`, and
-- `past` tells where those before that ended, the latest first: what is kept of them is readable by their cursors.
local most_past = 8
local function begin_anew(meta, ended, top)
  local known = redis.call('HMGET', meta, 'before', 'began', 'past')
  local past = {}
  if known[1] then past[1] = known[1] .. '.' .. known[2] end
  for each in string.gmatch(known[3] or '', '%S+') do
    if #past < most_past then past[#past + 1] = each end
  end
  local epoch = new_epoch(meta)
  redis.call('HSET', meta, 'epoch', epoch, 'began', top, 'before', ended, 'past', table.concat(past, ' '))
  return epoch
end

-- How much of what came up to offset `after` of another epoch is still there: up to that offset or to where the epoch
-- ended. Of an epoch that is not known (any more) nothing is certain but that it was before the present one.
local function certain_of(meta, epoch, after, top)
  local known = redis.call('HMGET', meta, 'began', 'before', 'past')
  local began = tonumber(known[1] or top)
  if epoch == known[2] then return math.min(after, began) end
  local ended = began
  for name, offset in string.gmatch(known[3] or '', '(%w+)%.(%d+)') do
    ended = math.min(ended, tonumber(offset))
    if name == epoch then return math.min(after, ended) end
  end
  return began
end

-- The log's epoch, the offset of its last publication, and `due` (see _keep.lua). The epoch is new if there is no log
-- yet, or if the server has restarted since and may have lost the end of it: its offsets might otherwise be given
-- twice. Its `began` is the offset behind which it begins; up to there the log is that of the epoch `before` it.
-- Behind `meta` stand the log's streams.
local function place(meta, ...)
  local known = redis.call('HMGET', meta, 'epoch', 'top', 'fence', 'due')
  local epoch = known[1]
  if known[3] == fence then
    return epoch, tonumber(known[2]), known[4]
  end
  if not epoch then
    epoch = new_epoch(meta)
    redis.call('HSET', meta, 'epoch', epoch, 'top', 0, 'fence', fence, 'began', 0)
    redis.call('DEL', ...) -- not after its meta by itself; but entries without one would refuse new ones
    return epoch, 0
  end
  if not stands(known[3]) then
    epoch = begin_anew(meta, epoch, known[2])
  end
  redis.call('HSET', meta, 'fence', fence)
  return epoch, tonumber(known[2])
end
