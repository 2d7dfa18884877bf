-- create: records a job and its first unit.
--
-- ARGV[7]   id
-- ARGV[8]   call: random, so that a repeated call knows its own work
-- ARGV[9]   version of the record
-- ARGV[10]  owner
-- ARGV[11]  time of creation in microseconds
-- ARGV[12…15] first unit: id, stage and inverted weight, not before, JSON
-- ARGV[16…] fields of the job and their values
--
-- Returns {"ok"}, also if this call has created it before; {"exists"}.

local id, nonce, job_version, owner, created = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local job = of('job', id)

local was = call('HGET', job, 'call')
if was then
  if was == nonce then return {'ok'} end
  return {'exists'}
end
attempt_base() -- notes the server before the first job is there
call('HSET', job, 'call', nonce, 'version', job_version, 'owner', owner, 'created', created)
for i = 16, #ARGV, 2 do call('HSET', job, ARGV[i], ARGV[i + 1]) end
call('ZADD', P .. 'jobs', created, id)
add(id, 12, 15)
if tonumber(job_version) <= version then
  call('ZADD', P .. 'queued', created, place(id, job_version, owner))
end
changed()
return {'ok'}
