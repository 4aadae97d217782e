-- Publishes that a run has FAILED if its lease has run out and it has not ended, and forgets the lease: in one step,
-- so that it is said once however many look, and never of a run whose worker has renewed the lease meanwhile.
-- Stands behind append.lua as the function `append`.
-- keys: as append.lua, then: leases of runs
-- arguments: as append.lua, then: run id
-- Returns what append.lua returns, or '' if there was nothing to say
local run_state, leases, run_id = keys[4], keys[#keys], arguments[#arguments]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local deadline = redis.call('ZSCORE', leases, run_id)
if not deadline or tonumber(deadline) > now then
  return ''
end

local state, appended = redis.call('HGET', run_state, 'state'), ''
if state ~= '"END"' and state ~= '"FAILED"' then
  appended = append(keys, arguments)
end
redis.call('ZREM', leases, run_id)
return appended
