-- renew: lets a lease run for its whole time again.
--
-- ARGV[7…9]  job, unit, attempt
--
-- Returns {"ok", expiry}, {"lost"} or {"ended"}.

local id, unit, attempt = ARGV[7], ARGV[8], ARGV[9]
return refusal(id, unit, attempt) or {'ok', extend(id, unit, attempt)}
