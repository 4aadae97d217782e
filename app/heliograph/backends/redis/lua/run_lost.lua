-- If a run's lease has expired, publish that it has FAILED, unless it has ended, and forget the lease. It is one step:
-- any number of processes may look, FAILED is published once, and never after the worker has renewed the lease.
-- append.lua comes before this, as the function `append`.
-- keys: as append.lua, then: leases of runs
-- arguments: as append.lua, then: run id
-- Return what append.lua returns, or '' if nothing was published
local run_state, leases, run_id = keys[4], keys[#keys], arguments[#arguments]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = redis.call('ZSCORE', leases, run_id)
if not deadline or tonumber(deadline) > now then
  return ''
end

local state, answer = redis.call('HGET', run_state, 'state'), ''
if state ~= '"END"' and state ~= '"FAILED"' then
  answer = append(keys, arguments)
end
redis.call('ZREM', leases, run_id)
return answer
