-- A gateway takes a worker that no other drives, or goes on driving it; a lease of 0 leaves it to others.
-- Answers 1 where the gateway drives it now.
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
