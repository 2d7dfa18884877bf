-- cancel: makes a job canceled, also one that has ended otherwise.
--
-- ARGV[7]  job
--
-- Returns {"ok"}; {"none"} if there is no such job or it is canceled already;
-- {"newer"} if its record is.

local id = ARGV[7]
local job = call('HMGET', of('job', id), 'version', 'state')
if not job[1] or job[2] == 'canceled' then return {'none'} end
if tonumber(job[1]) > version then return {'newer'} end
finish(id, 'canceled')
return {'ok'}
