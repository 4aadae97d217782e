-- Become the owner of something for a while, or stay it.
-- KEYS: the owner's name
-- ARGV: name, ttl in ms
-- Return 1, or 0 if somebody else owns it
local key, name, ttl_ms = KEYS[1], ARGV[1], ARGV[2]
local owner = redis.call('GET', key)
if owner and owner ~= name then
  return 0
end
redis.call('SET', key, name, 'PX', ttl_ms)
return 1
