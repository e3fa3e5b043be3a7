-- Shared by all scripts. KEYS[1] is the prefix of every key; ARGV[1] is the Unix time in seconds, '' for Redis's clock.
--
-- prompt:ID      hash of one prompt: user, state (waiting, running, ended), body, tries, token of its driver, ...
-- waits:TURN     a user's waiting prompts of one priority, in the user's order; TURN is PRIORITY:USER
-- turns          the TURNs with waiting prompts, by priority, then by the user's virtual time
-- virtual        virtual time of each user, in worker seconds (start-time fair queueing)
-- mine:USER      a user's prompts that have not ended
-- running        the prompt of each worker
-- leases         by when each running prompt must have shown progress
-- owner:WORKER   the gateway that drives a worker
local P = KEYS[1]
local now = tonumber(ARGV[1])
if not now then
  local clock = redis.call('TIME')
  now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
end

local HIGHEST = 2     -- priorities are -HIGHEST to HIGHEST
local CLASS = 1e9     -- seconds between two priorities; larger than any virtual time
local totals = P .. 'totals'

local function total(name)
  return tonumber(redis.call('HGET', totals, name) or 0)
end

local function seconds_of_a_prompt()
  return tonumber(redis.call('HGET', totals, 'mean') or 1)
end

-- Charge a user's virtual time; negative seconds are a refund.
local function charge(user, seconds)
  local at = tonumber(redis.call('ZSCORE', P .. 'virtual', user) or total('clock')) + seconds
  redis.call('ZADD', P .. 'virtual', at, user)
  for priority = -HIGHEST, HIGHEST do
    redis.call('ZADD', P .. 'turns', 'XX', at - priority * CLASS, priority .. ':' .. user)
  end
end

local function join_line(id, user, priority, number, order, size)
  local turn = priority .. ':' .. user
  redis.call('ZADD', P .. 'waits:' .. turn, order, string.format('%016d', number) .. id)
  local at = tonumber(redis.call('ZSCORE', P .. 'virtual', user) or total('clock'))
  redis.call('ZADD', P .. 'turns', at - priority * CLASS, turn)
  redis.call('HINCRBY', totals, 'waiting', 1)
  redis.call('HINCRBY', totals, 'bytes', size)
end

local function leave_line(id, user, priority, number, size)
  local turn = priority .. ':' .. user
  if redis.call('ZREM', P .. 'waits:' .. turn, string.format('%016d', number) .. id) == 0 then
    return
  end
  if redis.call('EXISTS', P .. 'waits:' .. turn) == 0 then
    redis.call('ZREM', P .. 'turns', turn)
  end
  redis.call('HINCRBY', totals, 'waiting', -1)
  redis.call('HINCRBY', totals, 'bytes', -size)
end

-- Detach a prompt from its worker.
local function leave_worker(id, worker)
  if redis.call('HGET', P .. 'running', worker) == id then
    redis.call('HDEL', P .. 'running', worker)
  end
  redis.call('ZREM', P .. 'leases', id)
end

-- Publish the number of prompts that wait or run.
local function tell_length()
  redis.call('PUBLISH', P .. 'news', total('waiting') + redis.call('HLEN', P .. 'running'))
end
