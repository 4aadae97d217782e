-- Note which messages to a user have been taken, because they were written to a connection.
-- KEYS: meta of the user's channel, the user's receipts, the sorted set of untaken messages
-- ARGV: for each: the device's field in the receipts, epoch, an offset, and up to which offset after it
-- A device that sends receipts takes with those only. Return the fence: after a restart what was lost is noted again.
local meta, receipts, untaken = KEYS[1], KEYS[2], KEYS[3]
local known = redis.call('HMGET', meta, 'epoch', 'top', 'untaken')
if known[3] then
  local epoch, top, ranges = known[1], tonumber(known[2]), read_ranges(known[3])
  for i = 1, #ARGV, 4 do
    local field, of_epoch, after, offset = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
    local up_to = known_up_to(meta, of_epoch, offset, epoch, top)
    if up_to > after and redis.call('HEXISTS', receipts, field) == 0 then
      ranges = without(ranges, after, up_to)
    end
  end
  write_ranges(meta, untaken, ranges, top)
end
return fence
