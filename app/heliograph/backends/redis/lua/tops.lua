-- Return the positions of channels. This changes nothing.
-- KEYS: metas
-- Return {epoch, top, ...}; the epoch is '' if there is no log, or if the log may have lost its end
local tops = {}
for i, meta in ipairs(KEYS) do
  local known = redis.call('HMGET', meta, 'epoch', 'top', 'fence')
  tops[2 * i - 1] = known[1] and is_intact(known[3]) and known[1] or ''
  tops[2 * i] = tonumber(known[2] or 0)
end
return tops
