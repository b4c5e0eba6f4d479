if estranged() then return { -1 } end
give_back(q.client, q.adjust)
local shown, least, short = look(q.client, q.charges, q.need)
if short then
  if q.call_in then redis.call('ZADD', P .. 'called_in', now, q.client) end
  local answer = { 0, short - 1 }
  for i, value in ipairs(shown) do answer[2 + i] = value end
  return answer
end
local granted = q.need + spare(least, q.need, n_live(q.client), q.ahead)
spend(q.client, q.charges, granted)
if redis.call('HEXISTS', P .. 'owned:' .. OWNER, q.session) == 1 then
  redis.call('HINCRBY', P .. 'reserved:' .. OWNER, q.session, granted)
end
local answer = { 1, granted }
for i, w in ipairs(q.charges) do answer[2 + i] = shown[i] + granted * w.each end
return answer
