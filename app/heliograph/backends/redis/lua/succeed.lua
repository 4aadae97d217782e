-- Decide under which name the scripts of a virtual shard run, after its slot has come to this server.
-- KEYS: server
-- ARGV: this process and its address, the process that it certainly continues ('' if none), the name and the process
--       that the caller knows from before ('' if it knows none), a new name, most processes to remember
-- Return the name. It is the name of before if nothing can have been lost since. If something may be lost, it is a
-- new one, so that logs begin a new epoch.
local server = KEYS[1]
local here, continued, known_name, known, new_name, most = unpack(ARGV)

-- `line`: the processes under the present name, the latest last. Each has continued the one before it.
local found = redis.call('HMGET', server, 'name', 'line')
local name, line = found[1], {}
for process in string.gmatch(found[2] or '', '%S+') do
  line[#line + 1] = process
end

local function id(process)
  return string.match(process, '^[^@]*')
end

-- If the caller has seen a process that is not in the line, the server has lost what was written under that.
local is_known = known == '' or known_name ~= name
for i = 1, #line do
  if id(line[i]) == id(known) then is_known = true end
end

if name and #line > 0 and is_known then
  if id(line[#line]) == id(here) then return name end
  if continued ~= '' and id(line[#line]) == id(continued) then
    line[#line + 1] = here
    local first = math.max(1, #line - most + 1)
    redis.call('HSET', server, 'line', table.concat(line, ' ', first))
    return name
  end
end
redis.call('HSET', server, 'name', new_name, 'line', here)
return new_name
