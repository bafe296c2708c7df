// For k6: sends prepared requests at a constant rate, one after the other and then from the first
// again, and stops at the first response that is no success. benchmarks/light.py starts it.
//
//   REQUESTS      a JSON file: [[method, path, token, body], …], of which the last two may be empty
//   RATE          requests per second; each connection sends one of them per second
//   WARM_UP       seconds that are not measured, before
//   SECONDS       seconds that are measured (tag phase=run)
//   START_AT      when the first request is sent, a Unix time in ms

import { SharedArray } from 'k6/data';
import exec from 'k6/execution';
import http from 'k6/http';
import { sleep } from 'k6';

const { BASE_URL, REQUESTS } = __ENV;
const [RATE, WARM_UP, SECONDS, START_AT] = ['RATE', 'WARM_UP', 'SECONDS', 'START_AT'].map(
  (name) => Number(__ENV[name]),
);
// One copy for all virtual users.
const requests = new SharedArray('requests', () => JSON.parse(open(REQUESTS)));

export const options = {
  scenarios: {
    light: {
      executor: 'constant-arrival-rate',
      rate: RATE,
      duration: `${WARM_UP + SECONDS}s`,
      preAllocatedVUs: RATE,
      gracefulStop: '10s',
    },
  },
  // No limits, so that the summary lists the measured phase.
  thresholds: { 'http_req_duration{phase:run}': [], 'http_reqs{phase:run}': [] },
  summaryTrendStats: ['avg', 'min', 'med', 'max', 'p(90)', 'p(95)', 'p(99)'],
  systemTags: [],
};

export function setup() {
  const early = START_AT - Date.now();
  if (early < 0) exec.test.abort(`k6 was ready ${-early} ms too late: is the machine busy?`);
  sleep(early / 1000);
}

export default function () {
  const number = exec.scenario.iterationInTest;
  const [method, path, token, body] = requests[number % requests.length];
  const headers = {};
  if (token) headers['X-Access-Token'] = token;
  if (body) headers['Content-Type'] = 'application/json';
  const response = http.request(method, BASE_URL + path, body || null, {
    headers,
    tags: { phase: number < RATE * WARM_UP ? 'warm-up' : 'run' },
    timeout: '10s',
  });
  if (response.status < 200 || response.status > 299) {
    const text = response.error || String(response.body).slice(0, 200);
    exec.test.abort(`${method} ${path} failed with status ${response.status}: ${text}`);
  }
}
