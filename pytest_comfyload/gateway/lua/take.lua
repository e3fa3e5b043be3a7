-- Take the next prompt for a worker, or return the prompt that it already has.
-- Returns: new FIELDS (also if this call is repeated) | found FIELDS (the worker already has it) | none | not owner
-- WANTED is a prompt that was returned to the queue although the worker still executes it: its last try is continued.
local worker, gateway, token, lease = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local loaded, link, wanted = ARGV[6], ARGV[7], ARGV[8] or ''
local USERS, WINDOW, PASSED = 64, 8, 4  -- turns and prompts to look at; how often to pass over a first

local function answer(word, id)
  local fields = redis.call('HMGET', P .. 'prompt:' .. id, 'body', 'user', 'client', 'tries', 'number', 'created',
    'link')
  return {word, id, unpack(fields)}
end

if redis.call('GET', P .. 'owner:' .. worker) ~= gateway then
  return {'not owner'}
end
local held = redis.call('HGET', P .. 'running', worker)
if held then
  local word = redis.call('HGET', P .. 'prompt:' .. held, 'token') == token and 'new' or 'found'
  redis.call('HSET', P .. 'prompt:' .. held, 'token', token)
  redis.call('ZADD', P .. 'leases', now + lease, held)
  return answer(word, held)
end

local function begin(id, word)
  local key = P .. 'prompt:' .. id
  local fields = redis.call('HMGET', key, 'user', 'priority', 'number', 'size')
  local user, estimate = fields[1], seconds_of_a_prompt()
  leave_line(id, user, fields[2], fields[3], fields[4])
  if word == 'new' then
    redis.call('HINCRBY', key, 'tries', 1)
    redis.call('HSET', key, 'link', link)
  end
  redis.call('HSET', key, 'state', 'running', 'worker', worker, 'token', token, 'taken', now, 'estimate', estimate)
  redis.call('HSET', P .. 'running', worker, id)
  redis.call('ZADD', P .. 'leases', now + lease, id)
  local at = tonumber(redis.call('ZSCORE', P .. 'virtual', user) or 0)
  redis.call('HSET', totals, 'clock', math.max(total('clock'), at))
  charge(user, estimate)
  return answer(word, id)
end

if wanted ~= '' then
  return redis.call('HGET', P .. 'prompt:' .. wanted, 'state') == 'waiting' and begin(wanted, 'found') or {'none'}
end

-- Return the first prompt that this worker can execute, or one of the user's next few whose model it has loaded.
local function choose(turn)
  local first, near
  for _, member in ipairs(redis.call('ZRANGE', P .. 'waits:' .. turn, 0, WINDOW - 1)) do
    local id = string.sub(member, 17)
    local fields = redis.call('HMGET', P .. 'prompt:' .. id, 'fit', 'model', 'passed')
    if fields[1] == '' or string.find(fields[1], ',' .. worker .. ',', 1, true) then
      if not first then
        first = id
        if fields[2] == loaded or tonumber(fields[3] or 0) >= PASSED then
          return first
        end
      elseif loaded ~= '' and fields[2] == loaded then
        near = id
        break
      end
    end
  end
  if near then
    redis.call('HINCRBY', P .. 'prompt:' .. first, 'passed', 1)
  end
  return near or first
end

for _, turn in ipairs(redis.call('ZRANGE', P .. 'turns', 0, USERS - 1)) do
  local id = choose(turn)
  if id then
    return begin(id, 'new')
  end
end
return {'none'}
