-- Renew the lease of a prompt that has shown progress.
-- Returns: ok | cancelled (its user interrupted it) | stale (it no longer runs under this token)
local id, token, lease = ARGV[2], ARGV[3], tonumber(ARGV[4])
local fields = redis.call('HMGET', P .. 'prompt:' .. id, 'state', 'token', 'cancelled')
if fields[1] ~= 'running' or fields[2] ~= token then
  return 'stale'
end
redis.call('ZADD', P .. 'leases', now + lease, id)
return fields[3] and 'cancelled' or 'ok'
