-- Where channels stand, without changing anything.
-- KEYS: metas
-- Returns {epoch, top, ...}; an epoch is '' where there is no log, or one whose past is not certain any more
local tops = {}
for i, meta in ipairs(KEYS) do
  local known = redis.call('HMGET', meta, 'epoch', 'top', 'fence')
  tops[2 * i - 1] = known[1] and stands(known[3]) and known[1] or ''
  tops[2 * i] = tonumber(known[2] or 0)
end
return tops
