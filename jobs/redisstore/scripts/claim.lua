-- claim: takes back the units of expired leases, and leases one unit.
--
-- ARGV[7]  Limits.MaxActive
-- ARGV[8]  Limits.MaxActivePerOwner; 0: no limit
-- ARGV[9]  reason of a job that fails because a unit fell silent too often
--
-- Returns {"leased", job, unit, JSON of the unit, attempt, tries, silent,
-- checkpoint or nil, expiry, fields of the job and their values}; or {"none",
-- microseconds after which time alone may change that (-1: never), position in
-- "wake"}.
--
-- It looks at active jobs and at leases only, however many jobs wait and
-- however many units they have.

local max_active, per_owner, silent_reason = tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]

local function reap()
  local over = call('ZRANGEBYSCORE', P .. 'leases', '-inf', int(now), 'LIMIT', 0, 100)
  local taken = false
  for _, who in ipairs(over) do
    local id, unit = string.match(who, '^(%w+) ([%w-]+) %d+$')
    local job_version = tonumber(call('HGET', of('job', id), 'version')) or 0
    if job_version <= version and call('ZREM', P .. 'leases', who) == 1 then -- else its job has just failed
      local attempt, tries, silent, head = turns(id, unit)
      if tries + 1 >= max_tries then
        fail(id, silent_reason)
      else
        requeue(id, unit, attempt, tries + 1, silent + 1, head, 0)
      end
      taken = true
    end
  end
  if taken then wake() end
end

-- rank puts the jobs that have not ended in the order of jobs.Store.Claim and
-- returns those that are active, or have been started and pause.
local function rank()
  local columns, rows = {}, {}
  for _, name in ipairs({'running', 'queued'}) do
    local all = call('ZRANGE', P .. name, 0, -1, 'WITHSCORES')
    for i = 1, #all, 2 do
      local id, job_version, owner = string.match(all[i], '^(%w+) (%d+) (.*)$')
      if tonumber(job_version) <= version then
        local n = (rows[owner] or 0) + 1
        rows[owner] = n
        columns[n] = columns[n] or {}
        table.insert(columns[n], {id = id, owner = owner, created = all[i + 1], running = name == 'running'})
      end
    end
  end
  local places, taken = {}, 0
  for n, column in ipairs(columns) do
    for _, job in ipairs(column) do
      if taken < max_active and (per_owner == 0 or n <= per_owner or job.owner == '') then
        taken = taken + 1
        job.active = true
      end
      if job.active or job.running then table.insert(places, job) end
    end
  end
  return places
end

-- ranked is rank, kept until a job is created, started or ended.
local function ranked()
  local epoch = call('GET', KEYS[2]) or '0'
  local mark = epoch .. ' ' .. version .. ' ' .. max_active .. ' ' .. per_owner
  local kept = call('GET', P .. 'ranked')
  if kept then
    kept = cjson.decode(kept)
    if kept.mark == mark then return kept.places end
  end
  local places = rank()
  call('DEL', P .. 'ranked')
  call('SET', P .. 'ranked', cjson.encode({mark = mark, places = places}))
  return places
end

-- stage_of returns the stage of the first unit of a set, and its member.
local function first(key)
  local f = call('ZRANGE', key, 0, 0, 'WITHSCORES')
  return tonumber(f[2]) or 99, f[1]
end

local due = -1 -- the earliest time at which more may be claimable

-- look finds the first claimable unit of a job (nil: none). Delayed units of
-- its stage whose time has come are made ready.
local function look(id)
  local ready, delayed = of('ready', id), of('delayed', id)
  local stage, order = first(ready)
  stage = math.min(stage, (first(delayed)), (first(of('leased', id))))
  while true do
    local of_stage, member = first(delayed)
    if not member or of_stage > stage then break end
    local at = tonumber(string.sub(member, 1, 16))
    if at > now then
      if due < 0 or at < due then due = at end
      break
    end
    call('ZREM', delayed, member)
    call('ZADD', ready, of_stage, string.sub(member, 17))
  end
  local of_stage
  of_stage, order = first(ready)
  if order and of_stage == stage then return order end
end

local function choose()
  local owned, candidates = {}, {}
  for _, job in ipairs(ranked()) do
    job.leased = call('ZCARD', of('leased', job.id))
    owned[job.owner] = (owned[job.owner] or 0) + job.leased
    if job.active then
      job.order = look(job.id)
      if job.order then table.insert(candidates, job) end
    end
  end
  local best
  for _, job in ipairs(candidates) do
    job.served = tonumber(call('HGET', of('job', job.id), 'served') or 0)
    local key = {owned[job.owner], job.leased, job.served, tonumber(job.created)}
    for i = 1, 4 do
      if not best or key[i] < best.key[i] then
        best = {job = job, key = key}
        break
      elseif key[i] > best.key[i] then
        break
      end
    end
  end
  return best and best.job
end

local function lease(job)
  local id, order = job.id, job.order
  local unit = string.sub(order, 25) -- after weight and age
  local record = of('job', id)
  call('ZREM', of('ready', id), order)
  local stored = call('HGET', of('units', id), unit)
  local attempt, tries, silent, head = 0, 0, 0, string.sub(stored, 1, 25)
  if call('HEXISTS', of('turns', id), unit) == 1 then attempt, tries, silent = turns(id, unit) end
  attempt = int(math.max(tonumber(attempt), attempt_base()) + 1)
  set_turns(id, unit, attempt, tries, silent, head)
  call('ZADD', of('leased', id), string.sub(head, 1, 1), unit)
  local expires = extend(id, unit, attempt)
  call('HSET', record, 'served', int(call('INCR', P .. 'turn')))
  if call('HGET', record, 'state') == 'queued' then
    local at = place(id, call('HGET', record, 'version'), job.owner)
    call('ZREM', P .. 'queued', at)
    call('ZADD', P .. 'running', job.created, at)
    call('HSET', record, 'state', 'running', 'started', int(now))
    changed()
  end
  return {'leased', id, unit, string.sub(stored, 26), attempt, tries, silent,
    call('HGET', of('saved', id), unit), expires, call('HGETALL', record)}
end

reap()
local job = choose()
if job then return lease(job) end
local next_lease = call('ZRANGEBYSCORE', P .. 'leases', '(' .. int(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
if next_lease and (due < 0 or tonumber(next_lease) < due) then due = tonumber(next_lease) end
if due >= 0 then due = math.max(0, due - now) end
local last = call('XREVRANGE', P .. 'wake', '+', '-', 'COUNT', 1)[1]
return {'none', int(due), last and last[1] or '0-0'}
