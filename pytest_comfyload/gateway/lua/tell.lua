-- An event that a client must get even if it is away: it is kept in its stream, and told to its sockets.
local channel, frame, keep = ARGV[2], ARGV[3], tonumber(ARGV[4])
local event = redis.call('XADD', P .. 'events:' .. channel, 'MAXLEN', '~', 1000, '*', 'frame', frame)
redis.call('EXPIRE', P .. 'events:' .. channel, keep)
redis.call('PUBLISH', P .. channel, event .. '|' .. frame)
return event
