-- Put in front of the scripts that need it.

local function ms(id) return tonumber(string.match(id, '^%d+')) end

-- The id of the last event ever appended: the stream knows it also after everything was trimmed.
local function head(stream)
  local last = redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  if last then return last[1] end
  if redis.call('EXISTS', stream) == 0 then return '0' end
  local info = redis.call('XINFO', 'STREAM', stream)
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then
      return info[i + 1] == '0-0' and '0' or info[i + 1]
    end
  end
end
