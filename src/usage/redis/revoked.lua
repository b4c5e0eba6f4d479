return redis.call('ZRANGEBYSCORE', P .. 'revoked', '(' .. now, '+inf')
