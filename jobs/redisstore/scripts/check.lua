-- check: tries every command that the other scripts use, on keys of its own.
--
-- ARGV[7]  random: names those keys
--
-- Returns {"ok", what Redis refused, …}.

local key = of('check', ARGV[7])
local refused = {'ok'}
for _, command in ipairs({
  {'DEL', key},
  {'HSET', key, 'f', '1'}, {'HSETNX', key, 'g', '1'}, {'HGET', key, 'f'}, {'HMGET', key, 'f', 'g'}, {'HGETALL', key},
  {'HEXISTS', key, 'f'}, {'HINCRBY', key, 'f', '1'}, {'HDEL', key, 'g'}, {'UNLINK', key},
  {'ZADD', key, '1', 'm'}, {'ZSCORE', key, 'm'}, {'ZCARD', key}, {'ZRANGE', key, '0', '0'}, {'ZREVRANGE', key, '0', '0'},
  {'ZRANGEBYSCORE', key, '0', '1'}, {'ZREM', key, 'm'},
  {'XADD', key, 'MAXLEN', '1', '*', 'w', '1'}, {'XREVRANGE', key, '+', '-', 'COUNT', '1'}, {'UNLINK', key},
  {'RPUSH', key, 'e'}, {'LRANGE', key, '0', '0'}, {'UNLINK', key},
  {'SET', key, '1', 'PX', '1000'}, {'GET', key}, {'INCR', key}, {'EXISTS', key}, {'UNLINK', key},
}) do
  local answer = redis.pcall(unpack(command))
  if type(answer) == 'table' and answer.err then table.insert(refused, command[1] .. ': ' .. answer.err) end
end
return refused
