// The whole journey: enter, wait, browse, hold a seat, pay. Each iteration is a new person, who stops
// early only without a place, an admission or a seat.

import exec from 'k6/execution';
import { sleep } from 'k6';
import { Counter, Rate, Trend } from 'k6/metrics';

import { anyConcert, anySchedule, anySeat, anyUser, number, userOf } from './lib/env.js';
import { requireSeeded } from './lib/people.js';
import {
  POLL_SECONDS,
  ROUTES,
  THINK_SECONDS,
  lastSecond,
  options as optionsOf,
} from './lib/profile.js';
import {
  concerts,
  enqueue,
  order,
  pagesSeen,
  pay,
  recognise,
  reserve,
  schedules,
  seats,
} from './lib/shop.js';

export const options = optionsOf('journey', ROUTES);

const bought = new Counter('journeys_bought');
const stopped = new Counter('journeys_stopped');
const failed = new Rate('journeys_failed');
const waited = new Trend('journey_waited', true);
const polls = new Trend('journey_polls');

// The limits of a person's patience: waiting in line, and trying seats.
const MAX_WAIT_SECONDS = number('MAX_WAIT_SECONDS', 600);
const MAX_SEATS_TRIED = number('MAX_SEATS_TRIED', 5);
// A person who waits too long leaves before k6 ends the iteration, so that it counts as stopped.
const LAST_CALL_SECONDS = lastSecond('journey') - 3;

export function setup() {
  requireSeeded();
  return { first: anyUser(), pages: pagesSeen() };
}

export default function ({ first, pages }) {
  recognise(pages);
  const me = enqueue(userOf(exec.scenario.iterationInTest, first));
  const done = me !== null && wait(me) && buy(me);
  (done ? bought : stopped).add(1);
  failed.add(!done);
  sleep(THINK_SECONDS);
}

/** Waits in line; returns whether the person was admitted. */
function wait(me) {
  const began = Date.now();
  const lastCall = exec.scenario.startTime + LAST_CALL_SECONDS * 1000;
  const until = Math.min(began + MAX_WAIT_SECONDS * 1000, lastCall);
  let before = me.order;
  for (let asked = 1; Date.now() < until; asked += 1) {
    const place = order(me.token, before);
    if (place && place.order === 0) {
      waited.add(Date.now() - began);
      polls.add(asked);
      return true;
    }
    if (place) before = place.order;
    const pause = POLL_SECONDS ?? place?.retryAfter ?? 1;
    sleep(Math.max(0, Math.min(pause, (until - Date.now()) / 1000)));
  }
  return false;
}

/** Returns whether the person bought a seat. */
function buy(me) {
  concerts(me.token);
  schedules(me.token, anyConcert());
  seats(me.token, anySchedule());
  for (let tried = 0; tried < MAX_SEATS_TRIED; tried += 1) {
    const result = reserve(me, anySeat());
    if (!result) return false;
    if (!result.taken) return pay(me, result.reservationId) !== null;
  }
  return false;
}
