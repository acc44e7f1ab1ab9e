-- wrk: asks about one picture after the other. Environment: ROUTE, BODY with URL in it, PICTURES (URLs, with spaces).
local bodies = {}
for url in os.getenv("PICTURES"):gmatch("%S+") do
  bodies[#bodies + 1] = os.getenv("BODY"):gsub("URL", url)
end

local route = os.getenv("ROUTE")
local headers = { ["content-type"] = "application/json" }
local next = 0

function request()
  next = next % #bodies + 1
  return wrk.format("POST", route, headers, bodies[next])
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50": %.3f, "p99": %.3f, "errors": %d, "not_2xx": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    e.connect + e.read + e.write + e.timeout, e.status))
end
