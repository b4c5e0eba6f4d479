-- A session is settled once. Its row may be there as lost, when its process had been taken for dead;
-- then the true row takes that one's place.
if estranged() then return { -1 } end
if not redis.call('SET', P .. 'settled:' .. q.session, 1, 'NX', 'EX', 86400) then return { 0 } end
local lost = redis.call('GET', P .. 'lost:' .. q.session)
if lost then
  local id, row = string.match(lost, '^(%S+) (.*)$')
  redis.call('XDEL', P .. 'ledger', id)
  redis.call('DEL', P .. 'lost:' .. q.session)
  sum(cjson.decode(row), -1)
end
leave(q.client, q.session, OWNER)
give_back(q.client, q.adjust)
write(q.record)
sum(cjson.decode(q.record), 1)
return { 1 }
