-- Gives a publication its place in the channel's log and keeps it, on a server that nobody listens to: it is to be
-- announced on another.
-- KEYS, ARGV: see _keep.lua; the holders, settled_at, the bus channel and the lease are not looked at
-- Returns {epoch, offset, 'stored', 1, message id, what to announce}; for a repetition without the last
local first = answered()
if first then
  return first
end

local epoch, offset, body = keep()
local frame = envelope(epoch, offset, body)
remember_answer({epoch, offset, 'stored', 1, ARGV[9]})
return {epoch, offset, 'stored', 1, ARGV[9], frame}
