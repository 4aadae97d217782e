-- Part of scripts that send to a user: which replicas hold the user.
-- common keys: settled_at (the name of the server whose directory is reliable, a dot, and from when, in ms)
local settled_at_key = common_keys[1]
local settled_here = string.sub(fence, 1, -2) .. '.'

-- Return how far the message gets (see Delivery in app/heliograph/protocol/events.py), whether to publish it, and the
-- leases that hold the user.
local function lookup_delivery(holders, own_lease)
  local leases, mine = redis.call('HKEYS', holders), false
  for i = 1, #leases do
    if leases[i] == own_lease then mine = true end
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

-- Call `visit(node)` once for each replica that holds the user. A lease is a node id, a dot and a number.
local function each_holder(leases, visit)
  local visited = {}
  for i = 1, #leases do
    local node = string.match(leases[i], '^(.*)%.') or leases[i]
    if not visited[node] then
      visited[node] = true
      visit(node)
    end
  end
end
