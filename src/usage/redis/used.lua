if estranged() then return { -1 } end
local answer = { 1 }
for i, w in ipairs(q.keys) do answer[1 + i] = used(q.client, w.kind, w.start) end
return answer
