-- Queue a prompt, unless its id is already known.
-- Returns: ok NUMBER | same NUMBER (already queued) | taken (the id belongs to another user) | full | slow SECONDS
local id, user, client, priority, order = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6]
local body, size, fit, model, created = ARGV[7], tonumber(ARGV[8]), ARGV[9], ARGV[10], ARGV[11]
local most, most_bytes, interval, burst = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])

local key = P .. 'prompt:' .. id
local known = redis.call('HMGET', key, 'user', 'number')
if known[1] then
  return known[1] == user and {'same', known[2]} or {'taken'}
end

local due = math.max(now, tonumber(redis.call('GET', P .. 'rate:' .. user) or 0))
if due - now > burst * interval then
  return {'slow', tostring(due - now - burst * interval)}
end
if total('waiting') >= most or total('bytes') + size > most_bytes then
  return {'full'}
end
if interval > 0 then
  redis.call('SET', P .. 'rate:' .. user, due + interval, 'EX', math.ceil(due + interval - now) + 1)
end

-- An idle user's virtual time is raised to the current one, so that idle time earns no credit.
if redis.call('EXISTS', P .. 'mine:' .. user) == 0 then
  local at = tonumber(redis.call('ZSCORE', P .. 'virtual', user) or 0)
  redis.call('ZADD', P .. 'virtual', math.max(at, total('clock')), user)
end
local number = redis.call('HINCRBY', totals, 'number', 1)
if order == 'front' then order = -number elseif order == '' then order = number end
redis.call('HSET', key, 'user', user, 'client', client, 'priority', priority, 'order', order, 'number', number,
  'body', body, 'size', size, 'fit', fit, 'model', model, 'created', created, 'state', 'waiting', 'tries', 0)
redis.call('ZADD', P .. 'mine:' .. user, number, id)
join_line(id, user, priority, number, order, size)
tell_length()
return {'ok', number}
