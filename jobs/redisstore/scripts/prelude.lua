-- prelude: stands before every script.
--
-- KEYS[1]  "{prefix}:", which begins the name of every key and never is one
-- KEYS[2]  "{prefix}:epoch"
-- ARGV[1]  microseconds added to the server's clock (tests only; else 0)
-- ARGV[2]  jobs.RecordVersion: records of a greater version are left alone
-- ARGV[3]  Limits.LeaseTTL in microseconds
-- ARGV[4]  Limits.Retention in microseconds
-- ARGV[5]  jobs.MaxTries
-- ARGV[6]  time on the server's clock after which nobody waits for the answer
-- ARGV[7]  first argument of the script itself
--
-- All other keys are made of KEYS[1], so they have its hash tag and lie in its
-- slot. KEYS[1] is missing always, and KEYS[2] is there from the first job on:
-- so Redis Cluster refuses every script (TRYAGAIN, ASK) for as long as the slot
-- is on its way to another node, and none meets half of the keys.
--
-- A script that comes too late (Redis stood still, and has just gone on) does
-- nothing and answers {"late", now}: it would lease a unit to nobody.
--
-- A script answers with an array that begins with a word, and writes nothing
-- unless that word is "ok" or "leased" ("ended" may let go of a lease). Where
-- Redis is full it refuses the first write if that takes memory. Here the first
-- one does not, but in create, save and swap: so work that is under way can end.

local P = KEYS[1]
local call = redis.call

local now = call('TIME')
now = now[1] * 1000000 + now[2]
if now > tonumber(ARGV[6]) then return {'late', string.format('%.0f', now)} end
now = now + ARGV[1]
local version, lease_ttl, retention, max_tries = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

-- int writes a number whole: tostring would round it to 14 digits.
local function int(n) return string.format('%.0f', n) end

-- of names a key of a job.
local function of(kind, id) return P .. kind .. ':' .. id end

-- wake ends the waiting of all who are in Idle.
local function wake() call('XADD', P .. 'wake', 'MAXLEN', 1, '*', 'w', '1') end

-- changed says that a job was created, started or ended.
local function changed()
  call('INCR', KEYS[2])
  wake()
end

-- place is how a job stands in "queued" and "running".
local function place(id, job_version, owner) return id .. ' ' .. job_version .. ' ' .. owner end

local function holder(id, unit, attempt) return id .. ' ' .. unit .. ' ' .. attempt end

local function ended(state) return state == 'completed' or state == 'failed' or state == 'canceled' end

-- refusal returns nil if the lease is in force, or the word for why it is not.
-- let_go says that the holder is through with the unit, whatever comes of it.
local function refusal(id, unit, attempt, let_go)
  local expires = call('ZSCORE', P .. 'leases', holder(id, unit, attempt))
  if expires and tonumber(expires) > now then return nil end
  local state = call('HGET', of('job', id), 'state')
  if not state or not ended(state) then return {'lost'} end
  if let_go and call('ZREM', of('writers', id), unit .. ' ' .. attempt) == 1 then wake() end
  return {'ended'}
end

-- extend lets a lease that is in force run for its whole time again.
local function extend(id, unit, attempt)
  local expires = int(now + lease_ttl)
  local who = holder(id, unit, attempt)
  call('ZREM', P .. 'leases', who)
  call('ZADD', P .. 'leases', expires, who)
  return expires
end

-- attempt_base is what attempts count on from: 0 until Redis has restarted or
-- another server has taken over. What had been written last may be lost then:
-- perhaps a claim, whose holder still works, and whose number must not be given
-- to a second. (Where INFO is not permitted it is always 0.)
local function attempt_base()
  local told = redis.pcall('INFO', 'server')
  local run = type(told) == 'string' and string.match(told, 'run_id:(%w+)')
  if not run then return 0 end
  local last, base = string.match(call('GET', P .. 'server') or '', '^(%w+) (%d+)$')
  if last == run then return tonumber(base) end
  local fresh = 0
  if last or call('ZCARD', P .. 'jobs') > 0 then
    fresh = math.max(math.floor(now / 1000), (tonumber(base) or 0) + 1000000)
  end
  call('SET', P .. 'server', run .. ' ' .. int(fresh))
  return fresh
