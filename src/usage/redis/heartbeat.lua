-- Answers whether the epoch is the one this process knows, and whether the process was taken for dead.
local epoch = redis.call('GET', P .. 'epoch')
if epoch ~= EPOCH then return { 0 } end
local known = redis.call('ZSCORE', P .. 'owners', OWNER)
redis.call('ZADD', P .. 'owners', now + q.lease, OWNER)
return { 1, known and 0 or 1 }
