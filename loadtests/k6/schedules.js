// GET /concerts/{concertId}/schedules: people read the dates of a random concert.

import { sleep } from 'k6';

import { ALL_CONCERTS, anyConcert } from './lib/env.js';
import { letIn, myself, sendHome } from './lib/people.js';
import { THINK_SECONDS, options as optionsOf } from './lib/profile.js';
import { recognise, schedules } from './lib/shop.js';

export const options = optionsOf('schedules');

export function setup() {
  return letIn('schedules', schedules, ALL_CONCERTS);
}

export default function ({ fans, pages }) {
  recognise(pages);
  const me = myself(fans);
  if (me) schedules(me.token, anyConcert());
  sleep(THINK_SECONDS);
}

export function teardown({ fans }) {
  sendHome(fans);
}
