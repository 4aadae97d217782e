-- How far a message to a user reaches, whether it has to be published for that, and who holds the user.
-- common keys: settled_at (the name of the server under which the directory may be believed, a dot, and from when in ms)
local settled_at_key = common_keys[1]
local settled_here = string.sub(fence, 1, -2) .. '.'

local function reach(holders, asking_lease)
  local leases, mine = redis.call('HKEYS', holders), false
  for i = 1, #leases do
    if leases[i] == asking_lease then mine = true end
  end
  if #leases > (mine and 1 or 0) then return 'remote', true, leases end
  if not mine then return 'offline', true, leases end
  -- After a loss of data "nobody else" may only mean "nobody else yet".
  local settled_at = redis.call('GET', settled_at_key)
  if not settled_at or string.sub(settled_at, 1, #settled_here) ~= settled_here then return 'local', true, leases end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  return 'local', tonumber(string.sub(settled_at, #settled_here + 1)) > now, leases
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
