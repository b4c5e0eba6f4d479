if estranged() then return { -1 } end
local live = n_live(q.client)
-- A request that was given up and settled, and is carried out only now, must not take a slot.
if redis.call('EXISTS', P .. 'settled:' .. q.session) == 1 then return { 2, live } end
if live >= q.max then return { 2, live } end
local begun, _, short = look(q.client, q.starts, 1)
if short then return { 3, short - 1, begun[short] } end
local spent, least, spent_short = look(q.client, q.spending, 1)
if spent_short and not q.even_if_spent then return { 4, spent_short - 1, spent[spent_short] } end
local ahead = spare(least, 0, (live + 1) * q.first_share, q.ahead)
spend(q.client, q.starts, 1)
spend(q.client, q.spending, ahead)
enter(q.client, q.session, q.record, ahead)
local answer = { 1, ahead }
for i, w in ipairs(q.spending) do answer[#answer + 1] = spent[i] + ahead * w.each end
for i, _ in ipairs(q.starts) do answer[#answer + 1] = begun[i] + 1 end
return answer
