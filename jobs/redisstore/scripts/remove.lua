-- remove: deletes all that is kept of a job. Redis frees the memory later, so
-- it takes no longer for a large one.
--
-- ARGV[7]  job
--
-- Returns {"ok"}, also if there is no such job; {"newer"} if its record is.

local id = ARGV[7]
local job_version = call('HGET', of('job', id), 'version')
if not job_version then return {'ok'} end
if tonumber(job_version) > version then return {'newer'} end
void(id)
call('ZREM', P .. 'ended', id)
call('ZREM', P .. 'jobs', id)
call('UNLINK', of('job', id), of('done', id), of('output', id), of('writers', id))
changed()
return {'ok'}
