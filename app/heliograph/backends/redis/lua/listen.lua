-- Keep the metas of followed channels on which nothing was ever published. Other metas live on with publications.
-- KEYS: metas
-- ARGV: for each, for how many ms to keep it at least
for i, meta in ipairs(KEYS) do
  local least_ms = ARGV[i]
  if redis.call('HGET', meta, 'top') == '0' and redis.call('PTTL', meta) < tonumber(least_ms) then
    redis.call('PEXPIRE', meta, least_ms)
  end
end
return 1
