// Package redisstore keeps jobs in Redis, for many processes: jobs.Store on
// Redis, Redis Cluster or Redis behind Sentinel, of version 6.2 or later.
//
//	Open      connects, and checks what would lose exports or let others read them
//	scripts/  every change of state is one Lua script, with a prelude that all share
//	do        one exchange: its time, what may be repeated, what its error means
//	run       a script, unless it would come too late
//	Claim     reap expired leases -> which jobs are active -> choose one -> its first ready unit
//	Idle      one blocking command for all callers of a process
//	Swap      small values that processes share
//
// # Keys
//
// Every key begins with "{prefix}:". All have one hash tag, so in a Redis
// Cluster all lie in one slot, on one node. That is so that a claim can be one
// script over all jobs, which makes fairness, limits and fencing exact, and it
// can be afforded: an export of a million resources costs about a thousand
// commands of a tenth of a millisecond, and a tenth of a megabyte. The scripts
// make the names of keys themselves, and name two of them to Redis. While the
// slot is moved to another node they are refused and everything waits.
//
// Times are microseconds since 1970 on the server's clock.
//
//	jobs          zset    created -> job           all of them
//	queued        zset    created -> place         jobs waiting for their first claim
//	running       zset    created -> place
//	ended         zset    expires -> job           by the time from which they may be removed
//	leases        zset    expires -> holder        in force, or run out and not yet taken back
//	epoch         counter                          grows when a job is created, started or ended
//	ranked        string                           which jobs are active, and the epoch it was found in
//	turn          counter                          orders jobs by their last claim
//	server        string                           run id of the server that served last, and what attempts count on from
//	wake          stream                           of one entry, new with whatever Idle waits for
//	shared:NAME   string  expires, version, bytes  forgotten by Redis itself after expires
//	job:ID        hash    "record": the jobs.Job as it was created; "state", "started", "ended", "expires",
//	                      "transactionTime", "failure"; "done", "total", "e:TYPE", "d:TYPE", "b:TYPE": progress;
//	                      "version", "owner", "created", "served", "age", "call": for the scripts
//	output:ID     string                           files and evidence, written by the finish unit
//	units:ID      hash    unit -> head, JSON       empty once the unit is done, so that its id is never used again
//	turns:ID      hash    unit -> attempt, tries, silent, head    from its first claim on
//	ready:ID      zset    stage -> order, unit     claimable, in order
//	delayed:ID    zset    stage -> not before, order, unit        claimable later
//	leased:ID     zset    stage -> unit
//	saved:ID      hash    unit -> checkpoint
//	done:ID       list    attempt, length of the unit, unit, result
//	writers:ID    zset    expires -> unit, attempt   leases that the end of the job voided
//
// A place is "job version owner", a holder "job unit attempt". The order of a
// unit is its inverted weight and its age, its head the stage and the order.
// Every unfinished unit is in exactly one of ready, delayed and leased. When a
// job ends, all but job, output, done and writers goes. "record", "output" and
// results are JSON, deflated where that is shorter. A job whose version is
// greater than jobs.RecordVersion stands in none of the indexes but jobs, or is
// passed over there. No key holds a resource or a search result; the request of a job
// has what the client asked for, and with it the ids of patients if it named any.
//
// With Options.RecordKey "record", "transactionTime", "output", JSON, results and
// checkpoints are sealed: a byte 2, HMAC-SHA256 over place and value, the value.
// State, failure and progress are not, nor are shared values.
//
// # What it costs
//
// Measured on Redis 7.0 with 150 units, which is a million resources: 910
// scripts (6 a unit: claim, complete, a checkpoint, a renewal every quarter of
// LeaseTTL), of 0.09 ms each on the average with 10,000 units pending and as
// well with 1,000 jobs waiting; 2 ms the first one after one of 1,000 waiting
// jobs was created, started or ended. A plan of 2,000 units takes 7 ms, cancel
// and remove less than 1 ms whatever the size. A status request is one script. A process with nothing to do sends two or three commands a second.
//
// Memory: 0.6 kB a pending unit (0.35 of them its spec), 0.6 kB a unit that is
// done, with one segment; 2 kB a job. That is 95 kB for the million resources,
// until the job is removed. TestCost measures it again.
//
// # What is kept, and what a failover loses
//
// What Redis has acknowledged is as durable as it is set to be: "appendonly yes"
// loses up to a second at a power cut, with "appendfsync always" nothing;
// snapshots lose minutes; neither, everything. Open warns of the latter two. It
// refuses a Redis that may evict keys. A failover to a replica loses what had
// not reached that yet. Whatever is lost, no output gets wrong: a lost claim or
// completion is done again by another attempt, under another storage prefix; a
// lost job is ErrNotFound and its bytes are swept. So that the number of a lost
// claim is not given to another, attempts count on from the time in milliseconds
// once Redis has restarted or another server has taken over. Only a shared value that was
// lost may be stored a second time: a token that has been seen in the last
// moments before a failover may be seen again.
//
// An answer can be lost after the change was made. Reads, Create, Renew, Save
// and Remove are then repeated once, which changes nothing twice. Others return
// jobs.ErrUnavailable: a claimed unit is free again when its lease runs out; a
// second Complete, Fail or Release returns jobs.ErrLeaseLost though the first
// was taken, and a second Cancel jobs.ErrNotFound.
//
// A script that Redis comes to only after its caller has given up does nothing:
// a Redis that stood still would lease units to nobody when it goes on.
//
// If Redis is full, Create, Save and Swap are refused, and the rest goes on.
package redisstore
