-- get: reads a job. It writes nothing.
--
-- ARGV[7]  job
--
-- Returns {"ok", fields and their values, files and evidence or nil}; {"none"}.

local fields = call('HGETALL', of('job', ARGV[7]))
if #fields == 0 then return {'none'} end
return {'ok', fields, call('GET', of('output', ARGV[7]))}
