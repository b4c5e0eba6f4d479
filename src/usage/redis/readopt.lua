if estranged() then return { -1 } end
for _, s in ipairs(q.sessions) do enter(s.client, s.session, s.record, s.reserved) end
return { 1 }
