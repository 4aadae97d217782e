-- How far a message to a user reaches, whether it has to be published for that, and who holds the user.
-- The first of the common keys is settled_at.
local function reach(holders, asking_lease)
  local leases, mine = redis.call('HKEYS', holders), false
  for i = 1, #leases do
    if leases[i] == asking_lease then mine = true end
  end
  if #leases > (mine and 1 or 0) then return 'remote', true, leases end
  if not mine then return 'offline', true, leases end
  -- After a loss of data "nobody else" may only mean "nobody else yet".
  local settled_at = redis.call('GET', common_keys[1])
  local time = redis.call('TIME')
  local settled = settled_at and tonumber(settled_at) <= time[1] * 1000 + math.floor(time[2] / 1000)
  return 'local', not settled, leases
end

-- Calls `tell(node)` for each replica that holds the user, once for each. A lease is the name of a node, a dot and a
-- number.
local function each_node(leases, tell)
  local told = {}
  for i = 1, #leases do
    local node = string.match(leases[i], '^(.*)%.') or leases[i]
    if not told[node] then
      told[node] = true
      tell(node)
    end
  end
end
