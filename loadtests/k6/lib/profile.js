// The load and the thresholds of a script: k6's options from a profile of profiles.json and from
// the environment.
//
//   PROFILE              baseline (default), x10, rush, hotseat, soak, smoke
//   STAGES               such as 15s:50,15s:150,15s:0: users, in rush people per second;
//                        for profiles with stages: baseline, x10, rush, smoke
//   VUS                  users; for hotseat
//   RATE                 people per second; for soak
//   DURATION             for hotseat and soak
//   PREALLOCATED_VUS     concurrent people of rush and soak; more than these are dropped, which
//                        breaks a threshold
//   THINK_SECONDS        pause after each iteration
//   POLL_SECONDS         pause between two polls of the order; default of some profiles: the
//                        gateway's Retry-After
//   MAX_AVG_MS, MAX_P99_MS, MAX_FAILED    thresholds: milliseconds, milliseconds, share
//   PREPARED_MEGABYTES   how much setup() may return, over all virtual users; see people.js
//
// A variable that the profile does not use is rejected.

import { number, text } from './env.js';

const PROFILES = JSON.parse(open(import.meta.resolve('../profiles.json')));

/** The routes that the whole journey measures. */
export const ROUTES = ['enqueue', 'order', 'concerts', 'schedules', 'seats', 'reserve', 'pay'];

/** How many seats one person may hold, by default (RESERVATION_MAX_SEATS and
 * RESERVATION_MAX_SEATS_PER_SCHEDULE). */
export const SEATS_EACH = 8;

// Scripts that need no prepared people.
const ALONE = ['enqueue', 'journey'];

const name = text('PROFILE', 'baseline');
const profile = PROFILES[name];
if (!profile) {
  throw new Error(`PROFILE must be one of ${Object.keys(PROFILES).join(', ')}, not ${name}`);
}

const MAX_FAILED = number('MAX_FAILED', 0.02);
export const THINK_SECONDS = number('THINK_SECONDS', profile.thinkSeconds ?? 1);
/** Undefined: as the gateway says. */
export const POLL_SECONDS = number('POLL_SECONDS', profile.pollSeconds);

/** k6's options for the script named `script`, which measures these routes. */
export function options(script, measures = [script]) {
  return {
    scenarios: { [script]: scenarioOf(script) },
    thresholds: thresholds(script, measures),
    // Not an option of k6, but shown by `k6 inspect`: the people to prepare, see people.js.
    ext: { frontrow: peopleOf(script) },
    summaryTrendStats: ['avg', 'min', 'med', 'max', 'p(90)', 'p(95)', 'p(99)'],
    // Only the tags that the report needs: each costs k6 time on the shared machine.
    systemTags: ['name', 'status', 'expected_response', 'error_code'],
    setupTimeout: '300s',
    teardownTimeout: '120s',
    batch: 32,
    batchPerHost: 32,
  };
}

function scenarioOf(script) {
  const scenario = profile[script === 'journey' ? 'journey' : 'route'];
  if (!scenario || !(profile.only ?? [script]).includes(script)) {
    throw new Error(`the profile ${name} is for ${profile.only.join(', ')}, not for ${script}`);
  }
  // Lets started iterations end, unless they hang.
  const changed = { gracefulStop: '60s', ...scenario };
  for (const [variable, [key, read]] of Object.entries(CHANGES)) {
    if (!text(variable, '')) continue;
    if (!(key in scenario)) throw new Error(`${variable} changes nothing in the profile ${name}`);
    changed[key] = read(variable);
  }
  if (scenario.executor === 'ramping-vus') {
    changed.startVUs = 0;
    changed.gracefulRampDown = '10m'; // at most: gracefulStop ends it
  }
  return changed;
}

const DURATION = /^([\d.]+(ms|s|m|h))+$/;

// Variable -> the option of k6 that it changes, and its parser.
const CHANGES = {
  STAGES: ['stages', (variable) => text(variable).split(',').map(stageOf)],
  VUS: ['vus', whole],
  RATE: ['rate', whole],
  DURATION: ['duration', lasting],
  PREALLOCATED_VUS: ['preAllocatedVUs', whole],
};

function whole(variable) {
  const value = number(variable);
  if (Number.isInteger(value) && value > 0) return value;
  throw new Error(`${variable} must be a whole number from 1 up, not ${value}`);
}

function lasting(variable) {
  const value = text(variable);
  if (DURATION.test(value)) return value;
  throw new Error(`${variable} must look like 90s or 1h30m, not ${value}`);
}

