// GET /concerts/schedules/{scheduleId}/seats: people read the seats of 20 dates.

import { sleep } from 'k6';

import { POPULAR_SCHEDULES, popularSchedule } from './lib/env.js';
import { letIn, myself, sendHome } from './lib/people.js';
import { THINK_SECONDS, options as optionsOf } from './lib/profile.js';
import { recognise, seats } from './lib/shop.js';

export const options = optionsOf('seats');

export function setup() {
  return letIn('seats', seats, POPULAR_SCHEDULES);
}

export default function ({ fans, pages }) {
  recognise(pages);
  const me = myself(fans);
  if (me) seats(me.token, popularSchedule());
  sleep(THINK_SECONDS);
}

export function teardown({ fans }) {
  sendHome(fans);
}
