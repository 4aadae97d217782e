-- Stands before every script that reads or writes a log, behind a line that sets two constants:
--   boot     the run id of the Redis server that the script was loaded into. Scripts do not survive a restart, so
--            a script never runs under another server than that.
--   certain  true if this server loses nothing that it has acknowledged when it restarts (appendfsync always)

-- The log's epoch and the offset of its last publication. The epoch is new if there is no log yet, or if the server
-- has restarted since and may have lost the end of it: its offsets might otherwise be given twice.
local function place(meta, new_epoch)
  local known = redis.call('HMGET', meta, 'epoch', 'top', 'boot')
  local epoch, top = known[1], tonumber(known[2] or 0)
  if not epoch or (known[3] ~= boot and not certain) then
    epoch = new_epoch
    redis.call('HSET', meta, 'epoch', epoch, 'top', top, 'boot', boot)
  elseif known[3] ~= boot then
    redis.call('HSET', meta, 'boot', boot)
  end
  return epoch, top
end
