-- First part of every script that may publish: one command makes many calls, and their envelopes go out together.
-- KEYS: the common keys, then the keys of each call in order
-- ARGV: number of calls, keys of each, arguments of each; then the common arguments and those of each call
-- The script itself is a function of one call's `keys` and `arguments`.
-- Constant that is set before this: publish (PUBLISH, or SPUBLISH in a cluster)
local calls, key_count, argument_count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local common_keys = {unpack(KEYS, 1, #KEYS - calls * key_count)}
local common = {unpack(ARGV, 4, #ARGV - calls * argument_count)}

local bus_channels, outgoing = {}, {}

-- Publish the envelope after the last call. Those for one bus channel become one bus message, an envelope a line.
local function publish_at_end(bus_channel, envelope)
  local lines = outgoing[bus_channel]
  if not lines then
    lines = {}
    outgoing[bus_channel] = lines
    bus_channels[#bus_channels + 1] = bus_channel
  end
  lines[#lines + 1] = envelope
end

-- Make all calls, in order. Return their answers; a call that fails does not affect the others.
local function run_calls(call)
  local key, argument = #common_keys + 1, #common + 4
  local answers = {}
  for i = 1, calls do
    local keys = {unpack(KEYS, key, key + key_count - 1)}
    local arguments = {unpack(ARGV, argument, argument + argument_count - 1)}
    key, argument = key + key_count, argument + argument_count
    local is_done, answer = pcall(call, keys, arguments)
    if not is_done then
      local text = type(answer) == 'table' and answer.err or tostring(answer)
      -- This server is not the master any more: nothing was done, and the caller must find another.
      if string.find(text, 'READONLY', 1, true) then return redis.error_reply('READONLY ' .. text) end
      answer = redis.error_reply(text)
    end
    answers[i] = answer
  end
  for i = 1, #bus_channels do
    redis.call(publish, bus_channels[i], table.concat(outgoing[bus_channels[i]], '\n'))
  end
  return answers
end
