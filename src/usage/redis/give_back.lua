if estranged() then return { -1 } end
give_back(q.client, q.adjust)
return { 1 }
