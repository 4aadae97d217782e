-- Stands before every script that may publish: one command carries out many calls, and what they say goes out together.
-- KEYS: what is the same in all calls, then the keys of one call after the other
-- ARGV: how many calls there are, how many keys and arguments each has; then as with the keys
-- Such a script is a function of one call's `keys` and `arguments`.
local calls, key_count, argument_count = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local common_keys = {unpack(KEYS, 1, #KEYS - calls * key_count)}
local common = {unpack(ARGV, 4, #ARGV - calls * argument_count)}

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

-- Carries out `call` for each, in order. Returns what each has returned; one that fails costs the others nothing.
local function each(call)
  local key, argument = #common_keys + 1, #common + 4
  local answers = {}
  for i = 1, calls do
    local keys = {unpack(KEYS, key, key + key_count - 1)}
    local arguments = {unpack(ARGV, argument, argument + argument_count - 1)}
    key, argument = key + key_count, argument + argument_count
    local is_done, answer = pcall(call, keys, arguments)
    if not is_done then
      local text = type(answer) == 'table' and answer.err or tostring(answer)
      -- This server is no master any more: nothing was done, and whoever asked has to look for another.
      if string.find(text, 'READONLY', 1, true) then return redis.error_reply('READONLY ' .. text) end
      answer = redis.error_reply(text)
    end
    answers[i] = answer
  end
  for i = 1, #bus_channels do
    redis.call('PUBLISH', bus_channels[i], table.concat(said[bus_channels[i]], '\n'))
  end
  return answers
end
