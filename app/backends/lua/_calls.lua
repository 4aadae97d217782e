-- Stands before every script that may publish: one command carries out many calls, and what they say goes out together.
-- KEYS: those of all calls, one call after the other; ARGV: how many arguments each call has, then those in the same way

local all_keys, all_arguments = KEYS, ARGV
local KEYS, ARGV = KEYS, ARGV -- those of the call that is being carried out

local bus_channels, said = {}, {}

-- Has an envelope published when all calls are done, with what else is said on that bus channel: one a line.
local function say(bus_channel, envelope)
  local lines = said[bus_channel]
  if not lines then
    lines = {}
    said[bus_channel] = lines
    bus_channels[#bus_channels + 1] = bus_channel
  end
  lines[#lines + 1] = envelope
end

local function publish_said()
  for i = 1, #bus_channels do
    redis.call('PUBLISH', bus_channels[i], table.concat(said[bus_channels[i]], '\n'))
  end
end

-- Carries out `call` for each, in order. Returns what each has returned; one that fails costs the others nothing.
local function each(call)
  local arguments = tonumber(all_arguments[1])
  local calls = (#all_arguments - 1) / arguments
  local keys = #all_keys / calls
  local answers = {}
  for i = 0, calls - 1 do
    KEYS = {unpack(all_keys, i * keys + 1, i * keys + keys)}
    ARGV = {unpack(all_arguments, i * arguments + 2, i * arguments + arguments + 1)}
    local is_done, answer = pcall(call)
    if not is_done then
      answer = redis.error_reply(type(answer) == 'table' and answer.err or tostring(answer))
    end
    answers[i + 1] = answer
  end
  publish_said()
  return answers
end
