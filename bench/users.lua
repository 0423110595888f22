-- wrk: every request is another user's, in turn. `wrk -s users.lua URL -- FILE`, one bearer token a line.
local requests = {}
local at = 0

function init(args)
  for token in io.lines(args[1]) do
    wrk.headers["Authorization"] = "Bearer " .. token
    requests[#requests + 1] = wrk.format("GET")
  end
end

function request()
  at = at % #requests + 1
  return requests[at]
end
