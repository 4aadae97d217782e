-- Charges what a client writes to its user's budget: see app/protocol/budget.py, which counts by the same rules.
-- Behind a line that sets constants: window_ms, first_bytes

-- budget: hash: a recipient -> messages to it, '' -> messages and bytes of all, as messages * 2^32 + bytes. It ends with
-- the window. `recipient`: any name; `most_…`: limits, 0 for none.
-- Raises an error if a limit is reached; then nothing is charged.
local function charge(budget, recipient, size, most_messages, most_bytes, most_to_one)
  local to_one = redis.call('HINCRBY', budget, recipient, 1)
  if to_one == 1 then
    size = size + first_bytes
  end
  local cost = 4294967296 + size
  local spent = redis.call('HINCRBY', budget, '', cost)
  if spent == cost then
    redis.call('PEXPIRE', budget, window_ms)
  end
  local excess
  if most_messages > 0 and spent >= (most_messages + 1) * 4294967296 then
    excess = 'user_messages'
  elseif most_bytes > 0 and spent % 4294967296 > most_bytes then
    excess = 'user_bytes'
  elseif most_to_one > 0 and to_one > most_to_one then
    excess = 'recipient_messages'
  else
    return
  end
  redis.call('HINCRBY', budget, '', -cost)
  redis.call('HINCRBY', budget, recipient, -1)
  error({err = 'BUDGET ' .. excess .. ' ' .. redis.call('PTTL', budget)})
end
