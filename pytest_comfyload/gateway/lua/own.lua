-- Let a gateway drive a worker that no other gateway drives, or renew its lease; a lease of 0 releases the worker.
-- Returns: 1 if the gateway drives the worker now | 0
local worker, gateway, lease = ARGV[2], ARGV[3], tonumber(ARGV[4])
local key = P .. 'owner:' .. worker
local owner = redis.call('GET', key)
if owner and owner ~= gateway then
  return 0
end
if lease == 0 then
  redis.call('DEL', key)
  return 0
end
redis.call('SET', key, gateway, 'PX', math.floor(lease * 1000))
return 1
