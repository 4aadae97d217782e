-- Charge the budget of a user, over all replicas, with what the user's clients have written.
-- See app/heliograph/protocol/budget.py. Constant that is set before this: window_ms

-- `budget`: a hash that expires with the window: recipient -> messages to it; '' -> all messages and bytes, as
-- messages * 2^32 + bytes. `amount`: messages, bytes and messages to the recipient, separated by blanks. `recipient`:
-- any name. `most_...`: limits; 0 for none.
-- Raise an error if a limit is passed. The charge stays, because a part of it was kept before.
local function charge(budget, recipient, amount, most_messages, most_bytes, most_to_one)
  local messages, bytes, to_one = string.match(amount, '^(%d+) (%d+) (%d+)$')
  local cost = messages * 4294967296 + bytes
  local spent = redis.call('HINCRBY', budget, '', string.format('%.0f', cost))
  if spent == cost then
    redis.call('PEXPIRE', budget, window_ms)
  end
  local excess
  if most_messages > 0 and spent >= (most_messages + 1) * 4294967296 then
    excess = 'user_messages'
  elseif most_bytes > 0 and spent % 4294967296 > most_bytes then
    excess = 'user_bytes'
  elseif most_to_one > 0 and to_one ~= '0' and redis.call('HINCRBY', budget, recipient, to_one) > most_to_one then
    excess = 'recipient_messages'
  end
  if excess then
    error({err = 'BUDGET ' .. excess .. ' ' .. redis.call('PTTL', budget)})
  end
end
