-- Stands before every script that appends to a log: gives a publication its place in the channel's log and keeps it.
-- keys: meta, the stream to append to, the log's other stream (one is of what servers publish, one of what clients do:
--       what the ones say displaces nothing of the others), then of a user: holders; of a run: state, tail; then if the
--       publication has an idempotency key: its answer; then if there is something to charge: the user's budget
-- arguments: bus channel, the envelope's fields as JSON without the first brace (of a run: without the message too,
--       beginning with a comma), then if the publication has an idempotency key, is a run's or is charged for: message
--       id ('' without an idempotency key), then of a run: state, progress and message (JSON, '' if not given), then if
--       there is something to charge: the amount (see _budget.lua)
-- common keys, of a user: settled_at, sequences
-- common: history size, ttl in ms, due (see `keep`), the asking replica's lease if the channel is a user's ('-': a
--         program asks; '' if it is no user's), of a run: ttl in ms when it has ended ('' of others), then if a client
--         says it: the limits of a budget (see _budget.lua)
-- Behind a line that sets constants: key_ttl_ms (of an idempotency key), tail_size (of a run), meta_ms, client_meta_ms
-- Few and short arguments, and no string that need not be made: each costs Redis as much as reading a key.
--
-- An answer is a string: epoch, offset, delivery and (of a repetition) message id with dots between them. The delivery
-- is 'remote', 'stored' or 'local' (see Delivery in app/heliograph/protocol/events.py), or 'here': local, and nothing
-- was published.
local sequences = common_keys[2]
local history_size, ttl_ms, due, lease, final_ttl_ms = unpack(common)
local most_messages, most_bytes, most_to_one = tonumber(common[6]), tonumber(common[7]), tonumber(common[8])
local by_client = most_messages ~= nil
local is_run = (final_ttl_ms or '') ~= ''
local answer_at = (is_run and 5 or lease ~= '' and 4 or 3) + 1 -- among the keys
local amount_at = is_run and 7 or 4 -- among the arguments

-- Charges a client's budget with what it owes, if this call says so. Goes first: a repetition is no way around it.
local function pay(keys, arguments)
  local meta, budget, amount = keys[1], keys[#keys], arguments[amount_at]
  if by_client and amount then
    charge(budget, meta, amount, most_messages, most_bytes, most_to_one)
  end
end

-- What the first publication with this idempotency key was answered; nothing if this is the first.
local function answered(keys, arguments)
  local message_id = arguments[3] or ''
  if message_id == '' then return nil end
  return redis.call('GET', keys[answer_at])
end

-- Remembers the answer for repetitions; they are told the message id too.
local function remembered(keys, arguments, answer)
  local message_id = arguments[3] or ''
  if message_id ~= '' then
    redis.call('SET', keys[answer_at], answer .. '.' .. message_id, 'PX', key_ttl_ms)
  end
  return answer
end

-- Brings a run's state up to date; returns the fields of the envelope that tells of it, and how long to keep the run.
local function reduce(keys, arguments)
  local run_state, tail = keys[4], keys[5]
  local fields, state, progress, message = arguments[2], arguments[4], arguments[5], arguments[6]
  local ttl = ttl_ms
  local was = redis.call('HMGET', run_state, 'state', 'progress')
  if state == '' then state = was[1] or 'null' end
  if progress == '' then progress = was[2] or '0' end
  if state == '"END"' or state == '"FAILED"' then
    ttl = final_ttl_ms
  end
  redis.call('HSET', run_state, 'state', state, 'progress', progress)
  redis.call('PEXPIRE', run_state, ttl)
  if message ~= '' then
    redis.call('RPUSH', tail, message)
    redis.call('LTRIM', tail, -tail_size, -1)
  else
    message = 'null'
  end
  redis.call('PEXPIRE', tail, ttl)
  return '"message":{"state":' .. state .. ',"progress":' .. progress .. ',"message":' .. message .. '}' .. fields, ttl
end

-- Returns the publication's epoch and offset, and its envelope's fields without the first brace, as the log keeps them.
-- The times to live begin anew with each publication. `due` is one asker's name for the present second: if that asker
-- has had them begun anew within it, they are left as they are, so they are a second longer. '': always, exactly.
local function keep(keys, arguments)
  local meta, stream, other_stream = keys[1], keys[2], keys[3]
  local epoch, top, was_due = place(meta, stream, other_stream)
  local offset, body, ttl = string.format('%d', top + 1), arguments[2], ttl_ms
  if is_run then
    body, ttl = reduce(keys, arguments)
  end
  redis.call('XADD', stream, 'MAXLEN', '~', history_size, offset .. '-0', 'b', body)
  if was_due == due and due ~= '' then
    redis.call('HSET', meta, 'top', offset)
  else
    local longer = due == '' and 0 or 1000
    redis.call('HSET', meta, 'top', offset, 'due', due)
    redis.call('PEXPIRE', stream, ttl + longer)
    local other_is_there = redis.call('PEXPIRE', other_stream, ttl + longer) == 1
    if other_is_there or not by_client then
      redis.call('PEXPIRE', meta, ttl + longer + meta_ms)
    elseif redis.call('PTTL', meta) < ttl + longer + client_meta_ms then
      redis.call('PEXPIRE', meta, ttl + longer + client_meta_ms)
    end
  end
  return epoch, offset, body
end

-- What goes out on the bus. `count`: the name and number that let a missing one show.
local function envelope(epoch, offset, body, count)
  return '{"epoch":"' .. epoch .. '","offset":' .. offset .. count .. ',' .. body
end
