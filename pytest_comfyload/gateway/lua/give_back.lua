-- Return a prompt to its old place in the queue. Returns: ok | stale (it no longer runs under this token)
-- With a suspicion that the worker may still execute it, the worker is queried when it is reachable again.
local id, token, suspicion = ARGV[2], ARGV[3], ARGV[4]
local key = P .. 'prompt:' .. id
local fields = redis.call('HMGET', key, 'state', 'token', 'user', 'priority', 'number', 'order', 'size', 'worker',
  'estimate', 'tries')
if fields[1] ~= 'running' or fields[2] ~= token then
  return 'stale'
end
leave_worker(id, fields[8])
redis.call('HSET', key, 'state', 'waiting')
charge(fields[3], -tonumber(fields[9]))
join_line(id, fields[3], fields[4], fields[5], fields[6], fields[7])
redis.call('HINCRBY', totals, 'retries', 1)
if suspicion ~= '' then
  redis.call('HSET', P .. 'suspects:' .. fields[8], id, fields[10])
end
tell_length()
return 'ok'
