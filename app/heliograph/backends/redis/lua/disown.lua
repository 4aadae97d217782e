-- Stop owning what own.lua gave.
-- KEYS: the owner's name
-- ARGV: name
local key, name = KEYS[1], ARGV[1]
if redis.call('GET', key) == name then
  redis.call('DEL', key)
end
