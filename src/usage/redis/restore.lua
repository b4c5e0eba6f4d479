-- Puts back counters that this process knows; none is ever lowered. Answers how many were raised.
local raised = 0
for _, w in ipairs(q.windows) do
  local shown = used(w.client, w.kind, w.start)
  if shown < w.used then
    add(w.client, w.kind, w.start, w.used - shown)
    raised = raised + 1
  end
end
return { 1, raised }
