-- Common to all scripts. ARGV: key prefix, the epoch this process knows, this process's id, and the
-- request as JSON. Every script answers with an array whose first number says how it went; -1 means
-- that the store no longer knows the process (it came back empty, or took it for dead).
local P, EPOCH, OWNER = ARGV[1], ARGV[2], ARGV[3]
local q = cjson.decode(ARGV[4])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function estranged()
  if redis.call('GET', P .. 'epoch') ~= EPOCH then return true end
  local lease = redis.call('ZSCORE', P .. 'owners', OWNER)
  return not lease
end

-- Live sessions of a client, those of dead processes left out.
local function n_live(client)
  local live, owners = 0, redis.call('HGETALL', P .. 'live:' .. client)
  for i = 1, #owners, 2 do
    local lease = redis.call('ZSCORE', P .. 'owners', owners[i])
    if owners[i] == OWNER or (lease and tonumber(lease) > now) then live = live + owners[i + 1] end
  end
  return live
end

-- The field of the window that is charged when the clock says `start`, and whether it exists. So
-- many windows of a kind are kept; when the clock goes back behind all of them, the oldest is charged.
local function field(client, kind, start)
  local key, name = P .. 'win:' .. client, kind .. ':' .. start
  if redis.call('HEXISTS', key, name) == 1 then return name, true end
  local n, oldest = 0, nil
  for _, other in ipairs(redis.call('HKEYS', key)) do
    local k, s = string.match(other, '^(%a+:%a+):(-?%d+)$')
    if k == kind then
      n, s = n + 1, tonumber(s)
      if not oldest or s < oldest then oldest = s end
    end
  end
  if n >= q.kept then
    local old = string.format('%s:%.0f', kind, oldest)
    if tonumber(start) < oldest then return old, true end
    return name, false, old
  end
  return name, false
end

local function used(client, kind, start)
  local name, exists = field(client, kind, start)
  return exists and tonumber(redis.call('HGET', P .. 'win:' .. client, name)) or 0
end

-- Adds to a counter. Only spending opens a counter; giving back to one that is gone is void.
local function add(client, kind, start, amount)
  if amount == 0 then return end
  local key = P .. 'win:' .. client
  local name, exists, oldest = field(client, kind, start)
  if exists then
    if redis.call('HINCRBY', key, name, amount) < 0 then redis.call('HSET', key, name, 0) end
  elseif amount > 0 then
    if oldest then redis.call('HDEL', key, oldest) end
    redis.call('HSET', key, name, amount)
  end
  redis.call('EXPIRE', key, q.keep)
end

-- How many characters a window has room for.
local function room(w, shown)
  if w.each == 0 then return 2 ^ 52 end
  return math.max(0, math.floor((w.limit - shown) / w.each))
end

-- What the counters show, the least room, and the index of the window that cannot cover `need`; of
-- several the one that resets last.
local function look(client, windows, need)
  local shown, least, short, last = {}, 2 ^ 52, nil, nil
  for i, w in ipairs(windows) do
    shown[i] = used(client, w.kind, w.start)
    local r = room(w, shown[i])
    least = math.min(least, r)
    if r < need and (not short or w['end'] >= last) then short, last = i, w['end'] end
  end
  return shown, least, short
end

local function spend(client, windows, count)
  for _, w in ipairs(windows) do add(client, w.kind, w.start, count * w.each) end
end

-- What may be reserved beyond the need.
local function spare(least, need, live, ahead)
  return math.min(ahead, math.floor((least - need) / (q.share * math.max(1, live))))
end

local function give_back(client, adjust)
  for _, a in ipairs(adjust) do
    for _, w in ipairs(a.amounts) do add(client, w.kind, w.start, w.amount) end
    local key = P .. 'reserved:' .. OWNER
    if redis.call('HEXISTS', key, a.session) == 1 then
      if redis.call('HINCRBY', key, a.session, a.characters) < 0 then
        redis.call('HSET', key, a.session, 0)
      end
    end
  end
end

local function enter(client, session, record, reserved)
  if redis.call('HSETNX', P .. 'owned:' .. OWNER, session, record) == 1 then
    redis.call('HSET', P .. 'reserved:' .. OWNER, session, reserved)
    redis.call('HINCRBY', P .. 'live:' .. client, OWNER, 1)
  end
end

local function leave(client, session, owner)
  if redis.call('HDEL', P .. 'owned:' .. owner, session) == 0 then return end
  redis.call('HDEL', P .. 'reserved:' .. owner, session)
  if redis.call('HINCRBY', P .. 'live:' .. client, owner, -1) <= 0 then
    redis.call('HDEL', P .. 'live:' .. client, owner)
  end
end

-- Adds a row to the sums of its day, or takes it off again with `sign` -1.
local function sum(r, sign)
  local day = math.floor(r.started_ms / 86400000)
  local group = cjson.encode({ r.client, r.model, r.voice })
  local key = string.format('%sday:%.0f', P, day)
  local function inc(name, value)
    if value ~= 0 then redis.call('HINCRBY', key, name .. group, sign * value) end
  end
  inc('sessions', r.outcome ~= 'refused' and 1 or 0)
  inc('lost', r.outcome == 'lost' and 1 or 0)
  inc('refused', r.outcome == 'refused' and 1 or 0)
  inc('characters', r.characters_forwarded)
  inc('characters_asked', r.characters_asked)
  inc('characters_refused', r.characters_refused)
  inc('milli_credits', r.milli_credits)
  inc('audio_ms', r.audio_ms)
  inc('messages_up', r.messages_up)
  inc('messages_down', r.messages_down)
  inc('bytes_up', r.bytes_up)
  inc('bytes_down', r.bytes_down)
  redis.call('ZADD', P .. 'days', day, string.format('%.0f', day))
end

local function write(record)
  return redis.call('XADD', P .. 'ledger', '*', 'row', record)
end
