-- Part of every script that reads or writes a log. Constants that are set before this:
--   fence    the name of the Redis process into which the script was loaded (script_loading.py), and '1' if `certain`.
--            Scripts do not survive a restart, so a script never runs under another process.
--   certain  true if this server, when it restarts, loses nothing that it has acknowledged (appendfsync always)
--   forebears  names of the servers that were the master before this one, separated by blanks, if this one has all that
--            they have acknowledged (see promotion.py); otherwise ''

-- Return a name for a new epoch, different from all earlier ones.
local function new_epoch(meta)
  local time = redis.call('TIME')
  return string.sub(redis.sha1hex(meta .. fence .. time[1] .. '.' .. time[2]), 1, 8)
end

-- Return whether a log that was last written under the fence `other` has lost nothing: the server has not restarted
-- since, or lost nothing then. For that it must have been certain before the restart too: the end of `other` says so.
local function is_intact(other)
  if not other then return false end
  return other == fence or string.sub(other, 1, -2) == string.sub(fence, 1, -2)
    or (certain and string.sub(other, -1) == '1')
end

-- Return whether a log that was last written under the fence `other` has all that was acknowledged. Clients may have
-- seen more than that, so its offsets cannot go on in the same epoch.
local function is_continued(other)
  return forebears ~= '' and other and string.find(forebears, string.sub(other, 1, -2), 1, true) ~= nil
end

-- Begin a new epoch after the offset `top`, and return its name. `seamless`: all that was acknowledged in the epoch
-- `ended` is in this log. In the meta, `before` is the epoch that ended at `began`, and `past` holds the ends of earlier
-- epochs, the latest first: cursors of those epochs stay readable. `seamless` names the present epoch if it began so;
-- in `past` a + stands behind the end of an epoch after which that was so.
local most_past = 8
local function begin_epoch(meta, ended, top, seamless)
  local known = redis.call('HMGET', meta, 'before', 'began', 'past', 'seamless')
  local past = {}
  if known[1] then past[1] = known[1] .. '.' .. known[2] .. (known[4] == ended and '+' or '') end
  for each in string.gmatch(known[3] or '', '%S+') do
    if #past < most_past then past[#past + 1] = each end
  end
  local epoch = new_epoch(meta)
  redis.call('HSET', meta, 'epoch', epoch, 'began', top, 'before', ended, 'past', table.concat(past, ' '),
    'seamless', seamless and epoch or '')
  return epoch
end

-- Return up to which offset this log certainly has what a client at `after` of another epoch has seen: to `after`, or
-- to the end of that epoch. An unknown epoch was certainly before the present one, and no more is known of it.
-- Return 1 too if nothing acknowledged is missing after that offset, because each epoch since began seamlessly.
local function known_until(meta, epoch, after, top)
  local known = redis.call('HMGET', meta, 'began', 'before', 'past', 'epoch', 'seamless')
  local began = tonumber(known[1] or top)
  local complete = known[5] and known[5] == known[4] and 1 or 0
  if epoch == known[2] then return math.min(after, began), complete end
  local ended = began
  for name, offset, sign in string.gmatch(known[3] or '', '(%w+)%.(%d+)(%+?)') do
    ended = math.min(ended, tonumber(offset))
    if sign == '' then complete = 0 end
    if name == epoch then return math.min(after, ended), complete end
  end
  return began, 0
end

-- Return the log's epoch, the offset of its last publication, and `due` (see _keep.lua). Begin a new epoch if there is
-- no log yet, or if the server has restarted and may have lost its end: its offsets might otherwise be given twice.
-- The epoch begins after the offset `began`; up to there the log is that of the epoch `before`.
-- The arguments after `meta` are the log's streams.
local function ensure_log(meta, ...)
  local known = redis.call('HMGET', meta, 'epoch', 'top', 'fence', 'due')
  local epoch = known[1]
  if known[3] == fence then
    return epoch, tonumber(known[2]), known[4]
  end
  if not epoch then
    epoch = new_epoch(meta)
    redis.call('HSET', meta, 'epoch', epoch, 'top', 0, 'fence', fence, 'began', 0)
    redis.call('DEL', ...) -- streams do not outlive their meta by themselves; if they did, XADD would refuse offset 1
    return epoch, 0
  end
  if not is_intact(known[3]) then
    epoch = begin_epoch(meta, epoch, known[2], is_continued(known[3]))
  end
  redis.call('HSET', meta, 'fence', fence)
  return epoch, tonumber(known[2])
end
