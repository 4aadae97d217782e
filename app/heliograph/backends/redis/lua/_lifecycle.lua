-- Part of every script whose changes are lifecycle events (docs/events.md). _epoch.lua comes before this.
-- Its keys and arguments stand last, and are taken off before the script itself runs.
-- KEYS: ..., the stream of events, what is known of it, the absent (subject -> since when, in ms), whom each of them
--       was last with (subject -> replica)
-- ARGV: ..., entries of the stream, the kind of event for who comes, for who goes ('': not told), this replica's name
-- A subject is 'u' and a user, 'c' and a channel, or 's' and the JSON of a channel and a user who is on it. One that was
-- told to have come, and is gone, is among the absent: until the grace is over, nothing is told of it. So who comes is
-- told only if it is not among them, and comings and goings alternate.
local GAP_AFTER_MS = 60000 -- events that nobody has written for so long were switched off
local SETTLE_MS = 5000 -- longer than replicas need to register everybody again after a loss

local function take_last(list, count)
  local taken = {unpack(list, #list - count + 1)}
  for i = #list, #list - count + 1, -1 do list[i] = nil end
  return unpack(taken)
end

local stream, about, absent, last_with = take_last(KEYS, 4)
local maxlen, comes, goes, replica = take_last(ARGV, 4)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function tell(kind, at, by, ...)
  if kind == '' then return end
  local seq = redis.call('HINCRBY', about, 'seq', 1)
  local at_ms = string.format('%d', at)
  redis.call('XADD', stream, 'MAXLEN', '~', maxlen, '*',
    'seq', seq, 'event', kind, 'at_ms', at_ms, 'replica', by, ...)
end

-- Tell which events may be missing: those after `from`, until everybody is registered again.
local function tell_gap(from)
  local from_ms, until_ms = string.format('%d', from), string.format('%d', now + SETTLE_MS)
  tell('gap', now, replica, 'from_ms', from_ms, 'until_ms', until_ms)
end

-- Note that the subject is there, as it was not before.
local function came(subject, ...)
  if redis.call('ZREM', absent, subject) == 1 then
    redis.call('HDEL', last_with, subject)
  else
    tell(comes, now, replica, ...)
  end
end

-- Note that the subject is there no more, since `at`.
local function went(subject, at)
  redis.call('ZADD', absent, at, subject)
  redis.call('HSET', last_with, subject, replica)
end

local known = redis.call('HMGET', about, 'fence', 'seen_at')
local seen_at = tonumber(known[2] or 0)
local is_stale = now - seen_at > GAP_AFTER_MS
if is_stale then
  redis.call('DEL', absent, last_with) -- who of them has come back meanwhile is not known
end
if is_stale or not is_intact(known[1]) then
  tell_gap(seen_at)
end
if is_stale or known[1] ~= fence then
  redis.call('HSET', about, 'fence', fence, 'seen_at', now)
end