end

-- turns reads what the attempts at a unit have come to: how many there were,
-- how many of them failed or fell silent, how many fell silent, and the head of
-- the unit (stage, inverted weight, age).
local function turns(id, unit)
  local attempt, tries, silent, head = string.match(call('HGET', of('turns', id), unit), '^(%d+) (%d+) (%d+) (%w+)$')
  return attempt, tonumber(tries), tonumber(silent), head
end

local function set_turns(id, unit, attempt, tries, silent, head)
  call('HSET', of('turns', id), unit, attempt .. ' ' .. tries .. ' ' .. silent .. ' ' .. head)
end

-- queue_of says where a unit waits that is claimable from a time on.
local function queue_of(unit, head, not_before)
  local stage, order = string.sub(head, 1, 1), string.sub(head, 2) .. unit
  if not_before > now then return 'delayed', stage, string.format('%016.0f', not_before) .. order end
  return 'ready', stage, order
end

-- enqueue makes a unit claimable from a time on.
local function enqueue(id, unit, head, not_before)
  local queue, stage, member = queue_of(unit, head, not_before)
  call('ZADD', of(queue, id), stage, member)
end

-- batch calls a command with many arguments, a few at a time.
local function batch(command, key, args)
  for i = 1, #args, 500 do call(command, key, unpack(args, i, math.min(i + 499, #args))) end
end

-- add records new units and makes them claimable. They are at ARGV[from…to],
-- four each: id, stage and inverted weight, not before, JSON.
local function add(id, from, to)
  local n = (to - from + 1) / 4
  local age = call('HINCRBY', of('job', id), 'age', n) - n
  local units, queues = {}, {ready = {}, delayed = {}}
  for i = from, to, 4 do
    age = age + 1
    local unit, head = ARGV[i], ARGV[i + 1] .. string.format('%08x', age)
    local queue, stage, member = queue_of(unit, head, tonumber(ARGV[i + 2]))
    table.insert(units, unit)
    table.insert(units, head .. ARGV[i + 3])
    table.insert(queues[queue], stage)
    table.insert(queues[queue], member)
  end
  batch('HSET', of('units', id), units)
  batch('ZADD', of('ready', id), queues.ready)
  batch('ZADD', of('delayed', id), queues.delayed)
end

-- requeue takes a leased unit back and makes it claimable from a time on.
local function requeue(id, unit, attempt, tries, silent, head, not_before)
  call('ZREM', P .. 'leases', holder(id, unit, attempt))
  call('ZREM', of('leased', id), unit)
  set_turns(id, unit, attempt, tries, silent, head)
  enqueue(id, unit, head, not_before)
end

-- void takes a job out of the row, and its units out of their holders' hands,
-- who may still be writing until their leases would have run out.
local function void(id)
  local job = call('HMGET', of('job', id), 'version', 'owner')
  local at = place(id, job[1], job[2])
  call('ZREM', P .. 'running', at)
  call('ZREM', P .. 'queued', at)
  for _, unit in ipairs(call('ZRANGE', of('leased', id), 0, -1)) do
    local attempt = turns(id, unit)
    local who = holder(id, unit, attempt)
    local expires = call('ZSCORE', P .. 'leases', who)
    if expires then
      call('ZREM', P .. 'leases', who)
      call('ZADD', of('writers', id), expires, unit .. ' ' .. attempt)
    end
  end
  call('UNLINK', of('units', id), of('turns', id), of('saved', id), of('ready', id), of('delayed', id), of('leased', id))
end

-- finish gives a job a final state. What only its unfinished units needed goes.
local function finish(id, final)
  void(id)
  local expires = now
  if final ~= 'canceled' then expires = now + retention end
  call('HSETNX', of('job', id), 'ended', int(now))
  call('HSET', of('job', id), 'state', final, 'expires', int(expires))
  call('ZADD', P .. 'ended', int(expires), id)
  changed()
end

-- fail ends a job with a reason.
local function fail(id, reason)
  finish(id, 'failed')
  call('HSET', of('job', id), 'failure', reason)
end
