-- save: keeps a checkpoint with a unit, and renews its lease.
--
-- ARGV[7…9]  job, unit, attempt
-- ARGV[10]    checkpoint; empty: none
--
-- Returns {"ok", expiry}, {"lost"} or {"ended"}.

local id, unit, attempt, checkpoint = ARGV[7], ARGV[8], ARGV[9], ARGV[10]
local refused = refusal(id, unit, attempt)
if refused then return refused end
if checkpoint == '' then
  call('HDEL', of('saved', id), unit)
else
  call('HSET', of('saved', id), unit, checkpoint)
end
return {'ok', extend(id, unit, attempt)}
