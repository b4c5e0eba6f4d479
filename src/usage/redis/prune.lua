-- Deletes some of what is older than `before` (a stream id, so Unix milliseconds of Redis's clock).
-- Counters and tokens expire by themselves.
local n = redis.call('XTRIM', P .. 'ledger', 'MINID', '~', q.before, 'LIMIT', q.batch)
local days = redis.call('ZRANGEBYSCORE', P .. 'days', '-inf', '(' .. q.day, 'LIMIT', 0, 10)
for _, day in ipairs(days) do
  redis.call('DEL', P .. 'day:' .. day)
  redis.call('ZREM', P .. 'days', day)
end
n = n + redis.call('ZREMRANGEBYSCORE', P .. 'revoked', '-inf', now)
redis.call('ZREMRANGEBYSCORE', P .. 'called_in', '-inf', now - 60000)
return { 1, n + #days }
