-- Part of every script that appends to a log: give a publication its position in the channel's log, and keep it.
-- keys: meta; the stream to append to; the log's other stream (one holds publications of servers, one those of
--       clients, so that neither displaces the other); on a user's channel: holders; on a run's: state, tail;
--       with an idempotency key: its answer; with a charge: the user's budget
-- arguments: bus channel; the envelope's fields as JSON without the first brace (on a run's channel also without the
--       message, beginning with a comma); with an idempotency key, on a run's channel, or with a charge: message id
--       ('' without an idempotency key); on a run's channel: state, progress and message (JSON; '' if not given);
--       with a charge: the amount (see _budget.lua)
-- common keys, on a user's channel: settled_at, sequences; if it is told what nobody takes in time, the sorted set of
--       untaken messages
-- common: history size; ttl in ms; due (see `keep`); on a user's channel the calling replica's lease ('-' if a program
--       calls), '' on others; on a run's channel the ttl in ms after its end, '' on others; from a client: the limits
--       of its budget (see _budget.lua); with untaken messages, last, the time after which one is told of (ms)
-- Constants that are set before this: key_ttl_ms (of an idempotency key), tail_size (of a run), meta_ms, client_meta_ms
-- Keep arguments few and short, and make no needless string: each costs Redis as much as reading a key.
--
-- An answer is a string: epoch, offset, delivery, and for a repetition the message id, separated by dots. The delivery
-- is 'remote', 'stored' or 'local' (see Delivery in app/heliograph/protocol/events.py), or 'here': local, and not
-- published.
local sequences, untaken = common_keys[2], common_keys[3]
local untaken_ms = untaken and common[#common]
local usual = untaken and {unpack(common, 1, #common - 1)} or common
local history_size, ttl_ms, due, lease, final_ttl_ms = unpack(usual)
local most_messages, most_bytes, most_to_one = tonumber(usual[6]), tonumber(usual[7]), tonumber(usual[8])
local by_client = most_messages ~= nil
local is_run = (final_ttl_ms or '') ~= ''
local answer_at = (is_run and 5 or lease ~= '' and 4 or 3) + 1 -- among the keys
local amount_at = is_run and 7 or 4 -- among the arguments

-- Charge a client's budget, if this call has a charge. This comes first, so that repetitions are charged too.
local function charge_client(keys, arguments)
  local meta, budget, amount = keys[1], keys[#keys], arguments[amount_at]
  if by_client and amount then
    charge(budget, meta, amount, most_messages, most_bytes, most_to_one)
  end
end

-- Return the answer to the first publication with this idempotency key; nothing if this is the first.
local function earlier_answer(keys, arguments)
  local message_id = arguments[3] or ''
  if message_id == '' then return nil end
  return redis.call('GET', keys[answer_at])
end

-- Remember the answer for repetitions, with the message id, and return it.
local function remember_answer(keys, arguments, answer)
  local message_id = arguments[3] or ''
  if message_id ~= '' then
    redis.call('SET', keys[answer_at], answer .. '.' .. message_id, 'PX', key_ttl_ms)
  end
  return answer
end

-- Update a run's state. Return the envelope's fields with the new state, and the ttl of the run in ms.
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

local kept_at -- by this server's clock, in ms
if untaken then
  local time = redis.call('TIME')
  kept_at = string.format('%d', time[1] * 1000 + math.floor(time[2] / 1000))
end

-- Append to the stream, and note that nobody may have taken the message yet (see _untaken.lua).
local function add_untaken(meta, stream, offset, body)
  redis.call('XADD', stream, 'MAXLEN', '~', history_size, offset .. '-0', 'b', body, 't', kept_at)
  if redis.call('HSETNX', meta, 'untaken', offset .. '-') == 1 then
    redis.call('ZADD', untaken, string.format('%d', kept_at + untaken_ms), meta)
  end
end

-- Append the publication. Return its epoch and offset, and the envelope's fields without the first brace, as logged.
-- Times to live are renewed with each publication, but by one caller only once a second: `due` is that caller's name
-- for the present second, and times to live are a second longer. If `due` is '', they are renewed always, exactly.
local function keep(keys, arguments)
  local meta, stream, other_stream = keys[1], keys[2], keys[3]
  local epoch, top, was_due = ensure_log(meta, stream, other_stream)
  local offset, body, ttl = string.format('%d', top + 1), arguments[2], ttl_ms
  if is_run then
    body, ttl = reduce(keys, arguments)
  end
  if untaken then
    add_untaken(meta, stream, offset, body)
  else
    redis.call('XADD', stream, 'MAXLEN', '~', history_size, offset .. '-0', 'b', body)
  end
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

-- Return the envelope for the bus. `count`: the name and value of its number, which shows a missing envelope.
local function envelope(epoch, offset, body, count)
  return '{"epoch":"' .. epoch .. '","offset":' .. offset .. count .. ',' .. body
end
