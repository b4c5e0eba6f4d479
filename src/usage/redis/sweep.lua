-- Enters some sessions of processes whose lease has run out as lost.
local lost = 0
for _, owner in ipairs(redis.call('ZRANGEBYSCORE', P .. 'owners', '-inf', now)) do
  if owner ~= OWNER and lost == 0 then
    local held = redis.call('HRANDFIELD', P .. 'owned:' .. owner, q.batch, 'WITHVALUES')
    for i = 1, #held, 2 do
      local session, row = held[i], cjson.decode(held[i + 1])
      local reserved = tonumber(redis.call('HGET', P .. 'reserved:' .. owner, session)) or 0
      row.characters_asked = reserved
      row.characters_forwarded = reserved
      row.milli_credits = reserved * row.milli_credits
      row.ended_ms = math.max(now, row.started_ms)
      local text = cjson.encode(row)
      local id = write(text)
      sum(row, 1)
      redis.call('SET', P .. 'lost:' .. session, id .. ' ' .. text, 'EX', 604800)
      leave(row.client, session, owner)
      lost = lost + 1
    end
    if #held == 0 then
      redis.call('ZREM', P .. 'owners', owner)
      redis.call('DEL', P .. 'owned:' .. owner, P .. 'reserved:' .. owner)
    end
  end
end
return { 1, lost }
