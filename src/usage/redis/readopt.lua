if estranged() then return { -1 } end
for _, s in ipairs(q.sessions) do
  -- One that has ended since it was counted among the live would hold its slot for good.
  if redis.call('EXISTS', P .. 'settled:' .. s.session) == 0 then
    enter(s.client, s.session, s.record, s.reserved)
  end
end
return { 1 }
