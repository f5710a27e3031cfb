-- Put in front of push.lua: a call without items and changes.

local KEYS_OF_EACH, ARGUMENTS_OF_EACH, FIRST = 4, 3, 16
local prepare, report
