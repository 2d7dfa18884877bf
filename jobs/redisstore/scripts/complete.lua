-- complete: ends a unit, records its result, adds the next units and counts.
--
-- ARGV[7…9]  job, unit, attempt
-- ARGV[10]    result, as it is kept
-- ARGV[11]   transaction time; kept if the unit is a plan and this is not empty
-- ARGV[12]   files and evidence; kept if the unit is a finish unit
-- ARGV[13]   n: number of counts that follow
--   n × 2    field of the job, how much to add
--   rest × 4 next units: id, stage and inverted weight, not before, JSON
--
-- Returns {"ok"}, {"lost"}, {"ended"}; {"used", i} if the id of the i-th next
-- unit has been used; {"last"} if nothing would be left to finish the job.

local id, unit, attempt = ARGV[7], ARGV[8], ARGV[9]
local refused = refusal(id, unit, attempt, true)
if refused then return refused end

local job, units, ready, delayed, leased = of('job', id), of('units', id), of('ready', id), of('delayed', id), of('leased', id)
local counts = 14
local nexts = counts + 2 * ARGV[13]
local _, _, _, head = turns(id, unit)
local stage = tonumber(string.sub(head, 1, 1))
local is_plan, is_finish = stage == 0, stage == 5

for i = nexts, #ARGV, 4 * 500 do
  local ids = {}
  for k = i, math.min(i + 4 * 500 - 1, #ARGV), 4 do table.insert(ids, ARGV[k]) end
  for k, used in ipairs(call('HMGET', units, unpack(ids))) do
    if used then return {'used', (i - nexts) / 4 + k - 1} end
  end
end
if not is_finish and nexts > #ARGV and
  call('ZCARD', ready) == 0 and call('ZCARD', delayed) == 0 and call('ZCARD', leased) == 1 then
  return {'last'}
end

call('ZREM', P .. 'leases', holder(id, unit, attempt))
call('ZREM', leased, unit)
local json = string.sub(call('HGET', units, unit), 26)
call('RPUSH', of('done', id), attempt .. ' ' .. #json .. ' ' .. json .. ARGV[10])
call('HSET', units, unit, '')
call('HDEL', of('turns', id), unit)
call('HDEL', of('saved', id), unit)
if nexts <= #ARGV then add(id, nexts, #ARGV) end
for i = counts, nexts - 1, 2 do call('HINCRBY', job, ARGV[i], ARGV[i + 1]) end
if is_plan and ARGV[11] ~= '' then call('HSET', job, 'transactionTime', ARGV[11]) end
if is_finish then
  call('SET', of('output', id), ARGV[12])
  finish(id, 'completed')
  return {'ok'}
end

-- Others need to know only if there is more to claim than before: new units, or
-- those of the next stage.
local lowest = 99
for _, key in ipairs({ready, delayed, leased}) do
  lowest = math.min(lowest, tonumber(call('ZRANGE', key, 0, 0, 'WITHSCORES')[2]) or 99)
end
if nexts <= #ARGV or lowest > stage then wake() end
return {'ok'}
