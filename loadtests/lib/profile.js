// How hard a script pushes, and what it must stand: k6's options from a profile of profiles.json
// and from the environment, which changes any number of it.
//
//   PROFILE              baseline (default), x10, rush, hotseat, soak, smoke
//   STAGES               of a profile with stages, as in 15s:50,15s:150,15s:0
//   VUS, RATE, DURATION  of a profile with a constant load
//   THINK_SECONDS        pause after each iteration
//   POLL_SECONDS         pause between two looks at the order; default of some profiles: what
//                        the gateway's Retry-After says
//   MAX_AVG_MS, MAX_P99_MS, MAX_FAILED    thresholds: milliseconds, milliseconds, share
//   PREPARED_MEGABYTES   what setup() may hand out, over all virtual users; see people.js

import { number, text } from './env.js';

const PROFILES = JSON.parse(open(import.meta.resolve('./profiles.json')));

/** The routes that the whole journey measures. */
export const ROUTES = ['enqueue', 'order', 'concerts', 'schedules', 'seats', 'reserve', 'pay'];

const name = text('PROFILE', 'baseline');
const profile = PROFILES[name];
if (!profile) {
  throw new Error(`PROFILE must be one of ${Object.keys(PROFILES).join(', ')}, not ${name}`);
}

export const THINK_SECONDS = number('THINK_SECONDS', profile.thinkSeconds ?? 1);
/** Undefined: as long as the gateway says. */
export const POLL_SECONDS = number('POLL_SECONDS', profile.pollSeconds);

/** k6's options for a script that is called `script` and measures these routes. */
export function options(script, measures = [script]) {
  return {
    scenarios: { [script]: scenarioOf(script) },
    thresholds: thresholds(measures),
    summaryTrendStats: ['avg', 'min', 'med', 'max', 'p(90)', 'p(95)', 'p(99)'],
    // The fewest tags that the report needs: each costs k6 time, on a machine that is shared.
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
  // What has begun is finished, unless it hangs.
  const changed = { gracefulStop: '60s', ...scenario };
  if (scenario.stages) {
    const stages = text('STAGES', '');
    changed.stages = stages ? stages.split(',').map(stageOf) : scenario.stages;
  }
  if (scenario.executor === 'ramping-vus') {
    changed.startVUs = 0;
    changed.gracefulRampDown = '60s';
  }
  if (scenario.vus) changed.vus = number('VUS', scenario.vus);
  if (scenario.rate) changed.rate = number('RATE', scenario.rate);
  if (scenario.duration) changed.duration = text('DURATION', scenario.duration);
  return changed;
}

function stageOf(part) {
  const [duration, target] = part.split(':');
  if (!duration || !/^\d+$/.test(target ?? '')) {
    throw new Error('STAGES must look like 15s:50,15s:150,15s:0');
  }
  return { duration, target: Number(target) };
}

function thresholds(measures) {
  const failed = [`rate<${number('MAX_FAILED', 0.02)}`];
  const limits = {
    'http_req_duration{phase:run}': [
      `avg<${number('MAX_AVG_MS', profile.maxAvgMs ?? 50)}`,
      `p(99)<${number('MAX_P99_MS', profile.maxP99Ms ?? 200)}`,
    ],
    'http_req_failed{phase:run}': failed,
    'wrong_replies{phase:run}': failed,
    'http_reqs{phase:run}': [],
    dropped_iterations: ['count==0'],
  };
  // Without limits of their own: so that the summary tells each route apart.
  for (const route of measures) {
    limits[`http_req_duration{phase:run,name:${route}}`] = [];
    limits[`wrong_replies{phase:run,name:${route}}`] = [];
  }
  if (profile.hotSchedule) limits.seats_won = [`count==${number('SEATS', 150)}`];
  return limits;
}

/** The most users that are there at once. */
export function maxUsers(script) {
  const { stages, vus, preAllocatedVUs } = scenarioOf(script);
  return preAllocatedVUs ?? vus ?? Math.max(...stages.map((stage) => stage.target));
}

/** At least as many iterations as there will be in all, if none is faster than its pause. */
export function maxIterations(script) {
  const { executor, stages, vus, rate, duration } = scenarioOf(script);
  const perUser = executor.endsWith('arrival-rate') ? 1 : 1 / THINK_SECONDS;
  if (!stages) return Math.ceil((vus ?? rate) * perUser * seconds(duration)) + (vus ?? 0);
  let before = 0;
  let sum = 0;
  for (const stage of stages) {
    sum += ((before + stage.target) / 2) * seconds(stage.duration);
    before = stage.target;
  }
  return Math.ceil(sum * perUser) + maxUsers(script);
}

function seconds(duration) {
  const units = { ms: 0.001, s: 1, m: 60, h: 3600 };
  const parts = [...duration.matchAll(/([\d.]+)(ms|s|m|h)/g)];
  return parts.reduce((sum, [, value, unit]) => sum + Number(value) * units[unit], 0);
}
