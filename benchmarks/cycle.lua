-- For wrk: sends the requests of a file, one after the other and then round again.
-- wrk ... -s cycle.lua URL -- FILE; a line is METHOD <tab> PATH <tab> TOKEN <tab> BODY, of which
-- TOKEN and BODY may be empty. Ends with one line of JSON. Wants one thread (-t 1).

local requests = {}
local threads = {}
issued = 0 -- global, so that done() can read it from outside of the thread

function setup(thread)
  threads[#threads + 1] = thread
end

function init(arguments)
  for line in io.lines(arguments[1]) do
    local method, path, token, body = line:match("^(%u+)\t([^\t]+)\t([^\t]*)\t(.*)$")
    local headers = {}
    if token ~= "" then headers["X-Access-Token"] = token end
    if body ~= "" then headers["Content-Type"] = "application/json" else body = nil end
    requests[#requests + 1] = wrk.format(method, path, headers, body)
  end
end

function request()
  issued = issued + 1
  return requests[(issued - 1) % #requests + 1]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "issued": %d, "seconds": %f, "p50_ms": %.3f, "p99_ms": %.3f,'
      .. ' "max_ms": %.3f, "not_2xx": %d, "socket_errors": %d, "timeouts": %d}\n',
    summary.requests, threads[1]:get("issued"), summary.duration / 1e6,
    latency:percentile(50) / 1000, latency:percentile(99) / 1000, latency.max / 1000,
    errors.status, errors.connect + errors.read + errors.write, errors.timeout
  ))
end
