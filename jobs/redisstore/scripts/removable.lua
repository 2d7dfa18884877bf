-- removable: lists ended jobs whose bytes may go. It writes nothing.
--
-- Returns {"ok", {job, …}}, those that expired first in front, 1,000 at most.

local ids = {}
for _, id in ipairs(call('ZRANGEBYSCORE', P .. 'ended', '-inf', int(now), 'LIMIT', 0, 1000)) do
  local writing = tonumber(call('ZREVRANGE', of('writers', id), 0, 0, 'WITHSCORES')[2]) or 0
  local job_version = tonumber(call('HGET', of('job', id), 'version')) or 0
  if writing <= now and job_version <= version then table.insert(ids, id) end
end
return {'ok', ids}
