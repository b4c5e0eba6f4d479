redis.call('DEL', P .. 'token:' .. q.key)
redis.call('ZADD', P .. 'revoked', 'GT', now + q.ttl, q.key)
return { 1 }