function stageOf(part) {
  const [duration, target] = part.split(':');
  if (!DURATION.test(duration) || !/^\d+$/.test(target ?? '')) {
    throw new Error('STAGES must look like 15s:50,15s:150,15s:0');
  }
  return { duration, target: Number(target) };
}

function thresholds(script, measures) {
  const failed = [`rate<${MAX_FAILED}`];
  const limits = {
    'http_req_duration{phase:run}': [
      `avg<${number('MAX_AVG_MS', profile.maxAvgMs ?? 50)}`,
      `p(99)<${number('MAX_P99_MS', profile.maxP99Ms ?? 200)}`,
    ],
    'http_req_failed{phase:run}': failed,
    'wrong_replies{phase:run}': failed,
    // A person who cannot be prepared sends no request, which must not count as success.
    'wrong_replies{phase:prepare}': ['rate==0'],
    dropped_iterations: ['count==0'],
    ...profile.limits,
  };
  for (const route of measures) {
    // For k6 a limit on a metric without samples holds: so require samples.
    limits[`http_reqs{phase:run,name:${route}}`] = ['count>0'];
    // No limits, so that the summary only lists each route.
    limits[`http_req_duration{phase:run,name:${route}}`] = [];
    limits[`wrong_replies{phase:run,name:${route}}`] = [];
  }
  if (script === 'reserve') limits['seats_won{phase:run}'] = ['count>0'];
  if (script === 'journey') {
    // Everybody who arrives buys (k6 does not start the last one). In other profiles the number
    // of iterations depends on the waiting time.
    const arrive = isOpen(script) ? maxIterations(script) - 1 : 0;
    const least = Math.max(1, Math.floor((1 - MAX_FAILED) * arrive));
    limits.journeys_bought = [`count>=${least}`];
    limits.journeys_failed = failed;
  }
  if (profile.hotSchedule) limits.seats_won = [`count==${number('SEATS', 150)}`];
  return limits;
}

/** Whether people arrive at a fixed rate (an open model). */
function isOpen(script) {
  return scenarioOf(script).executor.endsWith('arrival-rate');
}

/** The most concurrent users. */
export function maxUsers(script) {
  const { stages, vus, preAllocatedVUs } = scenarioOf(script);
  return preAllocatedVUs ?? vus ?? Math.max(...stages.map((stage) => stage.target));
}

/** An upper bound of the number of iterations, if none is shorter than its pause; in an open model
 * the number of arrivals. */
export function maxIterations(script) {
  const { stages, vus, rate, duration } = scenarioOf(script);
  if (vus) return Math.ceil(vus * turns(seconds(duration))) + vus;
  if (!stages) return Math.ceil(rate * seconds(duration));
  let before = 0;
  let sum = 0;
  for (const stage of stages) {
    sum += ((before + stage.target) / 2) * seconds(stage.duration);
    before = stage.target;
  }
  return Math.ceil(isOpen(script) ? sum : turns(sum) + maxUsers(script));
}

function turns(time) {
  return time / THINK_SECONDS;
}

/** Seconds after the start at which k6 ends iterations that still run. */
export function lastSecond(script) {
  const { stages, duration, gracefulStop } = scenarioOf(script);
  const each = stages ? stages.map((stage) => stage.duration) : [duration];
  return [...each, gracefulStop].reduce((sum, part) => sum + seconds(part), 0);
}

// Memory of one person in a virtual user.
const BYTES_EACH = 400;
const PREPARED_BYTES = number('PREPARED_MEGABYTES', 250) * 1e6;

/** The people to prepare before the script: {people: how many, holds: whether each holds a seat,
 * in_setup: whether setup() can return them}. k6 copies the result of setup() to every virtual
 * user, which takes memory and, while users arrive, processor time. */
export function peopleOf(script) {
  const holds = script === 'pay';
  const people = peopleNeeded(script);
  return { people, holds, in_setup: people * BYTES_EACH * maxUsers(script) <= PREPARED_BYTES };
}

function peopleNeeded(script) {
  if (ALONE.includes(script)) return 0;
  if (script === 'pay') return maxIterations(script);
  if (script === 'reserve') return Math.ceil(maxIterations(script) / SEATS_EACH);
  return maxUsers(script);
}

function seconds(duration) {
  const units = { ms: 0.001, s: 1, m: 60, h: 3600 };
  const parts = [...duration.matchAll(/([\d.]+)(ms|s|m|h)/g)];
  return parts.reduce((sum, [, value, unit]) => sum + Number(value) * units[unit], 0);
}
