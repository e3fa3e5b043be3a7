-- Store the first result of a prompt and send it to its client. A later result of another try is only counted.
-- Returns: ok | same (this try's result is already stored) | late (another try's was first) | gone (no such prompt)
local id, token, try, status, entry = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local keep, most, told, count = tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
local key = P .. 'prompt:' .. id
local fields = redis.call('HMGET', key, 'state', 'user', 'client', 'priority', 'number', 'size', 'worker', 'taken',
  'estimate', 'ended_by', 'ended_try')
local state, user, client = fields[1], fields[2], fields[3]
if not state then
  return 'gone'
end
if state == 'ended' then
  if fields[10] == token then return 'ok' end
  if fields[11] == try then return 'same' end
  redis.call('HINCRBY', totals, 'twice', 1)
  return 'late'
end

if state == 'waiting' then
  leave_line(id, user, fields[4], fields[5], fields[6])
else
  local took = now - tonumber(fields[8])
  leave_worker(id, fields[7])
  charge(user, took - tonumber(fields[9]))
  redis.call('HSET', totals, 'mean', seconds_of_a_prompt() * 0.9 + took * 0.1)
end
redis.call('ZREM', P .. 'mine:' .. user, id)
redis.call('HDEL', key, 'body', 'fit', 'model', 'passed', 'link')
redis.call('HSET', key, 'state', 'ended', 'status', status, 'entry', entry, 'ended_by', token, 'ended_try', try)
redis.call('EXPIRE', key, keep)
redis.call('ZADD', P .. 'history:' .. user, redis.call('HINCRBY', totals, 'ended', 1), id)
redis.call('ZREMRANGEBYRANK', P .. 'history:' .. user, 0, -most - 1)
redis.call('EXPIRE', P .. 'history:' .. user, keep)

for place = 11 + told + count, #ARGV do
  redis.call('SET', P .. 'file:' .. ARGV[place], user, 'EX', keep)
end
if client ~= '' then
  local channel = 'client:' .. user .. ':' .. client
  -- The first `told` frames have already been sent; they are stored for a client that is not connected.
  for place = 11, 10 + told + count do
    local event = redis.call('XADD', P .. 'events:' .. channel, 'MAXLEN', '~', 1000, '*', 'frame', ARGV[place])
    if place > 10 + told then
      redis.call('PUBLISH', P .. channel, event .. '|' .. ARGV[place])
    end
  end
  redis.call('EXPIRE', P .. 'events:' .. channel, keep)
end

-- Forget users with no prompts and no debt, a few at a time.
for _, other in ipairs(redis.call('ZRANGEBYSCORE', P .. 'virtual', '-inf', total('clock'), 'LIMIT', 0, 10)) do
  if redis.call('EXISTS', P .. 'mine:' .. other) == 0 then
    redis.call('ZREM', P .. 'virtual', other)
  end
end
tell_length()
return 'ok'
