-- Keeps the metas of logs that somebody listens to although nothing was ever published there. Others keep themselves.
-- KEYS: metas
-- ARGV: for each, how many ms it is to stay at least
for i, meta in ipairs(KEYS) do
  local least_ms = ARGV[i]
  if redis.call('HGET', meta, 'top') == '0' and redis.call('PTTL', meta) < tonumber(least_ms) then
    redis.call('PEXPIRE', meta, least_ms)
  end
end
return 1
