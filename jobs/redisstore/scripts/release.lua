-- release: hands a unit back, unfinished and blameless.
--
-- ARGV[7…9]  job, unit, attempt
-- ARGV[10]    time from which it is claimable, in microseconds; 0: at once
--
-- Returns {"ok"}, {"lost"} or {"ended"}.

local id, unit, attempt, not_before = ARGV[7], ARGV[8], ARGV[9], tonumber(ARGV[10])
local refused = refusal(id, unit, attempt, true)
if refused then return refused end
local _, tries, silent, head = turns(id, unit)
requeue(id, unit, attempt, tries, silent, head, not_before)
wake()
return {'ok'}
