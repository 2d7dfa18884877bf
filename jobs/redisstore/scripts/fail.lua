-- fail: ends an attempt that did not succeed.
--
-- ARGV[7…9]  job, unit, attempt
-- ARGV[10]    reason
-- ARGV[11]   "1": permanent
-- ARGV[12]   microseconds until the unit is claimable again
--
-- Returns {"ok"}, {"lost"} or {"ended"}.

local id, unit, attempt, reason, permanent, retry_in = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11] == '1', tonumber(ARGV[12])
local refused = refusal(id, unit, attempt, true)
if refused then return refused end
local _, tries, silent, head = turns(id, unit)
tries = tries + 1
if permanent or tries >= max_tries then
  call('ZREM', P .. 'leases', holder(id, unit, attempt)) -- this holder writes no more
  fail(id, reason)
else
  requeue(id, unit, attempt, tries, silent, head, now + retry_in)
  wake()
end
return {'ok'}
