-- Set how many connections of some users a lease has, as hold.lua does, and tell who comes and goes.
-- hold.lua comes before this, as the function `hold`; its keys, arguments and answer are those of this script.
local FIRST = 3 -- of the users' holders
local before = {}
for i = FIRST, #KEYS do
  before[i] = redis.call('HLEN', KEYS[i])
end
local totals = hold()
if #totals == 0 then
  return totals
end
for i = FIRST, #KEYS do
  local user, after = ARGV[2 * i - 4], redis.call('HLEN', KEYS[i])
  if before[i] == 0 and after > 0 then
    came('u' .. user, 'user', user)
  elseif before[i] > 0 and after == 0 then
    went('u' .. user, now)
  end
end
return totals
