-- done: reads some of the completed units of a job. It writes nothing.
--
-- ARGV[7]  job
-- ARGV[8]  how many to pass over
-- ARGV[9]  how many to read at most
--
-- Returns {"ok", {unit, …}, files and evidence or nil}; {"none"} if there is no
-- such job.

local id, from = ARGV[7], ARGV[8]
if call('EXISTS', of('job', id)) == 0 then return {'none'} end
return {'ok', call('LRANGE', of('done', id), from, from + ARGV[9] - 1), call('GET', of('output', id))}
