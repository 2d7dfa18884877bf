-- load: reads a shared value. It writes nothing.
--
-- ARGV[7]  name
--
-- Returns {"ok", now, version (0: there is none), bytes}.

local stored = call('GET', of('shared', ARGV[7]))
if stored then
  local expires, value_version, from = string.match(stored, '^(%d+) (%d+) ()')
  if tonumber(expires) > now then return {'ok', int(now), value_version, string.sub(stored, from)} end
end
return {'ok', int(now), '0', ''}
