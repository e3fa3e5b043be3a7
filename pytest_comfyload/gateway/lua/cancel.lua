-- Delete waiting prompts of a user, and mark running ones as cancelled for the gateways that drive their workers.
-- Returns the workers to interrupt, each followed by its prompt.
local user, waiting, running = ARGV[2], ARGV[3] == '1', ARGV[4] == '1'
local found = {}
for place = 5, #ARGV do
  local id = ARGV[place]
  local key = P .. 'prompt:' .. id
  local fields = redis.call('HMGET', key, 'user', 'state', 'priority', 'number', 'size', 'worker')
  if fields[1] == user and fields[2] == 'waiting' and waiting then
    leave_line(id, user, fields[3], fields[4], fields[5])
    redis.call('ZREM', P .. 'mine:' .. user, id)
    redis.call('DEL', key)
  elseif fields[1] == user and fields[2] == 'running' and running then
    redis.call('HSET', key, 'cancelled', 1)
    found[#found + 1] = fields[6]
    found[#found + 1] = id
  end
end
tell_length()
return found
