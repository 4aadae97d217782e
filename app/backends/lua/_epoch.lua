-- Stands before every script that reads or writes a log, behind a line that sets two constants:
--   boot     the run id of the Redis server that the script was loaded into. Scripts do not survive a restart, so
--            a script never runs under another server than that.
--   certain  true if this server loses nothing that it has acknowledged when it restarts (appendfsync always)

-- The log's epoch and the offset of its last publication. The epoch is new if there is no log yet, or if the server
-- has restarted since and may have lost the end of it: its offsets might otherwise be given twice. What a server may
-- have lost depends on how it ran before the restart, too: `safe` says whether the log was last written safely.
local function place(meta, stream, new_epoch)
  local known = redis.call('HMGET', meta, 'epoch', 'top', 'boot', 'safe')
  local epoch, top, safe = known[1], tonumber(known[2] or 0), certain and '1' or '0'
  if not epoch then
    redis.call('HSET', meta, 'epoch', new_epoch, 'top', 0, 'boot', boot, 'safe', safe)
    redis.call('DEL', stream) -- not after its meta by itself; but entries without one would refuse new ones
    return new_epoch, 0
  end
  if known[3] ~= boot and not (certain and known[4] == '1') then
    epoch = new_epoch
  end
  if known[3] ~= boot or known[4] ~= safe then
    redis.call('HSET', meta, 'epoch', epoch, 'boot', boot, 'safe', safe)
  end
  return epoch, top
end
