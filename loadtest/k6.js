// k6's users of a polyhead server, in an open loop: each iteration begins at its time.
//
//   k6 run loadtest/k6.js
//   k6 run --env TARGET=host:50051 --env RATE=500 --env REQUEST=../request.json loadtest/k6.js
//
// With TLS: --env TLS=1; with a token: --env POLYHEAD_TOKEN=polyhead.ci.…

import { check } from "k6";
import { Counter } from "k6/metrics";
import grpc from "k6/net/grpc";

const client = new grpc.Client();
client.load(["../protos"], "polyhead/v1/attention.proto"); // relative to this script
const request = JSON.parse(open(__ENV.REQUEST || "request.json"));
const metadata = __ENV.POLYHEAD_TOKEN ? { authorization: `Bearer ${__ENV.POLYHEAD_TOKEN}` } : {};
const failures = new Counter("polyhead_failures");

export const options = {
  scenarios: {
    open: {
      executor: "constant-arrival-rate",
      rate: Number(__ENV.RATE || 200),
      timeUnit: "1s",
      duration: __ENV.DURATION || "30s",
      preAllocatedVUs: 50,
      maxVUs: 500,
    },
  },
  thresholds: {
    checks: ["rate==1"],
    dropped_iterations: ["count==0"], // otherwise all users were busy, and the rate was not reached
    grpc_req_duration: ["p(99)<50"],
  },
};

export default function attend() {
  if (__ITER === 0) {
    client.connect(__ENV.TARGET || "localhost:50051", { plaintext: !__ENV.TLS });
  }
  const response = client.invoke("polyhead.v1.AttentionService/Attend", request, {
    metadata,
    timeout: "10s",
  });
  if (!check(response, { answered: (r) => r.status === grpc.StatusOK })) {
    failures.add(1, { status: String(response.status) });
  }
}
