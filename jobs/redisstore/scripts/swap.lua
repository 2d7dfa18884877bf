-- swap: stores a shared value if its version is still the one given.
--
-- ARGV[7]  name
-- ARGV[8]  version; 0: there is none
-- ARGV[9]  bytes
-- ARGV[10]  microseconds to keep it for
--
-- Returns {"ok" or "other", now, version, bytes} of what there is afterwards.
-- A version is the time of its making, or one more than the version before it.

local key, bytes, ttl = of('shared', ARGV[7]), ARGV[9], tonumber(ARGV[10])
local stored, current = call('GET', key), '0'
local old
if stored then
  local expires, value_version, from = string.match(stored, '^(%d+) (%d+) ()')
  old = tonumber(value_version)
  if tonumber(expires) > now then
    current = value_version
    if current ~= ARGV[8] then return {'other', int(now), current, string.sub(stored, from)} end
  end
end
if current ~= ARGV[8] then return {'other', int(now), '0', ''} end
local fresh = int(math.max(now, (old or 0) + 1))
call('SET', key, int(now + ttl) .. ' ' .. fresh .. ' ' .. bytes, 'PX', int(math.ceil(ttl / 1000)))
return {'ok', int(now), fresh, bytes}
