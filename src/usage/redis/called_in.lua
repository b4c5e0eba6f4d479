-- Clients for whom too little was found in the last second.
return redis.call('ZRANGEBYSCORE', P .. 'called_in', now - 1000, '+inf')
