-- Return the positions of channels that somebody begins to follow: as read.lua does, without publications.
-- KEYS: for each channel its meta and the log's two streams (see _keep.lua)
-- ARGV: ttl of a new meta in ms
-- Return {epoch, top, ...}
local read_ttl_ms, positions = ARGV[1], {}
for i = 1, #KEYS, 3 do
  local meta = KEYS[i]
  local epoch, top = ensure_log(meta, KEYS[i + 1], KEYS[i + 2])
  if redis.call('PTTL', meta) == -1 then
    redis.call('PEXPIRE', meta, read_ttl_ms)
  end
  positions[#positions + 1], positions[#positions + 2] = epoch, top
end
return positions
