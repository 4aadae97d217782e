-- Try every command that replicas and publishers use, on keys of its own: a refusal here would hit clients too.
-- KEYS: this replica's probes, the last of them, a scratch key, and the claim to renew if there is one
-- ARGV: ttl of these keys in ms, ttl of the claim in ms, holder of the claim
-- Return {number of probes so far, 0 if another holds the claim else 1}. A lower number than before means that Redis
-- has lost data.
local probes, last, scratch, claim = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local ttl_ms, claim_ms, holder = ARGV[1], ARGV[2], ARGV[3]
local refusal

-- Redis does not say which command a user may not use in a script.
local function call(command, ...)
  if refusal then return end
  local answer = redis.pcall(command, ...)
  if type(answer) == 'table' and answer.err then
    refusal = answer.err .. ' (' .. command .. ')'
  end
  return answer
end

call('TIME')
local count = call('HINCRBY', probes, 'number', 1)
call('HSET', probes, 'field', 1)
call('HMGET', probes, 'number')
call('HGET', probes, 'number')
call('HGETALL', probes)
call('HKEYS', probes)
call('HVALS', probes)
call('HSCAN', probes, 0)
call('HDEL', probes, 'field')
call('PTTL', probes)
call('PEXPIRE', probes, ttl_ms)
call('XADD', last, 'MAXLEN', 1, '*', 'b', count)
call('XRANGE', last, '-', '+', 'COUNT', 1)
call('EXPIRE', last, 60)
call('PEXPIRE', last, ttl_ms)
call('DEL', scratch)
call('SET', scratch, count, 'PX', ttl_ms)
call('GET', scratch)
call('GETDEL', scratch)
call('RPUSH', scratch, count)
call('LTRIM', scratch, 0, 0)
call('LRANGE', scratch, 0, -1)
call('UNLINK', scratch)
call('SADD', scratch, count)
call('SRANDMEMBER', scratch, 1)
call('SREM', scratch, count)
call('ZADD', scratch, 1, count)
call('ZSCORE', scratch, count)
call('ZRANGE', scratch, 0, -1)
call('ZRANGEBYSCORE', scratch, 0, 1)
call('ZREM', scratch, count)
local held = 1
if claim then
  call('SET', claim, holder, 'NX', 'PX', claim_ms)
  if call('GET', claim) == holder then
    call('PEXPIRE', claim, claim_ms)
  else
    held = 0
  end
end
if refusal then return redis.error_reply(refusal) end
return {count, held}
