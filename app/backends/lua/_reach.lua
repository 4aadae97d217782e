-- How far a message to a user reaches, and whether it has to be published for that.
local function reach(holders, settled_at_key, asking_lease)
  local mine, elsewhere = false, false
  for _, lease in ipairs(redis.call('HKEYS', holders)) do
    if lease == asking_lease then mine = true else elsewhere = true end
  end
  if elsewhere then return 'remote', true end
  if not mine then return 'offline', true end
  -- After a loss of data "nobody else" may only mean "nobody else yet".
  local settled_at = redis.call('GET', settled_at_key)
  local time = redis.call('TIME')
  local settled = settled_at and tonumber(settled_at) <= time[1] * 1000 + math.floor(time[2] / 1000)
  return 'local', not settled
end
