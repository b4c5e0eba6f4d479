redis.call('ZADD', P .. 'owners', 'XX', 0, OWNER)
return { 1 }
